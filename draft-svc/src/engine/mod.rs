//! The engine: one thread that owns the shallow layers and drafts for all streams, band by band.

mod scheduler;
mod sequence;

use crate::{Error, Result, session::DrafterProfile};
use dssd_common::{
    kv::KvCache,
    model::Decoder,
    policy::{Experience, PolicySpec},
};
use dssd_proto::v1::{DrafterLoad, DrafterMessage, VerifierMessage};
use scheduler::Scheduler;
use std::{sync::mpsc, thread};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::Status;

/// Messages to the verifier of one stream; an error ends the stream.
///
/// A drafter sends at most a Ready, a Resync and a Proposal for each message that it gets.
pub type Outbox = tokio::sync::mpsc::Sender<std::result::Result<DrafterMessage, Status>>;

/// Names a stream for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(crate) u64);

pub(crate) enum Command {
    Open(StreamKey, Outbox),
    /// The permit is the stream's right to have one more message queued.
    Message(StreamKey, Box<VerifierMessage>, OwnedSemaphorePermit),
    Close(StreamKey),
    Load(oneshot::Sender<DrafterLoad>),
    Shutdown,
}

/// The way to the engine. Each stream may have a bounded number of messages queued, and streams
/// are bounded, so the queue has no bound of its own.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
}

/// What a drafting engine is made of.
pub struct EngineParts {
    /// The shallow layers, a band up to each exit.
    pub decoder: Decoder,
    /// Their cache.
    pub kv: KvCache,
    /// Drafts of streams that name no policy.
    pub default_policy: PolicySpec,
    /// What drafts taught: empty but for the heads' calibration.
    pub experience: Experience,
    /// What sessions check messages against.
    pub profile: DrafterProfile,
    /// Streams at once.
    pub max_sequences: usize,
    /// Rows of one step.
    pub max_step_rows: usize,
}

impl EngineHandle {
    /// Starts the engine on its own thread, which ends after [`EngineHandle::shutdown`].
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(parts: EngineParts) -> Result<(Self, thread::JoinHandle<()>)> {
        let (commands, inbox) = mpsc::channel();
        let scheduler = Scheduler::new(parts);
        let thread = thread::Builder::new()
            .name("draft-engine".to_owned())
            .spawn(move || scheduler.run(&inbox))
            .map_err(|error| Error::Config(format!("the engine's thread: {error}")))?;
        Ok((Self { commands }, thread))
    }

    /// A handle without an engine, and the commands that it sends.
    #[cfg(test)]
    pub(crate) fn detached() -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel();
        (Self { commands }, queue)
    }

    /// Sends a command; false if the engine has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// How busy the engine is.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn load(&self) -> Result<DrafterLoad> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Load(reply));
        answer.await.map_err(|_| Error::Draining)
    }

    /// Ends every stream with UNAVAILABLE, and then the thread.
    pub fn shutdown(&self) {
        self.send(Command::Shutdown);
    }
}
