//! The engine: one thread that owns the model and the KV cache, and batches ragged rows of all
//! running generations into one pass after another.

mod cost;
mod early_exit;
mod generation;
mod link;
mod logprobs;
mod output;
mod pass;
mod request;
mod scheduler;
mod scoring;
mod work;

pub use request::{
    DraftRequest, Event, EventSender, GenerateRequest, Score, ScoreRequest, StopRules,
};

use crate::{
    Error, Result,
    drafters::{Drafters, LinkEvent},
};
use dssd_common::{kv::KvCache, model::Decoder, serve::ClientId, tokenizer::Tokenizer};
use dssd_proto::v1;
use scheduler::Scheduler;
use std::{
    sync::{Arc, mpsc},
    thread,
};
use tokio::sync::oneshot;

/// Names a generation for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationKey(pub(crate) u64);

/// Names one stream to a drafter, so that what an earlier stream still says is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkKey {
    pub(crate) generation: GenerationKey,
    pub(crate) attempt: u64,
}

/// What the engine may use at most.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Generations at once.
    pub max_sequences: usize,
    /// Rows of one step.
    pub max_step_rows: usize,
}

/// What the engine is told.
pub(crate) enum Command {
    Generate(Box<GenerateRequest>, oneshot::Sender<Result<()>>),
    Score(ScoreRequest),
    Abort(ClientId, String),
    Link { link: LinkKey, event: LinkEvent },
    Load(oneshot::Sender<v1::GetLoadResponse>),
    Drain,
    Shutdown,
}

/// The way to the engine. Commands are few for each open call – a request, its end, and one
/// message for each round – and open calls are bounded, so the queue has no bound of its own.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    /// Starts the engine on its own thread, which ends after [`EngineHandle::shutdown`].
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(parts: EngineParts) -> Result<(Self, thread::JoinHandle<()>)> {
        let (commands, inbox) = mpsc::channel();
        let handle = Self { commands };
        let scheduler = Scheduler::new(parts, handle.clone());
        let thread = thread::Builder::new()
            .name("verify-engine".to_owned())
            .spawn(move || scheduler.run(&inbox))
            .map_err(|error| Error::internal("the engine's thread", error))?;
        Ok((handle, thread))
    }

    /// Sends a command; false if the engine has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// Starts a generation; its events go to `request.events`.
    ///
    /// # Errors
    /// If the id is in use or there is no room.
    pub async fn generate(&self, request: GenerateRequest) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Generate(Box::new(request), reply));
        answer.await.map_err(|_| Error::Draining)?
    }

    /// Starts to score; the answer goes to `request.reply`.
    pub fn score(&self, request: ScoreRequest) {
        self.send(Command::Score(request));
    }

    /// Ends a generation of this client with what it has; an unknown id is fine.
    pub fn abort(&self, client: ClientId, request_id: String) {
        self.send(Command::Abort(client, request_id));
    }

    /// How busy the engine is.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn load(&self) -> Result<v1::GetLoadResponse> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Load(reply));
        answer.await.map_err(|_| Error::Draining)
    }

    /// Refuses new work, and ends the thread when all that runs is done.
    pub fn drain(&self) {
        self.send(Command::Drain);
    }

    /// Ends every generation with UNAVAILABLE, and then the thread.
    pub fn shutdown(&self) {
        self.send(Command::Shutdown);
    }
}

/// What an engine is made of.
pub struct EngineParts {
    /// The whole model, in one band, or cut at the exits where tokens may leave it.
    pub decoder: Decoder,
    /// Its cache.
    pub kv: KvCache,
    /// For text; without one, token ids are all there is.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Where drafts come from; `None` for plain decoding.
    pub drafters: Option<Drafters>,
    /// Bounds.
    pub limits: EngineLimits,
}
