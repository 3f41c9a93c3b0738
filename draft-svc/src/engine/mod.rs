//! The engine: one thread that owns the shallow layers and drafts for all streams, band by band.

mod foresight;
mod scheduler;
mod sequence;
mod spans;

use crate::{Error, Result, metrics::Metrics, session::DrafterProfile};
use dssd_common::{
    kv::KvCache,
    model::Decoder,
    policy::{Experience, PolicySpec},
    serve::WorkAhead,
};
use dssd_proto::v1::{DrafterLoad, DrafterMessage, ExitHeadAgreement, VerifierMessage};
use scheduler::Scheduler;
pub(crate) use spans::Spans;
use std::{
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};
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
    Open(StreamKey, Peer),
    Message(StreamKey, Incoming),
    Close(StreamKey),
    Describe(oneshot::Sender<Condition>),
    Shutdown,
}

/// The other end of a stream.
pub(crate) struct Peer {
    pub(crate) outbox: Outbox,
    /// Whether it runs on this machine, as far as can be known.
    pub(crate) same_host: bool,
    /// What the stream is known by.
    pub(crate) spans: Spans,
}

/// A message as it waits for the engine.
pub(crate) struct Incoming {
    pub(crate) message: Box<VerifierMessage>,
    pub(crate) arrived: Instant,
    /// The stream's right to have one more message queued.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// How the engine fares.
pub(crate) struct Condition {
    pub(crate) load: DrafterLoad,
    pub(crate) exit_heads: Vec<ExitHeadAgreement>,
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
    /// Whether drafts go on while the verifier runs.
    pub work_ahead: WorkAhead,
    /// What sessions check messages against.
    pub profile: DrafterProfile,
    /// Streams at once.
    pub max_sequences: usize,
    /// Rows of one step.
    pub max_step_rows: usize,
    /// Where steps are counted.
    pub metrics: Arc<Metrics>,
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

    /// How the engine fares.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) async fn condition(&self) -> Result<Condition> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Describe(reply));
        answer.await.map_err(|_| Error::Draining)
    }

    /// Ends every stream with UNAVAILABLE, and then the thread.
    pub fn shutdown(&self) {
        self.send(Command::Shutdown);
    }
}
