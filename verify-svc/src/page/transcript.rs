//! An answer as lines of JSON.

use super::{
    pieces::Joiner,
    view::{ErrorView, Line, RoundView, TokensView},
};
use crate::Result;
use axum::body::Bytes;
use dssd_common::tokenizer::{TextStream, Tokenizer};
use dssd_proto::v1::{self, generate_stream_response::Event};
use std::sync::Arc;
use tonic::Status;

/// Turns the messages of one answer into lines.
pub(super) struct Transcript {
    joiner: Joiner,
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Transcript {
    /// Of an answer to `prompt`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(super) fn new(tokenizer: Option<Arc<Tokenizer>>, prompt: &[u32]) -> Result<Self> {
        let text = tokenizer
            .as_ref()
            .map(|tokenizer| TextStream::after(Arc::clone(tokenizer), prompt))
            .transpose()?;
        Ok(Self {
            joiner: Joiner::new(text),
            tokenizer,
        })
    }

    /// The line for a message, or for the error that ends the answer.
    pub(super) fn line(
        &mut self,
        message: std::result::Result<v1::GenerateStreamResponse, Status>,
    ) -> Option<Bytes> {
        let event = message.map(|message| message.event).transpose()?;
        let line = event.and_then(|event| Ok(self.view(event)?));
        let line = line.unwrap_or_else(|status| Line::Error(ErrorView::from(&status)));
        match serde_json::to_vec(&line) {
            Ok(mut json) => {
                json.push(b'\n');
                Some(json.into())
            }
            Err(error) => {
                // The page notices that the end is missing.
                tracing::error!(%error, "an answer cannot be written as JSON");
                None
            }
        }
    }

    fn view(&mut self, event: Event) -> Result<Line> {
        Ok(match event {
            Event::PromptInfo(info) => Line::PromptInfo(info.into()),
            Event::Round(round) => {
                let round = RoundView::new(round, self.tokenizer.as_deref());
                self.joiner.round(&round);
                Line::Round(round)
            }
            Event::Tokens(tokens) => Line::Tokens(TokensView {
                pieces: self.joiner.pieces(&tokens)?,
                first_index: tokens.first_index,
                token_ids: tokens.token_ids,
                text: tokens.text,
            }),
            Event::FinishInfo(info) => Line::FinishInfo(Box::new(info.into())),
        })
    }
}
