//! Random runs of both sessions over the simulated link.

use std::time::Duration;

use dssd_proto::v1::{DraftedToken, PlainReason};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use verify_svc::session::{Next, RoundHints, Statistics, VerifySession};

use crate::{
    link::{Arrival, Faults, Link},
    toy,
};

/// Most rounds of a run: each commits a token, so that more would be a bug.
const ROUND_LIMIT: usize = 200;

/// How drafted tokens are judged.
#[derive(Clone, Copy, PartialEq)]
enum Judge {
    /// As the product does: the longest prefix that the whole model would choose.
    Compare,
    /// A mutant: every drafted token is taken.
    Trust,
}

struct Run {
    link: Link,
    session: VerifySession,
    faults: Faults,
    judge: Judge,
    prompt_length: usize,
    new_tokens: usize,
}

/// Sums over all runs.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    accepted: u64,
    rejected: u64,
    stale: u64,
    late: u64,
    back_offs: u64,
    resyncs: u64,
    resets: u64,
    losses: u64,
    empty: u64,
    ahead: u64,
    discarded_ahead: u64,
}

impl Totals {
    fn add(&mut self, statistics: &Statistics) {
        self.runs += 1;
        self.accepted += statistics.num_accepted_tokens;
        self.rejected += statistics.num_draft_tokens - statistics.num_accepted_tokens;
        self.stale += statistics.stale_proposals;
        self.late += statistics.late_proposals;
        self.back_offs += statistics.back_offs;
        self.resyncs += statistics.resyncs;
        self.resets += statistics.resets;
        self.losses += statistics.drafter_losses;
        self.ahead += statistics.num_ahead_tokens;
        self.discarded_ahead += statistics.num_discarded_ahead_tokens;
        self.empty += statistics
            .plain_rounds
            .get(&PlainReason::EmptyProposal)
            .unwrap_or(&0);
    }
}

impl Run {
    fn new(seed: u64, faults: Faults, judge: Judge) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let prompt_length = rng.random_range(1..30);
        let prompt: Vec<u32> = (0..prompt_length)
            .map(|_| rng.random_range(0..toy::VOCABULARY))
            .collect();
        Self {
            new_tokens: rng.random_range(1..60),
            link: Link::new(rng, faults),
            session: VerifySession::new(toy::open(&prompt)),
            faults,
            judge,
            prompt_length,
        }
    }

    fn generated(&self) -> usize {
        self.session.tokens().len() - self.prompt_length
    }

    fn play(mut self) -> VerifySession {
        let mut rounds = 0;
        while self.generated() < self.new_tokens {
            self.churn();
            match self.session.next(self.link.now) {
                Next::Wait { until } => {
                    assert!(until > self.link.now, "waiting for the past");
                    self.take_one(until);
                    continue;
                }
                Next::Plain(_) => self.round(&[], None),
                Next::Verify(proposal) => {
                    let tokens = proposal.tokens;
                    assert!(!tokens.is_empty());
                    let accepted = self.judge(&tokens);
                    self.round(&tokens[..accepted], Some(accepted));
                }
            }
            rounds += 1;
            assert!(rounds <= ROUND_LIMIT, "the run does not end");
        }
        self.session
    }

    /// Drafters come and go.
    fn churn(&mut self) {
        if self.session.is_attached() {
            if self.link.chance(self.faults.lose) {
                self.link.disconnect();
                self.session.on_lost();
            }
        } else if self.link.chance(50) {
            self.link.connect();
            let open = self.session.attach();
            self.link.send(open);
        }
    }

    /// How many drafted tokens to take.
    fn judge(&self, drafted: &[DraftedToken]) -> usize {
        if self.judge == Judge::Trust {
            return drafted.len();
        }
        let mut tokens = self.session.tokens().to_vec();
        for (accepted, token) in drafted.iter().enumerate() {
            if toy::target(&tokens) != token.token_id {
                return accepted;
            }
            tokens.push(token.token_id);
        }
        drafted.len()
    }

    /// Runs one pass of the whole model: the taken tokens, and one of its own.
    fn round(&mut self, taken: &[DraftedToken], accepted: Option<usize>) {
        let pass = Duration::from_micros(self.link.rng.random_range(20..60));
        self.pass(self.link.now + pass);
        let mut tokens = self.session.tokens().to_vec();
        tokens.extend(taken.iter().map(|token| token.token_id));
        tokens.push(toy::target(&tokens));
        let committed = tokens[self.session.tokens().len()..].to_vec();
        let after = self.generated() + committed.len();
        let hints = RoundHints {
            now: self.link.now,
            remaining: self.new_tokens.saturating_sub(after),
            max_draft_tokens: self.link.rng.random_range(0..8),
            draft_budget: Duration::from_micros(80),
            wait_budget: Duration::from_micros(120),
            verify_cost_us: Vec::new(),
        };
        if let Some(message) = self.session.committed(&committed, accepted, &hints) {
            self.link.send(message);
        }
    }

    /// Messages that come during a pass are taken at once.
    fn pass(&mut self, until: Duration) {
        while self.link.now < until {
            self.take_one(until);
        }
    }

    fn take_one(&mut self, until: Duration) {
        match self.link.run(until) {
            None => {}
            Some(Arrival::Lost) => self.session.on_lost(),
            Some(Arrival::Message(message)) => {
                match self.session.on_message(message, self.link.now) {
                    Ok(Some(answer)) => self.link.send(answer),
                    Ok(None) => {}
                    Err(_) => self.link.disconnect(),
                }
            }
        }
    }
}

/// What the whole model alone generates.
fn plain(prompt: &[u32], new_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..new_tokens {
        tokens.push(toy::target(&tokens));
    }
    tokens
}

/// Plays a run; returns its statistics, and whether it gave exactly the tokens of plain decoding.
fn play(seed: u64, faults: Faults, judge: Judge) -> (Statistics, bool) {
    let run = Run::new(seed, faults, judge);
    let expected = plain(run.session.tokens(), run.new_tokens);
    let session = run.play();
    (session.statistics().clone(), session.tokens() == expected)
}

/// Faults of one run, from none at all to all of them together.
fn random_faults(seed: u64) -> Faults {
    let mut rng = ChaCha8Rng::seed_from_u64(!seed);
    let mut often = |most: u32| {
        if rng.random_bool(0.5) {
            rng.random_range(0..=most)
        } else {
            0
        }
    };
    Faults {
        drop: often(15),
        double: often(30),
        delay: often(30),
        evict: often(10),
        lose: often(5),
        corrupt: often(10),
        right: u64::from(often(99)).max(50),
        ahead: often(100),
    }
}

#[test]
fn every_run_gives_the_tokens_of_plain_decoding() {
    let mut totals = Totals::default();
    for seed in 0..12_000 {
        let (statistics, identical) = play(seed, random_faults(seed), Judge::Compare);
        assert!(identical, "run {seed} differs from plain decoding");
        totals.add(&statistics);
    }
    // A run without these would prove nothing.
    assert!(totals.runs >= 10_000, "{totals:?}");
    assert!(totals.accepted >= 50_000, "{totals:?}");
    assert!(totals.rejected >= 20_000, "{totals:?}");
    assert!(totals.stale >= 2_000, "{totals:?}");
    assert!(totals.late >= 10_000, "{totals:?}");
    assert!(totals.back_offs >= 500, "{totals:?}");
    assert!(totals.resyncs >= 1_000, "{totals:?}");
    assert!(totals.resets >= 1_000, "{totals:?}");
    assert!(totals.losses >= 2_000, "{totals:?}");
    assert!(totals.empty >= 1_000, "{totals:?}");
    assert!(totals.ahead >= 3_000, "{totals:?}");
    assert!(totals.discarded_ahead >= 5_000, "{totals:?}");
}

#[test]
fn a_perfect_drafter_is_never_rejected_whatever_the_link_does() {
    let mut accepted = 0;
    for seed in 0..3_000 {
        let random = random_faults(seed);
        let faults = Faults {
            right: 100,
            corrupt: 0,
            // Of a drafter that always forgets, no verifier can tell that it is honest.
            evict: random.evict.min(5),
            ..random
        };
        let (statistics, identical) = play(seed, faults, Judge::Compare);
        assert!(identical, "run {seed} differs from plain decoding");
        assert_eq!(
            statistics.num_accepted_tokens, statistics.num_draft_tokens,
            "run {seed}"
        );
        assert_eq!(
            statistics.resets, 0,
            "run {seed}: an honest drafter was excluded"
        );
        accepted += statistics.num_accepted_tokens;
    }
    assert!(accepted >= 20_000, "{accepted} accepted");
}

#[test]
fn a_good_link_loses_nothing() {
    for seed in 0..500 {
        let faults = Faults {
            right: 80,
            ahead: 50,
            ..Faults::default()
        };
        let (statistics, identical) = play(seed, faults, Judge::Compare);
        assert!(identical, "run {seed} differs from plain decoding");
        let losses = [
            statistics.stale_proposals,
            statistics.resyncs,
            statistics.resets,
            statistics.drafter_losses,
        ];
        assert_eq!(losses, [0; 4], "run {seed}");
    }
}

#[test]
fn taking_drafts_without_comparing_is_found() {
    let faults = Faults {
        right: 80,
        ..Faults::default()
    };
    let different = (0..200)
        .filter(|&seed| !play(seed, faults, Judge::Trust).1)
        .count();
    assert!(different >= 100, "only {different} of 200 runs show it");
}
