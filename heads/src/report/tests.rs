use super::{DraftRule, Point, Ranking, Replay, RoundCosts, early_exits, fastest, thresholds};
use crate::calibrate::{HeadSamples, Samples};
use dssd_common::exit::{Calibration, HeadCalibration, Threshold};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Scores, whether each is right, and the document of each.
type Positions = (Vec<f32>, Vec<bool>, Vec<u32>);

/// Positions with few distinct scores, so that many are equal.
fn drawn(random: &mut ChaCha8Rng, documents: u32) -> Positions {
    let count = random.random_range(2..80);
    let scores: Vec<f32> = (0..count)
        .map(|_| random.random_range(0..12) as f32)
        .collect();
    let right = scores
        .iter()
        .map(|&score| random.random_bool(f64::from(score) / 14.0 + 0.1));
    let right = right.collect();
    let documents = (0..count)
        .map(|_| random.random_range(0..documents))
        .collect();
    (scores, right, documents)
}

/// Every pair of a right and a wrong position: 1 if the right one is ahead, a half if equal.
fn auroc_of_pairs(scores: &[f32], right: &[bool]) -> Option<f64> {
    let (mut won, mut pairs) = (0.0, 0.0);
    for (a, _) in scores.iter().zip(right).filter(|(_, right)| **right) {
        for (b, _) in scores.iter().zip(right).filter(|(_, right)| !**right) {
            pairs += 1.0;
            won += match a.total_cmp(b) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (pairs > 0.0).then(|| won / pairs)
}

/// For every position, the share of wrong ones among those at least as confident.
fn aurc_of_pairs(scores: &[f32], right: &[bool]) -> f64 {
    let risk = |least: f32| {
        let inside = scores.iter().zip(right).filter(|(s, _)| **s >= least);
        let (mut wrong, mut all) = (0.0, 0.0);
        for (_, right) in inside {
            all += 1.0;
            wrong += f64::from(u8::from(!right));
        }
        wrong / all
    };
    scores.iter().map(|&score| risk(score)).sum::<f64>() / scores.len() as f64
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn areas_are_those_of_all_pairs_however_often_documents_count() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..400 {
        let (scores, right, documents) = drawn(&mut random, 5);
        let counts: Vec<u32> = (0..5).map(|_| random.random_range(0..4)).collect();
        let ranking = Ranking::new(&scores, &right, &documents);
        // What a document counts twice for is what two copies of it say.
        let copies = documents
            .iter()
            .enumerate()
            .flat_map(|(at, &document)| vec![at; counts[document as usize] as usize]);
        let (scores, right): (Vec<f32>, Vec<bool>) =
            copies.map(|at| (scores[at], right[at])).unzip();
        let expected = auroc_of_pairs(&scores, &right);
        assert_eq!(ranking.auroc(&counts).is_some(), expected.is_some());
        if let (Some(found), Some(expected)) = (ranking.auroc(&counts), expected) {
            assert_close(found, expected);
        }
        match ranking.aurc(&counts) {
            Some(found) => assert_close(found, aurc_of_pairs(&scores, &right)),
            None => assert!(scores.is_empty()),
        }
    }
}

#[test]
fn areas_have_their_closed_forms() {
    let count = 20_000;
    let scores: Vec<f32> = (0..count).map(|i| -(i as f32)).collect();
    let documents = vec![0; count];
    // The wrong 30 % come last: AURC = ∫ (c − 0.7)/c dc over 0.7 … 1 = 0.3 + 0.7·ln 0.7.
    let right: Vec<bool> = (0..count).map(|i| i < count * 7 / 10).collect();
    let perfect = Ranking::new(&scores, &right, &documents);
    assert_close(perfect.auroc(&[1]).unwrap(), 1.0);
    let area = perfect.aurc(&[1]).unwrap();
    assert!((area - (0.3 + 0.7 * 0.7f64.ln())).abs() < 1e-4, "{area}");
    // Right on [0.5, 1.5], wrong on [0, 1]: AUROC = 1 − 0.5²/2.
    let both = (0..count).map(|i| (i / 2) as f32 / (count / 2) as f32 + 0.5 * (i % 2) as f32);
    let right: Vec<bool> = (0..count).map(|i| i % 2 == 1).collect();
    let shifted = Ranking::new(&both.collect::<Vec<_>>(), &right, &documents);
    let area = shifted.auroc(&[1]).unwrap();
    assert!((area - 0.875).abs() < 1e-4, "{area}");
    // A score that says nothing.
    let flat = Ranking::new(&vec![1.0; count], &right, &documents);
    assert_close(flat.auroc(&[1]).unwrap(), 0.5);
    assert_close(flat.aurc(&[1]).unwrap(), 0.5);
}

#[test]
fn the_area_under_the_curve_that_is_drawn_is_the_area_that_is_told() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let (scores, right, documents) = drawn(&mut random, 3);
    let ranking = Ranking::new(&scores, &right, &documents);
    let trapezes = |curve: &[Point]| -> f64 {
        let pairs = curve.windows(2);
        pairs
            .map(|p| (p[1].x - p[0].x) * (p[0].y + p[1].y) / 2.0)
            .sum()
    };
    let all = [1; 3];
    assert_close(
        trapezes(&ranking.roc(&all, usize::MAX)),
        ranking.auroc(&all).unwrap(),
    );
    let last = |curve: Vec<Point>| *curve.last().unwrap();
    assert_eq!(last(ranking.roc(&all, 3)), Point { x: 1.0, y: 1.0 });
    let wrong = right.iter().filter(|right| !**right).count();
    let risk = wrong as f64 / right.len() as f64;
    assert_eq!(
        last(ranking.risk_coverage(&all, 3)),
        Point { x: 1.0, y: risk }
    );
}

/// Two heads at layers 2 and 5 and four positions in two documents.
fn four_positions() -> Samples {
    let head = |layer, entropy: [f32; 4], agrees: [bool; 4], surprisal: [f32; 4]| HeadSamples {
        layer,
        entropy: entropy.to_vec(),
        agrees: agrees.to_vec(),
        surprisal: surprisal.to_vec(),
        ..HeadSamples::default()
    };
    Samples {
        documents: vec![4, 4, 9, 9],
        surprisal: vec![1.0; 4],
        heads: vec![
            head(
                2,
                [0.1, 2.0, 0.2, 2.0],
                [true, false, false, true],
                [1.5; 4],
            ),
            head(5, [0.1, 0.4, 0.2, 2.0], [true; 4], [1.25; 4]),
        ],
        ..Samples::default()
    }
}

fn calibration() -> Calibration {
    let head = |layer, nats| HeadCalibration {
        layer,
        thresholds: vec![Threshold {
            epsilon: 0.8,
            nats: Some(nats),
            realised: None,
        }],
        acceptance: Vec::new(),
    };
    Calibration {
        format: 1,
        checkpoint_fingerprint: String::new(),
        tokenizer_hash: None,
        heads_hash: String::new(),
        text_hash: String::new(),
        source: String::new(),
        rule: "conditional".to_owned(),
        temperatures: Vec::new(),
        heads: vec![head(2, 0.3), head(5, 0.5)],
    }
}

#[test]
fn positions_leave_at_the_first_confident_head() {
    // Two leave at layer 2 (one of them wrong), one at layer 5, one goes through all 12.
    let exits = early_exits(&calibration(), &four_positions(), 12, 0).unwrap();
    let exit = &exits[0];
    assert_eq!(exit.epsilon, 0.8);
    assert_close(exit.agreement, 0.75);
    assert_close(exit.exit_depth, (2.0 + 2.0 + 5.0 + 12.0) / 4.0);
    assert_eq!(exit.coverage, [0.5, 0.25]);
    assert_eq!(exit.asked, [1.0, 0.5]);
    assert_close(exit.perplexity_ratio, f64::exp((0.5 + 0.5 + 0.25) / 4.0));
}

#[test]
fn a_threshold_is_held_to_what_leaves_there() {
    let samples = four_positions();
    let reports = thresholds(&calibration(), &samples, &samples, 0).unwrap();
    let [first, second] = [&reports[0][0], &reports[1][0]];
    assert_eq!((first.coverage, first.realised), (0.5, Some(0.5)));
    assert_eq!((second.coverage, second.realised), (0.25, Some(1.0)));
    assert_eq!(second.on_text.map(|on_text| on_text.coverage), Some(0.25));
}

/// Positions of one document: whether the head is right, and its entropy.
fn one_document(positions: &[(bool, f32)]) -> Samples {
    let (agrees, entropy) = positions.iter().copied().unzip();
    Samples {
        documents: vec![0; positions.len()],
        heads: vec![HeadSamples {
            agrees,
            entropy,
            ..HeadSamples::default()
        }],
        ..Samples::default()
    }
}

fn best(samples: &Samples, costs: &RoundCosts<'_>) -> Replay {
    fastest(samples, &samples.heads[0], costs).unwrap()
}

#[test]
fn the_fastest_rule_drafts_where_the_head_is_sure() {
    // Right twice and wrong twice, in turn, and the entropy tells which.
    let positions: Vec<(bool, f32)> = (0..80)
        .map(|i| (i % 4 < 2, [0.1, 0.2, 2.0, 3.0][i % 4]))
        .collect();
    let costs = RoundCosts {
        plain: 1.0,
        drafts: &[0.2, 0.3, 0.4],
        passes: &[1.0, 1.05, 1.1, 1.15],
    };
    let best = best(&one_document(&positions), &costs);
    // A round with two tokens, which brings the third, and one that drafts nothing: four tokens in
    // 1.1 + 0.1 + 0.2, and 1 + 0.1 + 0.1.
    assert!((best.speedup - 4.0 / 2.6).abs() < 1e-9, "{best:?}");
    let rule = DraftRule {
        threshold: best.rule.threshold,
        keep: false,
        longest: 2,
    };
    assert_eq!(best.rule, rule);
    assert!(
        rule.threshold.is_some_and(|t| (0.2..3.0).contains(&t)),
        "{rule}"
    );
    assert_eq!((best.draft_acceptance_rate, best.coverage), (1.0, 0.5));
}

#[test]
fn fixed_lengths_follow_the_formula_of_independent_tokens() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let positions: Vec<(bool, f32)> = (0..200_000)
        .map(|_| (random.random_bool(0.8), 1.0))
        .collect();
    let costs = RoundCosts {
        plain: 1.0,
        drafts: &[0.325, 0.65, 0.975, 1.3],
        passes: &[1.0; 8],
    };
    // The published optimum of drafts of a fixed length at this cost and acceptance is 1.49.
    let best = best(&one_document(&positions), &costs);
    assert!((best.speedup - 1.49).abs() < 0.01, "{best:?}");
    assert_eq!(best.coverage, 1.0);
}

#[test]
fn a_draft_does_not_reach_into_another_document() {
    let samples = Samples {
        documents: vec![1, 2, 2, 7],
        ..one_document(&[(true, 0.0); 4])
    };
    let costs = RoundCosts {
        plain: 1.0,
        drafts: &[0.0; 4],
        passes: &[1.0; 5],
    };
    // Rounds of one, two and one drafted tokens, each with one more.
    let best = best(&samples, &costs);
    assert!((best.speedup - 7.0 / 3.0).abs() < 1e-9, "{best:?}");
}
