//! `POST /api/generate`: a streamed answer, one JSON object a line.

use super::{Page, failure::Failure, guard::check_json, request, transcript::Transcript};
use crate::Error;
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use dssd_common::serve::ClientId;
use dssd_proto::v1::{self, generate_request::Prompt, generation_server::Generation as _};
use futures::StreamExt as _;
use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};
use tonic::Request;

/// When a client of a page with too many answers may try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Starts a generation, which ends when the response is dropped.
pub(super) async fn generate(
    State(page): State<Page>,
    Extension(client): Extension<ClientId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    check_json(&headers)?;
    // The semaphore is never closed: this is want of room.
    let place = Arc::clone(&page.answers)
        .try_acquire_owned()
        .map_err(|_| too_many())?;
    let request = request::read(&body)?;
    let prompt = page.prompt_tokens(&request).await?;
    let mut transcript = Transcript::new(page.tokenizer.clone(), &prompt)?;
    let mut call = Request::new(request);
    call.extensions_mut().insert(client);
    let answer = page.server.generate_stream(call).await?;
    let lines = answer
        .into_inner()
        .inspect(move |_| _ = &place)
        .filter_map(move |message| ready(transcript.line(message)))
        .map(Ok::<_, Infallible>);
    let kind = (CONTENT_TYPE, "application/x-ndjson");
    Ok(([kind], Body::from_stream(lines)).into_response())
}

/// Answers of the page under way at once: probes and metrics are on the same port, and must always
/// find room there.
pub(super) const MOST_ANSWERS: usize = 64;

fn too_many() -> Error {
    Error::NoRoom {
        reason: format!("{MOST_ANSWERS} answers of the page are under way"),
        retry: RETRY_DELAY,
    }
}

impl Page {
    /// What the text of the first token follows.
    async fn prompt_tokens(&self, request: &v1::GenerateRequest) -> Result<Vec<u32>, Failure> {
        let text = match &request.prompt {
            Some(Prompt::Text(text)) => text.clone(),
            _ => return Ok(Vec::new()),
        };
        let asked = Request::new(v1::TokenizeRequest { text });
        let tokens = self.server.tokenize(asked).await?;
        Ok(tokens.into_inner().token_ids)
    }
}
