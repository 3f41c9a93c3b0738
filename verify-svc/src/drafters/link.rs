//! One stream to one drafter, on behalf of one generation.

use super::{exclusion::Failure, table::Table};
use crate::{
    engine::{Command, EngineHandle, LinkKey},
    metrics::DrafterError,
};
use dssd_common::serve::Identity;
use dssd_proto::v1::{
    DrafterMessage, VerifierMessage, drafter_message, drafting_client::DraftingClient,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

/// Messages to a drafter that may wait: a Commit for each round, and rounds wait for answers.
const OUTBOX: usize = 64;
/// Messages of one drafter's stream that may wait for the engine; further ones stay with the
/// drafter, held back by flow control. An honest one has at most three under way.
const INBOX: usize = 16;
/// Largest message that is read: thousands of drafted tokens.
const MAX_MESSAGE_BYTES: usize = 128 << 10;
/// A stream that ends sooner than this without a Ready counts as a failure of its drafter.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends messages down a stream; dropping it half-closes the stream.
pub type LinkSender = mpsc::Sender<VerifierMessage>;

/// What the engine hears of a stream.
#[derive(Debug)]
pub enum LinkEvent {
    /// A fresh stream.
    Attached {
        /// The drafter's address.
        address: SocketAddr,
        /// The way to it.
        sender: LinkSender,
    },
    /// A message from the drafter.
    Message {
        /// What it says.
        message: DrafterMessage,
        /// The stream's right to have one more message queued.
        _permit: OwnedSemaphorePermit,
    },
    /// The stream is over, by the drafter's doing or the network's.
    Lost,
    /// The drafter does not do what this generation asks for (an exit head that it lacks, say).
    /// That is no fault of the drafter's, and others of its kind would say the same.
    Refused,
}

/// Connects a drafter, then carries messages until the stream ends.
pub(super) async fn run(
    table: &Table,
    engine: &EngineHandle,
    link: LinkKey,
    end: &CancellationToken,
    identity: &Identity,
) {
    loop {
        let (address, wire) = table.choose().await;
        let _stream = StreamCount { table, address };
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let mut client = DraftingClient::new(wire).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut call = Request::new(ReceiverStream::new(outbox));
        identity.inject(call.metadata_mut());
        let opening = tokio::time::timeout(OPEN_TIMEOUT, client.draft(call)).await;
        let mut inbox = match opening {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                table.exclude(address, failure(&status), &describe(&status));
                continue;
            }
            Err(_) => {
                table.exclude(
                    address,
                    (Failure::Loss, DrafterError::OpenTimeout),
                    "no answer to the opening of a stream",
                );
                continue;
            }
        };
        let send = |event| engine.send(Command::Link { link, event });
        if !send(LinkEvent::Attached { address, sender }) {
            return;
        }
        let room = Arc::new(Semaphore::new(INBOX));
        // The semaphore is never closed.
        while let Ok(_permit) = Arc::clone(&room).acquire_owned().await {
            match inbox.message().await {
                Ok(Some(message)) => {
                    take_note(table, address, &message);
                    if !send(LinkEvent::Message { message, _permit }) {
                        return;
                    }
                }
                Ok(None) => {
                    if !end.is_cancelled() {
                        let ended = (Failure::Loss, DrafterError::Ended);
                        table.exclude(address, ended, "the drafter ended the stream");
                    }
                    break;
                }
                Err(status) if status.code() == Code::InvalidArgument => {
                    tracing::warn!(%address, reason = status.message(), "drafter refuses a generation");
                    table.refused();
                    send(LinkEvent::Refused);
                    return;
                }
                Err(status) => {
                    if !end.is_cancelled() {
                        table.exclude(address, failure(&status), &describe(&status));
                    }
                    break;
                }
            }
        }
        // The engine asks for another one, so that it decides how often.
        send(LinkEvent::Lost);
        return;
    }
}

fn take_note(table: &Table, address: SocketAddr, message: &DrafterMessage) {
    let load = match &message.message {
        Some(drafter_message::Message::Ready(ready)) => {
            table.ready(address);
            ready.load
        }
        Some(drafter_message::Message::Proposal(proposal)) => proposal.load,
        Some(drafter_message::Message::Resync(_)) | None => None,
    };
    if let Some(load) = load {
        table.report(address, load);
    }
}

/// What the end of a stream says of its drafter. A full one is tried again soon, like one that
/// is gone for a moment; one that is of another model, is no drafter, or fails inside is not.
fn failure(status: &Status) -> (Failure, DrafterError) {
    match status.code() {
        Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::PermissionDenied => (Failure::Fault, DrafterError::Mismatch),
        Code::Internal | Code::DataLoss => (Failure::Fault, DrafterError::Fault),
        Code::ResourceExhausted => (Failure::Loss, DrafterError::Full),
        _ => (Failure::Loss, DrafterError::Unavailable),
    }
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Counts a stream of a drafter for as long as it lives.
struct StreamCount<'a> {
    table: &'a Table,
    address: SocketAddr,
}

impl Drop for StreamCount<'_> {
    fn drop(&mut self) {
        self.table.release(self.address);
    }
}
