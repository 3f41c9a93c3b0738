//! The loop of the engine. Each step takes one band and every sequence that waits for it.

mod drafts;
mod step;
mod streams;

use super::{Command, EngineParts, StreamKey, sequence::Sequence};
use crate::Error;
use dssd_common::{entropy::Summary, sampling::Scratch};
use dssd_proto::v1::DrafterLoad;
use std::{
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

/// Commands between two steps, so that a verifier that sends without end delays no draft of others.
const COMMANDS_PER_STEP: usize = 1024;

pub(super) struct Scheduler {
    parts: EngineParts,
    sequences: Vec<Sequence>,
    started: Instant,
    step_seconds: f64,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    summaries: Vec<Summary>,
    scratch: Scratch,
}

impl Scheduler {
    pub(super) fn new(parts: EngineParts) -> Self {
        Self {
            parts,
            sequences: Vec::new(),
            started: Instant::now(),
            step_seconds: 0.0,
            hidden: Vec::new(),
            logits: Vec::new(),
            summaries: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Command>) {
        let mut busy = false;
        loop {
            let first = if busy { None } else { inbox.recv().ok() };
            if !busy && first.is_none() {
                break;
            }
            if !first
                .into_iter()
                .chain(inbox.try_iter().take(COMMANDS_PER_STEP))
                .all(|command| self.handle(command))
            {
                break;
            }
            busy = self.step();
        }
        for index in (0..self.sequences.len()).rev() {
            self.end(index, Error::Draining.into());
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn load(&self) -> DrafterLoad {
        DrafterLoad {
            sequences: self.sequences.len() as u32,
            free_kv_blocks: self.parts.kv.usage().free_blocks() as u32,
            step_us: (self.step_seconds * 1e6) as u64,
        }
    }

    fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Shutdown => return false,
            Command::Open(key, outbox) => self.open(key, outbox),
            Command::Message(key, message, _permit) => {
                if let Some(index) = self.find(key) {
                    self.on_message(index, *message);
                }
            }
            Command::Close(key) => {
                if let Some(index) = self.find(key) {
                    self.remove(index);
                }
            }
            Command::Load(reply) => _ = reply.send(self.load()),
        }
        true
    }

    fn find(&self, key: StreamKey) -> Option<usize> {
        self.sequences
            .iter()
            .position(|sequence| sequence.key == key)
    }
}
