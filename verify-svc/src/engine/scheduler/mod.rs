//! The loop of the engine: takes whatever is runnable, runs it in one pass, never waits for a
//! single sequence.

mod admission;
mod crowd;
mod links;
mod plan;
mod rest;
mod step;

use super::{
    Command, EngineHandle, EngineParts, cost::StepCost, events::Event, generation::Generation,
    pass::Pass, scoring::Scoring, work::End,
};
use crate::Error;
use crowd::Crowd;
use dssd_common::sampling::Scratch;
use dssd_proto::v1;
use rest::Rest;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// Commands between two steps, so that a drafter that sends without end delays nobody.
const COMMANDS_PER_STEP: usize = 1024;

/// When the loop goes on.
enum Wake {
    Now,
    At(Duration),
    OnCommand,
}

pub(super) struct Scheduler {
    parts: EngineParts,
    handle: EngineHandle,
    generations: Vec<Generation>,
    scorings: Vec<Scoring>,
    cost: StepCost,
    started: Instant,
    next_key: u64,
    /// Turns with every step: who is served first.
    first: usize,
    draining: bool,
    /// The device has failed, and computes nothing any more.
    broken: bool,
    crowd: Crowd,
    rest: Rest,
    pass: Pass,
    scratch: Scratch,
}

impl Scheduler {
    pub(super) fn new(parts: EngineParts, handle: EngineHandle) -> Self {
        Self {
            parts,
            handle,
            generations: Vec::new(),
            scorings: Vec::new(),
            cost: StepCost::new(),
            started: Instant::now(),
            next_key: 0,
            first: 0,
            draining: false,
            broken: false,
            crowd: Crowd::default(),
            rest: Rest::default(),
            pass: Pass::default(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let mut wake = Wake::OnCommand;
        while self.receive(inbox, &wake) {
            self.expire();
            wake = self.step();
            let done = self.generations.is_empty() && self.scorings.is_empty();
            if self.broken || self.draining && done {
                break;
            }
        }
        for generation in self.generations.drain(..) {
            generation.emit(Event::Failed(Error::Draining));
        }
        for scoring in self.scorings.drain(..) {
            scoring.finish(Err(Error::Draining));
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes all commands that are there, after waiting as `wake` says; false to end.
    fn receive(&mut self, inbox: &Receiver<Command>, wake: &Wake) -> bool {
        let first = match wake {
            Wake::Now => None,
            Wake::OnCommand => match inbox.recv() {
                Ok(command) => Some(command),
                Err(_) => return false,
            },
            Wake::At(until) => match inbox.recv_timeout(until.saturating_sub(self.now())) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            },
        };
        first
            .into_iter()
            .chain(inbox.try_iter().take(COMMANDS_PER_STEP))
            .all(|command| self.handle_command(command))
    }

    fn handle_command(&mut self, command: Command) -> bool {
        match command {
            Command::Shutdown => return false,
            Command::Drain => self.draining = true,
            Command::Generate(request, place, reply) => {
                let call = Arc::clone(&request.call);
                let identity = call.identity();
                let admitted = identity.in_log(|| self.admit(*request, place));
                // If the caller is gone, so is the receiver of its events, and the generation ends.
                _ = reply.send(admitted);
            }
            Command::Score(request, place) => self.admit_scoring(request, place),
            Command::Abort(client, request_id) => {
                let asked = |g: &Generation| g.request.is(client, &request_id);
                if let Some(index) = self.generations.iter().position(asked) {
                    self.remove(index).finish(End::Aborted);
                }
            }
            Command::Link { link, event } => self.on_link(link, event),
            Command::Load(reply) => _ = reply.send(self.load()),
        }
        true
    }

    fn load(&self) -> v1::GetLoadResponse {
        let (running, waiting, free_blocks) = self.handle.desk.load();
        let step = self
            .cost
            .expect(self.generations.len().max(1))
            .unwrap_or(0.0);
        v1::GetLoadResponse {
            running: running as u32,
            waiting: waiting as u32,
            free_kv_blocks: free_blocks as u32,
            kv_blocks: self.parts.kv.usage().total_blocks as u32,
            step_us: (step * 1e6) as u64,
        }
    }
}

#[cfg(test)]
mod tests;
