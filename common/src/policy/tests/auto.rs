//! `auto` in worlds with known costs and probabilities.

use super::*;

/// A world in which every round costs what it says.
#[derive(Clone, Copy)]
struct World {
    /// Probability of acceptance that the calibration promises.
    promised: f64,
    /// How often drafted tokens are right.
    truth: f64,
    /// Seconds of a band with its exit; a pass takes 0.01.
    band: f64,
}

impl World {
    fn calibrated(p: f64) -> Self {
        Self {
            promised: p,
            truth: p,
            band: 0.001,
        }
    }

    /// Lengths of the drafts of `auto`, and its tokens per second, over `rounds` rounds.
    fn play(self, rounds: usize) -> (Vec<usize>, f64) {
        let mut experience = experience(self.promised);
        for band in 0..2 {
            let half = 0.5 * self.band;
            (0..100).for_each(|_| experience.costs.observe_band(band, half, Some(half)));
        }
        let mut policy = built("auto", &[2, 4]);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (mut lengths, mut tokens, mut seconds) = (Vec::new(), 0.0, 0.0);
        for _ in 0..rounds {
            let (drafted, mut round) = self.draft(policy.as_mut(), &experience);
            let right = |_: &&Drafted| random.random_bool(self.truth);
            let accepted = drafted.iter().take_while(right).count();
            round += 0.01 + 1e-4 * drafted.len() as f64;
            let outcome = Outcome {
                drafted: &drafted,
                accepted,
                committed: accepted + 1,
                seconds: round,
            };
            experience.learn(outcome, 0.0);
            policy.learn(outcome, &mut experience);
            lengths.push(drafted.len());
            tokens += accepted as f64 + 1.0;
            seconds += round;
        }
        (lengths, tokens / seconds)
    }

    /// A draft, and its time.
    fn draft(self, policy: &mut dyn Policy, experience: &Experience) -> (Vec<Drafted>, f64) {
        let mut drafted = Vec::new();
        if policy.begin(experience).is_some() {
            return (drafted, 0.0);
        }
        let mut seconds = 1e-4;
        let entry = usize::from(!policy.reads(0));
        let mut head = entry;
        while drafted.len() < 8 {
            seconds += self.band * if head > entry { 1.0 } else { (1 + head) as f64 };
            let decision = policy.decide(ExitView {
                head,
                deepest: head == 1,
                summary: &summary(1.5, true),
                drafted: drafted.len(),
                experience,
            });
            match decision {
                Decision::Deeper => head += 1,
                Decision::Stop(_) => break,
                Decision::Emit | Decision::EmitLast => {
                    drafted.push(Drafted { head, entropy: 1.5 });
                    head = entry;
                }
            }
            if decision == Decision::EmitLast {
                break;
            }
        }
        (drafted, seconds)
    }

    /// The best rate of drafts of one length at the first head.
    fn best_rate(self) -> f64 {
        let p = self.truth;
        let rate = |length: i32| {
            let tokens = (1.0 - p.powi(length + 1)) / (1.0 - p);
            let draft = f64::from(length) * (self.band + 1e-4);
            let seconds = 0.01 + draft + if length > 0 { 1e-4 } else { 0.0 };
            tokens / seconds
        };
        (0..=8).map(rate).fold(0.0, f64::max)
    }
}

fn mean(lengths: &[usize]) -> f64 {
    lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
}

#[test]
fn auto_drafts_as_long_as_it_pays_and_not_at_all_where_it_does_not() {
    for p in [0.95, 0.8, 0.6] {
        let world = World::calibrated(p);
        let (_, rate) = world.play(2000);
        let best = world.best_rate();
        assert!(rate > 0.93 * best, "p {p}: {rate} of {best}");
    }
    let length = |p| mean(&World::calibrated(p).play(400).0);
    assert!(length(0.95) > 2.0 * length(0.6));
    let world = World::calibrated(0.02);
    let (lengths, rate) = world.play(1000);
    let drafts = lengths[100..].iter().filter(|&&length| length > 0).count();
    assert!(drafts <= 60, "{drafts} of 900 rounds, tries included");
    assert!(rate > 0.97 * world.best_rate(), "{rate}");
}

#[test]
fn auto_follows_what_it_sees_and_not_what_was_promised() {
    // Drafting costs too much for a truth of 0.3, and would pay well for the promised 0.95.
    let deceived = World {
        promised: 0.95,
        truth: 0.3,
        band: 0.006,
    };
    let (lengths, _) = deceived.play(200);
    let drafts = lengths[20..].iter().filter(|&&length| length > 0).count();
    assert!(
        drafts <= 18,
        "{drafts} of 180 rounds, tries included: {lengths:?}"
    );
    // Where only short drafts pay, no long ones go on, and the dear beginning is made up for.
    let deceived = World {
        band: 0.001,
        ..deceived
    };
    let (lengths, rate) = deceived.play(400);
    assert!(
        lengths[0] >= 6,
        "the promise is believed at first: {lengths:?}"
    );
    let later = mean(&lengths[50..]);
    assert!(later < 2.0, "{later}: {lengths:?}");
    let plain = 1.0 / 0.01;
    assert!(rate > 0.97 * plain, "{rate}");
}
