//! Admission: who gets room, who waits for it, and who is refused.
//!
//! The desk keeps the account of sequences and KV blocks, and is asked by whoever carries a
//! call, not by the engine: a refusal never waits for a step. Room is held by a [`Place`], which
//! travels with the request to the engine, and gives it back when it is dropped.

mod place;
mod queue;
mod rate;

pub(super) use place::{Place, Ticket};

use super::{
    Command, EngineLimits,
    events::WeakEvents,
    generation::Generation,
    request::{GenerateRequest, ScoreRequest},
};
use crate::{Error, Result, metrics::Metrics};
use dssd_common::{
    kv::{KvCache, KvLayout},
    serve::ClientId,
};
use queue::{Queue, Waiting};
use rate::RoomRate;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A name that is in use, and whose it is.
type Name = (ClientId, String);

/// See the module.
pub(crate) struct Desk {
    commands: mpsc::Sender<Command>,
    layout: KvLayout,
    blocks: usize,
    /// How long a request may wait.
    max_wait: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    queue: Queue<Entry>,
    running: usize,
    most_running: usize,
    free_blocks: usize,
    /// Requests that run or wait, by name.
    names: HashMap<Name, Named>,
    next_ticket: u64,
    rate: RoomRate,
    draining: bool,
}

struct Named {
    ticket: u64,
    /// Closed as soon as the call is cancelled: its name is free then, before the engine knows.
    events: WeakEvents,
}

/// What waits: a request, since when, and the way back to who asked.
struct Entry {
    since: Instant,
    work: Work,
}

enum Work {
    Generate(Box<GenerateRequest>, oneshot::Sender<Result<()>>),
    Score(ScoreRequest),
}

impl Desk {
    /// The desk of an engine that takes `commands` and fills `kv`; refusals are counted in `metrics`.
    pub(super) fn new(
        limits: &EngineLimits,
        kv: &KvCache,
        commands: mpsc::Sender<Command>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let blocks = kv.usage().total_blocks;
        Self {
            commands,
            layout: kv.layout().clone(),
            blocks,
            max_wait: limits.max_queue_wait,
            metrics,
            state: Mutex::new(State {
                queue: Queue::new(limits.max_queue),
                running: 0,
                most_running: limits.max_sequences,
                free_blocks: blocks,
                names: HashMap::new(),
                next_ticket: 0,
                rate: RoomRate::default(),
                draining: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request of `client` that has just `arrived` could be taken or wait: a cheap look
    /// before any work is done for it.
    ///
    /// # Errors
    /// What it would be refused with.
    pub(super) fn look(&self, client: ClientId, arrived: Instant) -> Result<()> {
        let mut state = self.lock();
        if state.draining {
            return Err(Error::Draining);
        }
        if state.queue.has_place(client) || (state.queue.is_empty() && state.has_room(1)) {
            return Ok(());
        }
        self.metrics.refused(arrived.elapsed());
        Err(state.refuse_full())
    }

    /// Sends a request to the engine, or lets it wait until there is room. Its answer, or its
    /// refusal, goes to `reply`.
    ///
    /// # Errors
    /// If its name is in use, or it can neither be taken nor wait.
    pub(super) fn enter_generate(
        self: &Arc<Self>,
        request: GenerateRequest,
        reply: oneshot::Sender<Result<()>>,
    ) -> Result<Ticket> {
        let blocks = self.layout.blocks_for(Generation::capacity(&request));
        self.check_size("max_new_tokens", blocks)?;
        let name = (request.client, request.request_id.clone());
        let events = request.events.watch();
        let (client, arrived) = (request.client, request.call.arrived());
        let work = Work::Generate(Box::new(request), reply);
        self.enter(client, arrived, Some((name, events)), blocks, work)
    }

    /// The same for a request to score.
    ///
    /// # Errors
    /// If it can neither be taken nor wait.
    pub(super) fn enter_score(self: &Arc<Self>, request: ScoreRequest) -> Result<Ticket> {
        let blocks = self.layout.blocks_for(request.tokens.len());
        self.check_size("prompt", blocks)?;
        let (client, arrived) = (request.client, request.arrived);
        self.enter(client, arrived, None, blocks, Work::Score(request))
    }

    /// Refuses what would never fit.
    fn check_size(&self, field: &str, blocks: usize) -> Result<()> {
        if blocks <= self.blocks {
            return Ok(());
        }
        let reason = format!(
            "needs {blocks} blocks of the KV cache, which has {}: ask for less",
            self.blocks
        );
        Err(Error::field(field, reason))
    }

    fn enter(
        self: &Arc<Self>,
        client: ClientId,
        arrived: Instant,
        name: Option<(Name, WeakEvents)>,
        blocks: usize,
        work: Work,
    ) -> Result<Ticket> {
        let mut state = self.lock();
        if state.draining {
            return Err(Error::Draining);
        }
        if let Some(((_, id), _)) = name.as_ref().filter(|(name, _)| state.uses(name)) {
            return Err(Error::RequestIdInUse(id.clone()));
        }
        let at_once = state.queue.is_empty() && state.has_room(blocks);
        if !at_once && !state.queue.has_place(client) {
            self.metrics.refused(arrived.elapsed());
            return Err(state.refuse_full());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        if let Some((name, events)) = name {
            state.names.insert(name, Named { ticket, events });
        }
        let now = Instant::now();
        let waiting = Waiting {
            ticket,
            client,
            blocks,
            entry: Entry { since: now, work },
        };
        if at_once {
            let unsent = self.grant(&mut state, waiting);
            drop(state);
            // The engine has ended; who asked hears of it as the request is dropped.
            drop(unsent);
        } else {
            state.rate.wanted(now);
            if let Some(gone) = state.queue.push(waiting) {
                state.forget(&gone);
                let refusal = state.refuse_full();
                gone.entry.refuse(refusal);
            }
        }
        Ok(Ticket::new(Arc::clone(self), ticket))
    }

    /// Gives room to one that it is there for, and sends it to the engine. Returns it if the
    /// engine has ended: it must be dropped without the lock, since its place locks.
    fn grant(self: &Arc<Self>, state: &mut State, waiting: Waiting<Entry>) -> Option<Command> {
        state.running += 1;
        state.free_blocks -= waiting.blocks;
        let Entry { since, work } = waiting.entry;
        let name = match &work {
            Work::Generate(request, _) => Some((request.client, request.request_id.clone())),
            Work::Score(_) => None,
        };
        let place = Place::new(
            Arc::clone(self),
            waiting.ticket,
            waiting.blocks,
            name,
            since.elapsed(),
        );
        let command = match work {
            Work::Generate(request, reply) => Command::Generate(request, place, reply),
            Work::Score(request) => Command::Score(request, place),
        };
        self.commands.send(command).err().map(|unsent| unsent.0)
    }

    /// Lets in whom there is room for.
    fn grant_waiting(self: &Arc<Self>, state: &mut State) -> Vec<Command> {
        let mut unsent = Vec::new();
        while state.running < state.most_running {
            let free = state.free_blocks;
            let Some(next) = state.queue.next(|blocks| blocks <= free) else {
                break;
            };
            if next.entry.is_gone() {
                state.forget(&next);
                continue;
            }
            unsent.extend(self.grant(state, next));
        }
        unsent
    }

    /// A place is given back.
    fn free(self: &Arc<Self>, ticket: u64, blocks: usize, name: Option<Name>) {
        let mut state = self.lock();
        state.running -= 1;
        state.free_blocks += blocks;
        if let Some(name) = name {
            state.forget_name(&name, ticket);
        }
        let more = !state.queue.is_empty();
        state.rate.freed(Instant::now(), more);
        let unsent = self.grant_waiting(&mut state);
        drop(state);
        drop(unsent);
    }

    /// Takes out one that waits no longer; `None` if it waits no more already. What stood behind
    /// it may fit.
    fn take_out(self: &Arc<Self>, is: impl Fn(&Waiting<Entry>) -> bool) -> Option<(Entry, Error)> {
        let mut state = self.lock();
        let gone = state.queue.remove(is)?;
        state.forget(&gone);
        let refusal = state.refuse_late(gone.entry.since);
        let unsent = self.grant_waiting(&mut state);
        drop(state);
        drop(unsent);
        Some((gone.entry, refusal))
    }

    /// Ends one that has waited too long; `None` if it waits no more.
    pub(super) fn give_up(self: &Arc<Self>, ticket: &Ticket) -> Option<Error> {
        let (entry, refusal) = self.take_out(|waiting| waiting.ticket == ticket.number())?;
        let late = entry.since.elapsed().saturating_sub(self.max_wait);
        self.metrics.refused(late);
        Some(refusal)
    }

    /// Forgets one whose answer nobody awaits any more, if it waits.
    fn leave(self: &Arc<Self>, ticket: &Ticket) {
        _ = self.take_out(|waiting| waiting.ticket == ticket.number());
    }

    /// Ends a generation that waits, with nothing; false if none of this name does.
    pub(super) fn abort(self: &Arc<Self>, client: ClientId, request_id: &str) -> bool {
        let asked = |waiting: &Waiting<Entry>| match &waiting.entry.work {
            Work::Generate(request, _) => request.is(client, request_id),
            Work::Score(_) => false,
        };
        let Some((entry, _)) = self.take_out(asked) else {
            return false;
        };
        if let Work::Generate(request, reply) = entry.work {
            request.abort();
            _ = reply.send(Ok(()));
        }
        true
    }

    /// Refuses what waits and whatever comes.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        for gone in state.queue.clear() {
            state.forget(&gone);
            gone.entry.refuse(Error::Draining);
        }
    }

    /// How much is taken.
    pub(super) fn usage(&self) -> Usage {
        let (running, waiting, free) = self.load();
        Usage {
            running,
            waiting,
            kv_ratio: 1.0 - free as f64 / self.blocks.max(1) as f64,
        }
    }

    /// Sequences that have room, requests that wait, and KV blocks that nobody has reserved.
    pub(super) fn load(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.running, state.queue.len(), state.free_blocks)
    }
}

/// How much is taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Sequences that have room.
    pub(crate) running: usize,
    /// Requests that wait for it.
    pub(crate) waiting: usize,
    /// Reserved share of all KV blocks.
    pub(crate) kv_ratio: f64,
}

impl State {
    fn has_room(&self, blocks: usize) -> bool {
        self.running < self.most_running && blocks <= self.free_blocks
    }

    fn uses(&self, name: &Name) -> bool {
        let open = |named: &Named| named.events.is_read();
        self.names.get(name).is_some_and(open)
    }

    fn forget(&mut self, gone: &Waiting<Entry>) {
        if let Work::Generate(request, _) = &gone.entry.work {
            let name = (request.client, request.request_id.clone());
            self.forget_name(&name, gone.ticket);
        }
    }

    /// Frees a name, unless it was taken again since.
    fn forget_name(&mut self, name: &Name, ticket: u64) {
        if self.names.get(name).is_some_and(|n| n.ticket == ticket) {
            self.names.remove(name);
        }
    }

    fn refuse_full(&mut self) -> Error {
        self.rate.wanted(Instant::now());
        let (running, waiting) = (self.running, self.queue.len());
        let reason = format!("{running} sequences run and {waiting} requests wait already");
        self.refusal(reason)
    }

    fn refuse_late(&self, since: Instant) -> Error {
        let seconds = since.elapsed().as_secs_f64();
        self.refusal(format!("none became free within {seconds:.1} s of waiting"))
    }

    fn refusal(&self, reason: String) -> Error {
        Error::NoRoom {
            reason,
            retry: self.rate.delay(self.queue.len(), rand::random()),
        }
    }
}

impl Entry {
    /// Whether nobody waits for the answer any more.
    fn is_gone(&self) -> bool {
        match &self.work {
            Work::Generate(request, _) => request.events.is_closed(),
            Work::Score(request) => request.reply.is_closed(),
        }
    }

    fn refuse(self, error: Error) {
        match self.work {
            Work::Generate(_, reply) => _ = reply.send(Err(error)),
            Work::Score(request) => _ = request.reply.send(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests;
