//! A simulated link with a drafter at its far end.

use std::{collections::BTreeMap, time::Duration};

use draft_svc::session::{DraftSession, DrafterProfile};
use dssd_proto::v1::{
    DraftStopReason, DraftedToken, DrafterMessage, VerifierMessage, drafter_message::Message,
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::toy;

/// Time of a message on its way, in microseconds.
const WAY_US: u64 = 10;

/// Probabilities in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) drop: u32,
    pub(crate) double: u32,
    /// A message takes another time on its way, and overtakes others or is overtaken.
    pub(crate) delay: u32,
    /// At a drafter's step, its KV cache is taken away.
    pub(crate) evict: u32,
    /// At a verifier's round, the drafter vanishes.
    pub(crate) lose: u32,
    /// A drafter's message is changed to one that cannot be true, or that lies.
    pub(crate) corrupt: u32,
    /// The draft model is right.
    pub(crate) right: u64,
}

enum Packet {
    ToDrafter(VerifierMessage),
    ToVerifier(DrafterMessage),
    /// The drafter's engine makes a step.
    Step,
}

/// What arrives at the verifier.
pub(crate) enum Arrival {
    Message(DrafterMessage),
    /// The stream ended.
    Lost,
}

struct Drafter {
    session: DraftSession,
    /// The tokens whose keys and values the engine has.
    kv: Vec<u32>,
}

/// One stream after another; only the newest is alive.
pub(crate) struct Link {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) now: Duration,
    faults: Faults,
    drafter: Option<Drafter>,
    stream: u64,
    queue: BTreeMap<(Duration, u64), (u64, Packet)>,
    sequence: u64,
}

fn profile() -> DrafterProfile {
    DrafterProfile {
        checkpoint_fingerprint: "aa".to_owned(),
        tokenizer_hash: "bb".to_owned(),
        vocabulary_size: toy::VOCABULARY,
        max_context: 1000,
        max_draft_tokens: 6,
        exit_layers: vec![1],
        calibration_id: String::new(),
    }
}

impl Link {
    pub(crate) fn new(rng: ChaCha8Rng, faults: Faults) -> Self {
        Self {
            rng,
            now: Duration::ZERO,
            faults,
            drafter: None,
            stream: 0,
            queue: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// True in `percent` of all calls.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// A fresh stream to a fresh drafter.
    pub(crate) fn connect(&mut self) {
        self.stream += 1;
        self.drafter = Some(Drafter {
            session: DraftSession::new(profile()),
            kv: Vec::new(),
        });
    }

    pub(crate) fn disconnect(&mut self) {
        self.drafter = None;
    }

    pub(crate) fn send(&mut self, message: VerifierMessage) {
        self.transmit(|| Packet::ToDrafter(message.clone()));
    }

    fn transmit(&mut self, packet: impl Fn() -> Packet) {
        if self.chance(self.faults.drop) {
            return;
        }
        for _ in 0..1 + u32::from(self.chance(self.faults.double)) {
            let delay = if self.chance(self.faults.delay) {
                self.rng.random_range(1..800)
            } else {
                WAY_US
            };
            self.schedule(delay, packet());
        }
    }

    fn schedule(&mut self, delay_us: u64, packet: Packet) {
        self.sequence += 1;
        let key = (self.now + Duration::from_micros(delay_us), self.sequence);
        self.queue.insert(key, (self.stream, packet));
    }

    /// Lets time pass until something arrives at the verifier, at most until `until`.
    pub(crate) fn run(&mut self, until: Duration) -> Option<Arrival> {
        while let Some(entry) = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= until)
        {
            let ((time, _), (stream, packet)) = entry.remove_entry();
            self.now = self.now.max(time);
            if stream != self.stream || self.drafter.is_none() {
                continue;
            }
            match packet {
                Packet::ToVerifier(message) => return Some(Arrival::Message(message)),
                Packet::ToDrafter(message) => {
                    if !self.deliver(message) {
                        self.drafter = None;
                        return Some(Arrival::Lost);
                    }
                }
                Packet::Step => self.step(),
            }
        }
        self.now = self.now.max(until);
        None
    }

    /// Gives a message to the drafter; false if it refuses.
    fn deliver(&mut self, message: VerifierMessage) -> bool {
        let Some(drafter) = &mut self.drafter else {
            return false;
        };
        let Ok(answer) = drafter.session.on_message(message, self.now, toy::load()) else {
            return false;
        };
        self.answer(answer);
        self.schedule_step();
        true
    }

    fn schedule_step(&mut self) {
        let duration = self.rng.random_range(1..10);
        self.schedule(duration, Packet::Step);
    }

    fn step(&mut self) {
        let evicted = self.chance(self.faults.evict);
        let rows = self.rng.random_range(1..12);
        let Some(drafter) = &mut self.drafter else {
            return;
        };
        let answers = if evicted {
            drafter.kv.clear();
            vec![drafter.session.evicted()]
        } else {
            drafter.step(rows, self.faults.right, self.now)
        };
        let plan = drafter.session.plan();
        if !plan.feed.is_empty() || plan.goal.is_some() {
            self.schedule_step();
        }
        for answer in answers {
            self.answer(Some(answer));
        }
    }

    fn answer(&mut self, answer: Option<DrafterMessage>) {
        let Some(mut message) = answer else { return };
        if self.chance(self.faults.corrupt) {
            self.corrupt(&mut message);
        }
        self.transmit(|| Packet::ToVerifier(message.clone()));
    }

    fn corrupt(&mut self, message: &mut DrafterMessage) {
        let kind = self.rng.random_range(0..6);
        match &mut message.message {
            Some(Message::Proposal(proposal)) => match (kind, proposal.tokens.first_mut()) {
                (0, _) => proposal.epoch += 1,
                (1, _) => proposal.base_position += 1,
                (2, Some(token)) => token.token_id = toy::VOCABULARY,
                (3, Some(token)) => token.entropy = f32::NAN,
                (4, Some(token)) => token.token_id = (token.token_id + 1) % toy::VOCABULARY,
                _ => message.message = None,
            },
            Some(Message::Ready(ready)) => ready.held_position += 1000,
            Some(Message::Resync(resync)) => resync.epoch += 1,
            None => {}
        }
    }
}

impl Drafter {
    /// Runs up to `rows` rows, and what they decide.
    fn step(&mut self, rows: usize, right: u64, now: Duration) -> Vec<DrafterMessage> {
        let mut answers = Vec::new();
        if let Some(reason) = self.session.must_stop(now) {
            return self
                .session
                .finished(reason, now, toy::load())
                .into_iter()
                .collect();
        }
        let plan = self.session.plan();
        assert!(
            plan.truncate_to <= self.kv.len(),
            "the session believes in KV that is not there"
        );
        self.kv.truncate(plan.truncate_to);
        let rows = rows.min(plan.feed.len());
        let complete = rows == plan.feed.len();
        self.kv.extend_from_slice(&plan.feed[..rows]);
        let goal = plan.goal;
        answers.extend(self.session.fed(rows, toy::load()));
        if goal.is_none() || !complete {
            return answers;
        }
        assert_eq!(
            self.kv,
            self.session.tokens(),
            "KV and history differ at a choice"
        );
        let token_id = toy::draft(&self.kv, right);
        if token_id % 10 == 9 {
            answers.extend(
                self.session
                    .finished(DraftStopReason::Entropy, now, toy::load()),
            );
        } else {
            self.session.drafted(DraftedToken {
                token_id,
                exit_head: 0,
                entropy: 0.5,
            });
        }
        answers
    }
}
