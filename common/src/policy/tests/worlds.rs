//! `auto` in small simulated worlds, as the pair would be: rests after declined drafts, and a first
//! draft after a rest that has to catch up.

use crate::entropy::Summary;
use crate::policy::{
    Decision, Drafted, ExitView, Experience, Outcome, Policy, PolicySpec, Setting, StopCause,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Seconds of a plain round.
const PLAIN: f64 = 1e-3;
/// More for each more row.
const ROW: f64 = 5e-5;
/// A draft token.
const DRAFT: f64 = 3e-4;
/// The way there and back.
const WIRE: f64 = 1e-4;
/// What the first draft after a rest has to catch up.
const CATCH_UP: f64 = 4e-3;

struct World {
    policy: Box<dyn Policy>,
    experience: Experience,
    random: ChaCha8Rng,
    rest: u32,
    rested: bool,
}

impl World {
    fn new() -> Self {
        let setting = Setting {
            exits: &[2],
            max_draft_tokens: 1,
            calibration: None,
            temperature: 0.0,
        };
        let mut experience = Experience::new(1, None);
        experience
            .costs
            .observe_band(0, 0.7 * DRAFT, Some(0.3 * DRAFT));
        experience.costs.verify = (0..9).map(|row| PLAIN + ROW * f64::from(row)).collect();
        Self {
            policy: PolicySpec::Auto.build(setting).unwrap().unwrap(),
            experience,
            random: ChaCha8Rng::seed_from_u64(3),
            rest: 0,
            rested: true,
        }
    }

    /// One round, or one that declines and the rest after it: tokens and seconds.
    fn round(&mut self, acceptance: f64) -> (usize, f64) {
        let declined = self.policy.begin(&self.experience).is_some() || !self.drafts();
        let (drafted, outcome) = if declined {
            self.rest = (2 * self.rest).clamp(8, 64);
            self.rested = true;
            let rounds = 1 + self.rest as usize;
            (Vec::new(), (0, rounds, WIRE + rounds as f64 * PLAIN))
        } else {
            let accepted = usize::from(self.random.random_bool(acceptance));
            self.rest /= 1 + accepted as u32;
            let late = if std::mem::take(&mut self.rested) {
                CATCH_UP
            } else {
                0.0
            };
            let drafted = vec![Drafted {
                head: 0,
                entropy: 1.0,
            }];
            (
                drafted,
                (accepted, 1 + accepted, late + DRAFT + WIRE + PLAIN + ROW),
            )
        };
        let (accepted, committed, seconds) = outcome;
        let outcome = Outcome {
            drafted: &drafted,
            accepted,
            committed,
            seconds,
        };
        self.experience.learn(outcome, 0.0);
        self.policy.learn(outcome, &mut self.experience);
        (committed, seconds)
    }

    fn drafts(&mut self) -> bool {
        let summary = Summary {
            entropy: 1.0,
            valid: true,
            ..Summary::INVALID
        };
        let decision = self.policy.decide(ExitView {
            head: 0,
            deepest: true,
            summary: &summary,
            drafted: 0,
            experience: &self.experience,
        });
        assert_ne!(decision, Decision::Stop(StopCause::Cost));
        matches!(decision, Decision::Emit | Decision::EmitLast)
    }

    /// How many times faster than plain decoding `tokens` tokens come.
    fn speedup(&mut self, acceptance: f64, tokens: usize) -> f64 {
        let (mut came, mut seconds) = (0, 0.0);
        while came < tokens {
            let (more, took) = self.round(acceptance);
            came += more;
            seconds += took;
        }
        came as f64 * PLAIN / seconds
    }
}

/// 1.7 tokens in 1.45 rounds.
const PAYS: f64 = 0.7;
/// 1.35 tokens in 1.45 rounds.
const DOES_NOT: f64 = 0.35;

#[test]
fn drafts_where_that_pays_though_the_first_one_is_dear() {
    let speedup = World::new().speedup(PAYS, 20_000);
    assert!(speedup > 1.13, "{speedup}");
}

#[test]
fn rests_where_it_does_not() {
    let speedup = World::new().speedup(DOES_NOT, 20_000);
    assert!(speedup > 0.985, "{speedup}");
}

#[test]
fn follows_when_the_world_changes() {
    let mut world = World::new();
    world.speedup(DOES_NOT, 10_000);
    let better = world.speedup(PAYS, 20_000);
    assert!(better > 1.08, "{better}");
    let worse = world.speedup(DOES_NOT, 20_000);
    assert!(worse > 0.98, "{worse}");
}
