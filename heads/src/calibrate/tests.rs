use super::*;

/// Positions of some documents at which each head agrees with a probability that falls with its
/// entropy; documents are easy or hard as a whole.
fn drawn(documents: u32, length: usize, heads: usize, seed: u64) -> Samples {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut samples = Samples {
        temperatures: vec![0.0],
        heads: (0..heads)
            .map(|layer| HeadSamples {
                layer: layer + 1,
                accepted: vec![Vec::new()],
                ..HeadSamples::default()
            })
            .collect(),
        ..Samples::default()
    };
    for document in 0..documents {
        let mood: f32 = random.random_range(-0.15..0.15);
        for _ in 0..length {
            samples.documents.push(document);
            for head in &mut samples.heads {
                let entropy: f32 = random.random_range(0.0..4.0);
                let p = (1.0 - entropy / 4.0 + mood).clamp(0.0, 1.0);
                let agrees = random.random_bool(p.into());
                head.entropy.push(entropy);
                head.agrees.push(agrees);
                head.accepted[0].push(agrees);
            }
        }
    }
    samples
}

/// The best threshold by trying every entropy that was seen.
fn by_search(pairs: &[(f32, bool)], epsilon: f64) -> Option<f32> {
    let mean_up_to = |t: f32| {
        let inside: Vec<bool> = pairs.iter().filter(|p| p.0 <= t).map(|p| p.1).collect();
        inside.iter().filter(|&&agrees| agrees).count() as f64 / inside.len() as f64
    };
    let good = pairs
        .iter()
        .map(|pair| pair.0)
        .filter(|&t| mean_up_to(t) >= epsilon);
    good.reduce(f32::max)
}

#[test]
fn thresholds_are_those_of_a_brute_force_search() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for case in 0..300 {
        // Few distinct entropies, so that many are equal.
        let pairs: Vec<(f32, bool)> = (0..random.random_range(1..120))
            .map(|_| (random.random_range(0..20) as f32 / 4.0, random.random()))
            .collect();
        for epsilon in [0.3, 0.5, 0.75, 0.99] {
            let expected = by_search(&pairs, epsilon);
            assert_eq!(
                threshold::max_coverage(pairs.clone(), epsilon),
                expected,
                "{case}"
            );
        }
    }
    let samples = drawn(20, 50, 3, 2);
    let all: Vec<usize> = (0..samples.len()).collect();
    for epsilon in [0.6, 0.9] {
        let mut left = all.clone();
        let found = threshold::conditional(&samples, &all, epsilon);
        for (head, found) in samples.heads.iter().zip(found) {
            let expected = by_search(&head.pairs(&left), epsilon);
            assert_eq!(found, expected);
            left.retain(|&at| expected.is_none_or(|t| head.entropy[at] > t));
        }
    }
}

#[test]
fn the_papers_rule_falls_back_on_the_smallest_entropy_and_the_others_switch_off() {
    let mut samples = drawn(8, 50, 1, 3);
    samples.heads[0].agrees.fill(false);
    let all: Vec<usize> = (0..samples.len()).collect();
    let smallest = samples.heads[0].entropy.iter().copied().reduce(f32::min);
    assert_eq!(threshold::paper(&samples, &all, 0.9), [smallest]);
    assert_eq!(threshold::conditional(&samples, &all, 0.9), [None]);
    let certified = certified(&samples, &all, &all, 0.9, Level { delta: 0.1 });
    assert_eq!(certified, [None]);
}

#[test]
fn the_p_value_is_a_p_value() {
    // With mean exactly at the boundary of the hypothesis, P(p ≤ u) must not exceed u.
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let (n, alpha, draws) = (60, 0.2, 4000);
    let mut draw = |p: f64| -> Vec<f64> {
        (0..n)
            .map(|_| f64::from(u8::from(random.random_bool(p))))
            .collect()
    };
    let small = (0..draws).filter(|_| p_value(&draw(alpha), alpha) <= 0.1);
    let small = small.count() as f64;
    assert!(small <= 0.1 * f64::from(draws), "{small}");
    assert!(p_value(&[0.05; 500], alpha) < 1e-6, "and it has power");
    assert_eq!(p_value(&[0.2; 10], 0.2), 1.0);
    assert_eq!(p_value(&[1.0; 10], 0.2), 1.0);
}

#[test]
fn certified_thresholds_keep_their_promise_as_often_as_they_say() {
    // A large population stands for the truth: a certificate is broken where leaving up to the
    // threshold agrees less often than ε there.
    let (epsilon, delta, draws) = (0.8, 0.1, 1000);
    let truth = drawn(4000, 20, 1, 5);
    let mut sorted: Vec<(f32, bool)> = truth.heads[0].pairs(&(0..truth.len()).collect::<Vec<_>>());
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut agreed = 0usize;
    let means: Vec<f64> = sorted
        .iter()
        .zip(1..)
        .map(|(pair, count)| {
            agreed += usize::from(pair.1);
            agreed as f64 / f64::from(count)
        })
        .collect();
    let (mut broken, mut given) = (0u32, 0u32);
    for draw in 0..draws {
        let samples = drawn(400, 20, 1, 1000 + draw);
        let (candidates, tests): (Vec<usize>, Vec<usize>) =
            (0..samples.len()).partition(|&at| samples.documents[at] < 100);
        let [Some(threshold)] =
            certified(&samples, &candidates, &tests, epsilon, Level { delta })[..]
        else {
            continue;
        };
        given += 1;
        let inside = sorted.partition_point(|pair| pair.0 <= threshold);
        broken += u32::from(inside > 0 && means[inside - 1] < epsilon);
    }
    let bound = delta + 3.0 * (delta * (1.0 - delta) / 1000.0).sqrt();
    assert!(
        f64::from(broken) <= bound * 1000.0,
        "{broken} of {given} broken"
    );
    assert!(given > 500, "the certificate is of use: {given}");
}

#[test]
fn what_is_promised_is_checked_on_other_documents() {
    let samples = drawn(200, 40, 2, 6);
    let split = Split::new(&samples, 1);
    let of = |positions: &[usize]| -> Vec<u32> {
        samples
            .lengths(positions)
            .iter()
            .map(|length| length.0)
            .collect()
    };
    let (a, b, c) = (of(&split.candidates), of(&split.fit), of(&split.check));
    assert!(a.iter().all(|d| !b.contains(d) && !c.contains(d)) && b.iter().all(|d| !c.contains(d)));
    assert_eq!(a.len() + b.len() + c.len(), 200);
    let thresholds = threshold::conditional(&samples, &split.fit_all(), 0.7);
    for realised in realised(&samples, &split.check, &thresholds, 1)
        .into_iter()
        .flatten()
    {
        assert!(
            realised.low <= 0.72 && realised.high >= 0.68,
            "{realised:?}"
        );
        assert!(realised.coverage > 0.1);
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let good = CalibrationSettings {
        rule: Rule::Conditional,
        epsilons: vec![0.6, 0.9],
        delta: 0.1,
        seed: 0,
    };
    good.check().unwrap();
    for epsilons in [vec![], vec![0.9, 0.6], vec![1.0], vec![f64::NAN]] {
        let error = CalibrationSettings {
            epsilons,
            ..good.clone()
        }
        .check()
        .unwrap_err();
        assert!(error.to_string().contains("epsilons"));
    }
    let error = CalibrationSettings { delta: 0.0, ..good }
        .check()
        .unwrap_err();
    assert!(error.to_string().contains("delta"));
}
