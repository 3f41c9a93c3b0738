//! From the engine's events to messages for the client.

use super::Messages;
use crate::{
    Error,
    engine::{Event, EventReceiver},
};
use dssd_common::serve::Identity;
use dssd_proto::v1::{self, generate_stream_response::Event as Message};
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self},
};
use tonic::Status;

/// A streamed answer: `prompt_info`, then every event up to the last one.
pub(super) fn messages(
    prompt_info: v1::PromptInfo,
    events: EventReceiver,
    identity: Identity,
) -> Messages {
    let first = stream::iter([Ok(message(Message::PromptInfo(prompt_info)))]);
    let rest = stream::unfold(Some((events, identity)), |state| async {
        let (mut events, identity) = state?;
        Some(match events.recv().await {
            Some(Event::Tokens(tokens)) => (
                Ok(message(Message::Tokens(tokens))),
                Some((events, identity)),
            ),
            Some(Event::Round(round)) => {
                (Ok(message(Message::Round(round))), Some((events, identity)))
            }
            Some(Event::Finished(info)) => (Ok(message(Message::FinishInfo(*info))), None),
            Some(Event::Failed(error)) => (Err(error.into()), None),
            None => {
                let fault = || Error::internal("the engine", "it ended without an answer");
                let error = identity.in_log(fault);
                (Err(error.into()), None)
            }
        })
    });
    first.chain(rest).boxed()
}

fn message(event: Message) -> v1::GenerateStreamResponse {
    v1::GenerateStreamResponse { event: Some(event) }
}

/// The whole answer in one message.
pub(super) async fn collect(messages: Messages) -> Result<v1::GenerateResponse, Status> {
    messages
        .try_fold(
            v1::GenerateResponse::default(),
            |mut answer, message| async {
                match message.event {
                    Some(Message::PromptInfo(info)) => answer.prompt_info = Some(info),
                    Some(Message::Tokens(tokens)) => {
                        answer.token_ids.extend(tokens.token_ids);
                        answer.text.push_str(&tokens.text);
                        answer.logprobs.extend(tokens.logprobs);
                    }
                    Some(Message::Round(round)) => answer.rounds.push(round),
                    Some(Message::FinishInfo(info)) => answer.finish_info = Some(info),
                    None => {}
                }
                Ok(answer)
            },
        )
        .await
}
