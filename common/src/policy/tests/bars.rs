//! What `auto` must reach in simulated pairs, as means over many seeds.

use super::pair::{Pair, Service};

const SEEDS: u64 = 50;
const FIXED: [&str; 4] = ["fixed:0:1", "fixed:0:2", "fixed:0:3", "fixed:0:5"];

/// Mean tokens per second of services over their first `tokens`.
fn rate(name: &str, pair: &Pair, tokens: usize) -> f64 {
    let rates = (0..SEEDS).map(|seed| Service::new(name, pair, seed).rate(pair, tokens));
    rates.sum::<f64>() / SEEDS as f64
}

/// `auto` over its first `tokens`, against no drafts and against the best of them and fixed drafts.
fn against(pair: &Pair, tokens: usize) -> (f64, f64) {
    let plain = rate("off", pair, 1000);
    let fixed = FIXED.iter().map(|name| rate(name, pair, 1000));
    let best = fixed.fold(plain, f64::max);
    let auto = rate("auto", pair, tokens);
    (auto / plain, auto / best)
}

#[test]
fn drafts_that_do_not_quite_pay_cost_little_from_the_first_request_on() {
    let demo = Pair::demo();
    let fixed = FIXED.map(|name| rate(name, &demo, 700) / rate("off", &demo, 700));
    let best = fixed.into_iter().fold(0.0, f64::max);
    assert!((0.9..0.98).contains(&best), "{fixed:?}");
    for (tokens, bar) in [(300, 0.96), (700, 0.975), (5000, 0.98)] {
        let (plain, _) = against(&demo, tokens);
        assert!(plain > bar, "{plain} after {tokens}");
    }
}

#[test]
fn drafts_that_pay_are_found_and_kept() {
    let (plain, best) = against(&Pair::busy(), 700);
    assert!(plain > 1.03 && best > 0.955, "{plain} {best}");
    let (plain, best) = against(&Pair::busy(), 5000);
    assert!(plain > 1.05 && best > 0.97, "{plain} {best}");
}

#[test]
fn dear_verifiers_are_drafted_for_at_once() {
    let large = Pair::large();
    let auto = rate("auto", &large, 300);
    let fixed = rate("fixed:0:3", &large, 300);
    assert!(auto > 0.97 * fixed, "{}", auto / fixed);
    let (plain, best) = against(&large, 5000);
    assert!(plain > 1.7 && best > 0.965, "{plain} {best}");
}

#[test]
fn where_no_draft_is_ever_right_little_is_lost() {
    for pair in [Pair::demo(), Pair::busy(), Pair::large()] {
        let (plain, _) = against(&Pair { truth: 0.0, ..pair }, 1000);
        assert!(plain > 0.98, "{plain}");
    }
}

#[test]
fn a_calibration_that_promises_too_much_or_too_little_is_seen_through() {
    for truth in [0.6, 0.3] {
        for pair in [Pair::demo(), Pair::busy()] {
            let (plain, _) = against(&Pair { truth, ..pair }, 700);
            assert!(plain > 0.97, "truth {truth}: {plain}");
        }
    }
    let better = Pair {
        truth: 1.3,
        ..Pair::busy()
    };
    let (plain, best) = against(&better, 5000);
    assert!(plain > 1.2 && best > 0.94, "{plain} {best}");
}

#[test]
fn heads_without_a_calibration_are_learned() {
    let uncalibrated = |pair: Pair| Pair {
        is_calibrated: false,
        ..pair
    };
    let (plain, _) = against(&uncalibrated(Pair::demo()), 700);
    assert!(plain > 0.97, "{plain}");
    let (plain, _) = against(&uncalibrated(Pair::busy()), 1000);
    assert!(plain > 1.0, "{plain}");
    let (plain, best) = against(&uncalibrated(Pair::large()), 1000);
    assert!(plain > 1.6 && best > 0.92, "{plain} {best}");
}

#[test]
fn the_table_of_the_temperature_counts() {
    let warm = Pair {
        temperature: 0.8,
        ..Pair::demo()
    };
    let (plain, _) = against(&warm, 700);
    assert!(plain > 0.97, "{plain}");
    let warm = Pair {
        temperature: 0.8,
        ..Pair::large()
    };
    let (plain, best) = against(&warm, 700);
    assert!(plain > 1.7 && best > 0.95, "{plain} {best}");
}

/// Tokens per second in each of `phases`, one after another, over that of plain decoding in them.
fn phases(phases: &[Pair], tokens: usize) -> Vec<f64> {
    let mut sums = vec![0.0; phases.len()];
    for seed in 0..SEEDS {
        let mut service = Service::new("auto", &phases[0], seed);
        for (sum, pair) in sums.iter_mut().zip(phases) {
            *sum += service.rate(pair, tokens) / SEEDS as f64;
        }
    }
    let plain = phases.iter().map(|pair| rate("off", pair, 1000));
    sums.iter()
        .zip(plain)
        .map(|(sum, plain)| sum / plain)
        .collect()
}

#[test]
fn load_that_comes_and_goes_does_not_mislead() {
    let (idle, loaded) = (Pair::demo(), Pair::demo().slower(2.0));
    let speedups = phases(&[idle.clone(), loaded.clone(), idle, loaded], 2000);
    assert!(
        speedups.iter().all(|&speedup| speedup > 0.97),
        "{speedups:?}"
    );
    let (idle, busy) = (Pair::demo(), Pair::busy());
    let speedups = phases(&[idle.clone(), busy.clone(), idle, busy], 3000);
    assert!(speedups[1] > 1.01 && speedups[3] > 1.02, "{speedups:?}");
    assert!(speedups[2] > 0.91, "{speedups:?}");
}

#[test]
fn texts_that_are_hard_to_draft_come_and_go() {
    let easy = Pair::busy();
    let hard = Pair {
        truth: 0.5,
        ..easy.clone()
    };
    let speedups = phases(&[easy.clone(), hard.clone(), easy, hard], 3000);
    assert!(speedups[1] > 0.96 && speedups[3] > 0.965, "{speedups:?}");
    assert!(speedups[2] > 1.0, "{speedups:?}");
}
