//! The loop of the engine. Each step takes one band and every sequence that waits for it.

mod ahead;
mod drafts;
mod step;
mod streams;

use super::{Command, Condition, EngineParts, Incoming, StreamKey, sequence::Sequence};
use crate::Error;
use dssd_common::{model::Readout, sampling::Scratch};
use dssd_proto::v1::{DrafterLoad, ExitHeadAgreement};
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
    /// When the last step began, if it was work ahead.
    ahead_since: Option<Instant>,
    step_seconds: f64,
    /// The device has failed, and computes nothing any more.
    broken: bool,
    readout: Readout,
    scratch: Scratch,
}

impl Scheduler {
    pub(super) fn new(parts: EngineParts) -> Self {
        Self {
            parts,
            sequences: Vec::new(),
            started: Instant::now(),
            ahead_since: None,
            step_seconds: 0.0,
            broken: false,
            readout: Readout::default(),
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
            if self.broken {
                break;
            }
            let usage = self.parts.kv.usage();
            let taken = usage.reserved_blocks as f64 / usage.total_blocks.max(1) as f64;
            self.parts.metrics.usage(self.sequences.len(), taken);
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
            Command::Open(key, peer) => self.open(key, peer),
            Command::Message(key, incoming) => self.receive(key, incoming),
            Command::Close(key) => {
                if let Some(index) = self.find(key) {
                    self.remove(index);
                }
            }
            Command::Describe(reply) => _ = reply.send(self.condition()),
        }
        true
    }

    fn receive(&mut self, key: StreamKey, incoming: Incoming) {
        let Some(index) = self.find(key) else { return };
        // What came during a step of work ahead had to wait for its end.
        if self
            .ahead_since
            .is_some_and(|begun| incoming.arrived > begun)
        {
            let waited = incoming.arrived.elapsed().as_secs_f64();
            self.parts.experience.ahead.delayed(waited);
        }
        self.on_message(index, *incoming.message);
    }

    fn condition(&self) -> Condition {
        let agreements = self.parts.experience.agreements().enumerate();
        let exit_heads = agreements.map(|(head, agreement)| ExitHeadAgreement {
            exit_head: head as u32,
            judged_tokens: agreement.judged,
            observed_acceptance: agreement.observed(),
            calibrated_acceptance: agreement.calibrated(),
            drift: agreement.drift(),
        });
        Condition {
            load: self.load(),
            exit_heads: exit_heads.collect(),
        }
    }

    fn find(&self, key: StreamKey) -> Option<usize> {
        self.sequences
            .iter()
            .position(|sequence| sequence.key == key)
    }
}

#[cfg(test)]
mod tests;
