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
    /// After a proposal, the drafter works ahead.
    pub(crate) ahead: u32,
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
    /// What was chosen ahead, by position.
    foreseen: BTreeMap<usize, u32>,
    /// The choice that ended the last draft, so that it was not proposed.
    guess: Option<u32>,
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
            foreseen: BTreeMap::new(),
            guess: None,
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
        let foretold = drafter.replay(self.now);
        self.answer(answer);
        self.answer(foretold);
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
        let ahead = self.chance(self.faults.ahead);
        let Some(drafter) = &mut self.drafter else {
            return;
        };
        let answers = if evicted {
            drafter.kv.clear();
            vec![drafter.session.evicted()]
        } else {
            drafter.step(rows, self.faults.right, self.now)
        };
        let proposed =
            |answer: &DrafterMessage| matches!(answer.message, Some(Message::Proposal(_)));
        if ahead && answers.iter().any(proposed) {
            drafter.work_ahead();
        }
        let session = &drafter.session;
        let plan = session.plan();
        if !plan.feed.is_empty() || plan.goal.is_some() || session.ahead().is_some() {
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
        if let Some(reason) = self.session.must_stop(now) {
            return self.finish(reason, now).into_iter().collect();
        }
        let plan = self.session.plan();
        assert!(
            plan.truncate_to <= self.kv.len(),
            "the session believes in KV that is not there"
        );
        self.kv.truncate(plan.truncate_to);
        let waits = !plan.feed.is_empty() || plan.goal.is_some();
        let ahead = self.session.ahead().filter(|_| !waits);
        let feed = ahead.map_or(plan.feed, |ahead| ahead.feed);
        let rows = rows.min(feed.len());
        let decides = rows == feed.len() && (plan.goal.is_some() || ahead.is_some());
        self.kv.extend_from_slice(&feed[..rows]);
        let base = ahead.map(|ahead| ahead.base_position);
        let mut answers: Vec<_> = self.session.fed(rows, toy::load()).into_iter().collect();
        if decides {
            assert_eq!(
                self.kv,
                self.session.tokens(),
                "KV and history differ at a choice"
            );
            let token_id = toy::draft(&self.kv, right);
            match base {
                Some(base) => self.foresee(token_id, base),
                None => answers.extend(self.choose(token_id, now)),
            }
        }
        answers
    }

    fn finish(&mut self, reason: DraftStopReason, now: Duration) -> Option<DrafterMessage> {
        self.guess = None;
        self.session.finished(reason, now, toy::load())
    }

    /// The draft model chose the next token.
    fn choose(&mut self, token_id: u32, now: Duration) -> Option<DrafterMessage> {
        if token_id % 10 == 9 {
            let proposal = self.finish(DraftStopReason::Entropy, now);
            self.guess = Some(token_id);
            return proposal;
        }
        self.session.drafted(DraftedToken {
            token_id,
            exit_head: 0,
            entropy: 0.5,
        });
        None
    }

    fn work_ahead(&mut self) {
        self.foreseen.clear();
        self.session.work_ahead(self.guess);
    }

    /// The draft model chose a token ahead.
    fn foresee(&mut self, token_id: u32, base: usize) {
        let position = self.kv.len();
        if position >= base {
            self.foreseen.insert(position, token_id);
        }
        if position >= base && token_id % 10 == 9 {
            self.session.stop_ahead();
        } else {
            self.session.foretold(token_id);
        }
    }

    /// Gives a draft what was chosen ahead for it.
    fn replay(&mut self, now: Duration) -> Option<DrafterMessage> {
        while self.session.is_foretold() {
            if let Some(reason) = self.session.must_stop(now) {
                return self.finish(reason, now);
            }
            let end = self.session.tokens().len();
            let Some(token_id) = self.foreseen.remove(&end) else {
                self.session.resume(self.kv.len() >= end);
                return None;
            };
            if let Some(proposal) = self.choose(token_id, now) {
                return Some(proposal);
            }
        }
        None
    }
}
