//! The engine: one thread that owns the model and the KV cache, and batches ragged rows of all
//! running generations into one pass after another.

mod cost;
mod desk;
mod early_exit;
mod events;
mod generation;
mod link;
mod logprobs;
mod output;
mod pass;
mod request;
mod scheduler;
mod scoring;
mod work;

pub use events::{Event, EventReceiver, EventSender};
pub use request::{DraftRequest, GenerateRequest, Score, ScoreRequest, StopRules};

use crate::{
    Error, Result,
    drafters::{Drafters, LinkEvent},
    metrics::Metrics,
};
use desk::{Desk, Place, Ticket, Usage};
use dssd_common::{kv::KvCache, model::Decoder, serve::ClientId, tokenizer::Tokenizer};
use dssd_proto::v1;
use scheduler::Scheduler;
use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time::timeout};

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
    /// Rows of one step that fill prompts, or are scored, while generations decode.
    pub max_prefill_rows: usize,
    /// Requests that wait for room.
    pub max_queue: usize,
    /// How long each waits.
    pub max_queue_wait: Duration,
    /// Time in which a client must read something.
    pub read_timeout: Duration,
    /// Rows that a step computes in little more time than one.
    pub free_rows: usize,
}

/// What the engine is told.
pub(crate) enum Command {
    Generate(Box<GenerateRequest>, Place, oneshot::Sender<Result<()>>),
    Score(ScoreRequest, Place),
    Abort(ClientId, String),
    Link { link: LinkKey, event: LinkEvent },
    Load(oneshot::Sender<v1::GetLoadResponse>),
    Drain,
    Shutdown,
}

/// The way to the engine. Commands are few for each running sequence – a request, its end, and a
/// bounded number of messages of its drafter – and the desk lets in a bounded number of those, so
/// the channel has no bound of its own.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    desk: Arc<Desk>,
    max_queue_wait: Duration,
}

impl EngineHandle {
    /// Starts the engine on its own thread, which ends after [`EngineHandle::shutdown`].
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(parts: EngineParts) -> Result<(Self, thread::JoinHandle<()>)> {
        let (commands, inbox) = mpsc::channel();
        let metrics = Arc::clone(&parts.metrics);
        let desk = Desk::new(&parts.limits, &parts.kv, commands.clone(), metrics);
        let handle = Self {
            commands,
            desk: Arc::new(desk),
            max_queue_wait: parts.limits.max_queue_wait,
        };
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

    /// Whether a request of this client that has just `arrived` could be taken, or wait: a cheap
    /// look beforehand.
    ///
    /// # Errors
    /// What it would be refused with.
    pub fn look(&self, client: ClientId, arrived: Instant) -> Result<()> {
        self.desk.look(client, arrived)
    }

    /// Starts a generation as soon as there is room; its events go to `request.events`. Dropping
    /// the future takes it out of the queue.
    ///
    /// # Errors
    /// If the id is in use, or there is no room and none comes in time.
    pub async fn generate(&self, request: GenerateRequest) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let ticket = self.desk.enter_generate(request, reply)?;
        self.answer(&ticket, answer).await
    }

    /// Scores as soon as there is room; `answer` is the other end of `request.reply`. Dropping the
    /// future ends it.
    ///
    /// # Errors
    /// If there is no room and none comes in time, or the work fails.
    pub async fn score(
        &self,
        request: ScoreRequest,
        answer: oneshot::Receiver<Result<Score>>,
    ) -> Result<Score> {
        let ticket = self.desk.enter_score(request)?;
        self.answer(&ticket, answer).await
    }

    /// The answer to what holds `ticket`, which waits for room for a bounded time.
    async fn answer<T>(
        &self,
        ticket: &Ticket,
        mut answer: oneshot::Receiver<Result<T>>,
    ) -> Result<T> {
        let answered = match timeout(self.max_queue_wait, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => match self.desk.give_up(ticket) {
                Some(refusal) => return Err(refusal),
                None => answer.await,
            },
        };
        answered.map_err(|_| Error::Draining)?
    }

    /// Ends a generation of this client with what it has; an unknown id is fine.
    pub fn abort(&self, client: ClientId, request_id: String) {
        if !self.desk.abort(client, &request_id) {
            self.send(Command::Abort(client, request_id));
        }
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

    /// How much of its room is taken, as the desk knows without a step.
    pub(crate) fn usage(&self) -> Usage {
        self.desk.usage()
    }

    /// Refuses new work and what waits, and ends the thread when all that runs is done.
    pub fn drain(&self) {
        self.desk.drain();
        self.send(Command::Drain);
    }

    /// Ends every generation with UNAVAILABLE, and then the thread.
    pub fn shutdown(&self) {
        self.desk.drain();
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
    /// Whether generations share the keys and values of equal prefixes.
    pub prefix_cache: bool,
    /// Bounds.
    pub limits: EngineLimits,
    /// Where steps are counted.
    pub metrics: Arc<Metrics>,
}
