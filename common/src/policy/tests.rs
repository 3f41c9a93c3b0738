use super::{forecast::Round, *};
use crate::exit::{AcceptanceTable, HeadCalibration, Threshold};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

mod auto;
mod bars;
mod pair;
mod worlds;

fn summary(entropy: f32, valid: bool) -> Summary {
    Summary {
        argmax: 0,
        max_probability: 0.5,
        margin_probability: 0.1,
        margin_logit: 0.1,
        log_sum_exp: 0.0,
        entropy,
        valid,
    }
}

fn decide(policy: &mut dyn Policy, head: usize, deepest: bool, entropy: f32) -> Decision {
    policy.decide(ExitView {
        head,
        deepest,
        summary: &summary(entropy, true),
        drafted: 0,
        experience: &Experience::new(2, None),
    })
}

fn setting(exits: &[usize]) -> Setting<'_> {
    Setting {
        exits,
        max_draft_tokens: 8,
        calibration: None,
        temperature: 0.0,
    }
}

fn built(name: &str, exits: &[usize]) -> Box<dyn Policy> {
    let spec: PolicySpec = name.parse().unwrap();
    spec.build(setting(exits)).unwrap().unwrap()
}

#[test]
fn entropy_goes_deeper_until_confident_and_stops_at_the_deepest() {
    let mut policy = built("entropy:1.5", &[2, 4]);
    assert_eq!(decide(policy.as_mut(), 0, false, 1.5), Decision::Emit);
    assert_eq!(decide(policy.as_mut(), 0, false, 1.51), Decision::Deeper);
    assert_eq!(
        decide(policy.as_mut(), 1, true, 1.51),
        Decision::Stop(StopCause::Confidence)
    );
}

#[test]
fn a_damaged_row_is_never_drafted() {
    let names = [
        "entropy:9",
        "fixed:0:4",
        "max-prob:0:0.1",
        "max-prob:0:0.1:keep",
        "adaedl:0",
        "adaedl:0:keep",
        "del",
        "auto",
    ];
    for name in names {
        let decision = built(name, &[2]).decide(ExitView {
            head: 0,
            deepest: true,
            summary: &summary(0.0, false),
            drafted: 0,
            experience: &Experience::new(1, None),
        });
        assert!(
            matches!(decision, Decision::Stop(_)),
            "{name}: {decision:?}"
        );
    }
}

#[test]
fn fixed_reads_its_own_exit_only_and_must_exist() {
    let policy = built("fixed:1:3", &[2, 4]);
    assert!(policy.reads(1) && !policy.reads(0));
    assert_eq!(policy.max_draft_tokens(), 3);
    for name in ["fixed:1:3", "max-prob:1:0.5", "adaedl:1"] {
        let spec: PolicySpec = name.parse().unwrap();
        let error = spec.build(setting(&[2])).unwrap_err().to_string();
        assert!(error.contains("[2]"), "{error}");
    }
}

#[test]
fn the_failing_token_is_dropped_or_kept_as_the_last() {
    // The summary's maximum probability is 0.5.
    let decided = |name| decide(built(name, &[2]).as_mut(), 0, true, 9.0);
    assert_eq!(decided("max-prob:0:0.4"), Decision::Emit);
    assert_eq!(
        decided("max-prob:0:0.6"),
        Decision::Stop(StopCause::Confidence)
    );
    assert_eq!(decided("max-prob:0:0.6:keep"), Decision::EmitLast);
    assert_eq!(decided("adaedl:0:keep"), Decision::EmitLast);
}

#[test]
fn the_bar_of_adaedl_follows_the_acceptance() {
    // 1 − √(0.2·1.8) is 0.4, the bar at the start.
    let mut policy = built("adaedl:0", &[2]);
    assert_eq!(decide(policy.as_mut(), 0, true, 1.79), Decision::Emit);
    let drafted = [Drafted {
        head: 0,
        entropy: 1.0,
    }; 4];
    let outcome = |accepted| Outcome {
        drafted: &drafted,
        accepted,
        committed: accepted + 1,
        seconds: 0.01,
    };
    let mut experience = Experience::new(2, None);
    policy.learn(outcome(0), &mut experience);
    assert_ne!(decide(policy.as_mut(), 0, true, 1.79), Decision::Emit);
    for _ in 0..20 {
        policy.learn(outcome(4), &mut experience);
    }
    assert_eq!(decide(policy.as_mut(), 0, true, 1.9), Decision::Emit);
}

fn calibration() -> Calibration {
    let head = |layer, nats| HeadCalibration {
        layer,
        thresholds: vec![Threshold {
            epsilon: 0.8,
            nats,
            realised: None,
        }],
        acceptance: vec![AcceptanceTable {
            temperature: 0.0,
            entropies: vec![1.0, 2.0],
            probabilities: vec![0.9, 0.2],
        }],
    };
    Calibration {
        format: 1,
        checkpoint_fingerprint: String::new(),
        tokenizer_hash: None,
        heads_hash: String::new(),
        text_hash: String::new(),
        source: String::new(),
        rule: "conditional".into(),
        temperatures: vec![0.0],
        heads: vec![head(2, None), head(4, Some(1.25))],
    }
}

#[test]
fn a_target_agreement_takes_the_calibrated_thresholds() {
    let calibration = calibration();
    let spec: PolicySpec = "entropy@0.75".parse().unwrap();
    let error = spec.build(setting(&[2, 4])).unwrap_err().to_string();
    assert!(error.contains("calibrated"), "{error}");
    let calibrated = Setting {
        calibration: Some(&calibration),
        ..setting(&[2, 4])
    };
    let mut policy = spec.build(calibrated).unwrap().unwrap();
    assert!(!policy.reads(0), "a head that is off costs nothing");
    assert_eq!(decide(policy.as_mut(), 1, true, 1.25), Decision::Emit);
    assert_ne!(decide(policy.as_mut(), 1, true, 1.26), Decision::Emit);
    let above: PolicySpec = "entropy@0.9".parse().unwrap();
    let error = above.build(calibrated).unwrap_err().to_string();
    assert!(error.contains("0.8"), "{error}");
}

#[test]
fn the_product_counts_the_whole_draft() {
    let calibration = calibration();
    let spec: PolicySpec = "product:0:0.7".parse().unwrap();
    let calibrated = Setting {
        calibration: Some(&calibration),
        ..setting(&[2, 4])
    };
    let mut policy = spec.build(calibrated).unwrap().unwrap();
    let experience = Experience::new(2, Some(calibration.clone()));
    let mut at = |drafted| {
        policy.decide(ExitView {
            head: 0,
            deepest: false,
            summary: &summary(0.5, true),
            drafted,
            experience: &experience,
        })
    };
    // .9, .81, .729, .656
    assert_eq!([at(0), at(1), at(2)], [Decision::Emit; 3]);
    assert_ne!(at(3), Decision::Emit);
    assert_eq!(at(0), Decision::Emit, "a new draft begins anew");
}

/// An experience in which a band with its exit takes a tenth of a pass, rows are nearly free, and
/// every head is right with probability `p` whatever its entropy.
fn experience(p: f64) -> Experience {
    let mut calibration = calibration();
    for head in &mut calibration.heads {
        head.acceptance[0].probabilities = vec![p, p];
    }
    let mut experience = Experience::new(2, Some(calibration));
    experience.costs.observe_band(0, 0.0005, Some(0.0005));
    experience.costs.observe_band(1, 0.0005, Some(0.0005));
    experience.costs.verify = (0..9).map(|rows| 0.01 + 1e-4 * f64::from(rows)).collect();
    experience
}

#[test]
fn the_best_choice_is_kept_and_one_that_is_forecast_far_behind_is_tried_seldom() {
    let mut rates = Experience::new(3, None).rates;
    let round = |rate: f64| {
        Some(Round {
            tokens: 2.0,
            seconds: 2.0 / rate,
        })
    };
    let forecasts = [100.0, 110.0, 108.0, 60.0].map(round);
    let mut chosen = [0; 4];
    for _ in 0..20_000 {
        let choice = rates.choose(&forecasts, 0.01);
        let (index, rate) = match choice {
            Choice::Plain => (0, 100.0),
            Choice::From(head) => (head + 1, [90.0, 120.0, 60.0][head]),
        };
        chosen[index] += 1;
        rates.observe(choice, 2, 2.0 / rate);
    }
    assert!(
        chosen[2] > 19_500 && chosen[3] >= 1 && chosen[3] < 100,
        "{chosen:?}"
    );
    let best = rates.best(&forecasts).unwrap();
    assert!((best - 120.0).abs() < 5.0, "{best}");
}

#[test]
fn del_takes_the_head_and_length_of_the_best_rate_and_probes_the_others() {
    let mut experience = experience(0.9);
    let mut policy = built("del", &[2, 4]);
    let mut heads = [0; 2];
    for _ in 0..200 {
        assert_eq!(policy.begin(&experience), None);
        let head = usize::from(policy.reads(1));
        heads[head] += 1;
        let drafted = vec![Drafted { head, entropy: 1.0 }; policy.max_draft_tokens()];
        // The first head is always wrong, the second one always right.
        let accepted = if head == 0 { 0 } else { drafted.len() };
        let outcome = Outcome {
            drafted: &drafted,
            accepted,
            committed: accepted + 1,
            seconds: 0.02,
        };
        policy.learn(outcome, &mut experience);
    }
    assert!(heads[0] >= 4 && heads[0] < 60, "{heads:?}");
    assert_eq!(
        policy.max_draft_tokens(),
        8,
        "what is always right is drafted long"
    );
}

#[test]
fn experience_corrects_what_was_promised() {
    let mut experience = experience(0.9);
    let drafted = [Drafted {
        head: 0,
        entropy: 1.5,
    }];
    let before = experience.acceptance(0, 1.5, 0.0);
    for round in 0..400 {
        let accepted = usize::from(round % 2 == 0);
        experience.learn(
            Outcome {
                drafted: &drafted,
                accepted,
                committed: accepted + 1,
                seconds: 0.01,
            },
            0.0,
        );
    }
    let after = experience.acceptance(0, 1.5, 0.0);
    assert!(
        (before - 0.9).abs() < 1e-9 && (0.5..0.65).contains(&after),
        "{before} {after}"
    );
    assert!(
        (experience.acceptance(1, 1.5, 0.0) - 0.9).abs() < 1e-9,
        "the other head is not blamed"
    );
    assert!(
        (experience.acceptance(0, 5.0, 0.0) - 0.9).abs() < 1e-9,
        "nor are other entropies"
    );
}

#[test]
fn rare_entropies_weigh_as_little_as_they_are_rare() {
    let mut experience = experience(0.9);
    for number in 0..10_000 {
        // Of every hundred tokens one is far off, and right three times in ten.
        let (entropy, right) = match number % 100 {
            50 => (6.0, (number / 100) % 10 < 3),
            _ => (0.2, number % 20 != 0),
        };
        let outcome = Outcome {
            drafted: &[Drafted { head: 0, entropy }],
            accepted: usize::from(right),
            committed: 1 + usize::from(right),
            seconds: 0.01,
        };
        experience.learn(outcome, 0.0);
    }
    let observed = experience.agreements().next().unwrap().observed();
    assert!((observed.unwrap() - 0.94).abs() < 0.02, "{observed:?}");
}

#[test]
fn a_head_that_leaves_its_calibration_is_told_of_once_until_it_returns() {
    let mut experience = experience(0.9);
    let mut told = Vec::new();
    let mut learn = |right: usize, rounds: usize| {
        let drafted = [Drafted {
            head: 1,
            entropy: 1.5,
        }];
        for round in 0..rounds {
            let accepted = usize::from(round % 10 < right);
            let outcome = Outcome {
                drafted: &drafted,
                accepted,
                committed: accepted + 1,
                seconds: 0.01,
            };
            experience.learn(outcome, 0.0);
            told.extend(experience.newly_adrift().into_iter().map(|(head, _)| head));
        }
        (told.clone(), experience.drift(1))
    };
    let (told, drift) = learn(9, 300);
    assert_eq!(told, [0; 0], "as promised");
    assert!(drift.unwrap().abs() < 0.02, "{drift:?}");
    let (told, drift) = learn(5, 400);
    assert_eq!(told, [1]);
    assert!((drift.unwrap() + 0.4).abs() < 0.05, "{drift:?}");
    assert_eq!(learn(9, 1000).0, [1], "back again");
    assert_eq!(learn(5, 400).0, [1, 1]);
    assert_eq!(experience.drift(0), None, "never judged");
    assert_eq!(experience.agreements().nth(1).unwrap().judged, 2100);
}

#[test]
fn a_copy_goes_its_own_way() {
    let mut policy = built("adaedl:0", &[2]);
    let mut copy = policy.duplicate();
    let drafted = [Drafted {
        head: 0,
        entropy: 1.0,
    }];
    let wrong = Outcome {
        drafted: &drafted,
        accepted: 0,
        committed: 1,
        seconds: 0.01,
    };
    copy.learn(wrong, &mut Experience::new(1, None));
    assert_ne!(decide(copy.as_mut(), 0, true, 1.79), Decision::Emit);
    assert_eq!(decide(policy.as_mut(), 0, true, 1.79), Decision::Emit);
}

#[test]
fn names_round_trip_and_nonsense_is_refused() {
    let names = [
        "off",
        "auto",
        "del",
        "fixed:2:4",
        "entropy:1.25",
        "entropy@0.85",
        "max-prob:1:0.5",
        "max-prob:1:0.5:keep",
        "adaedl:0",
        "adaedl:2:keep",
        "product:1:0.25",
    ];
    for text in names {
        assert_eq!(text.parse::<PolicySpec>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "fixed",
        "fixed:2:0",
        "fixed:x:1",
        "entropy:-1",
        "entropy:NaN",
        "magic:3",
        "entropy@1",
        "entropy@0",
        "entropy@x",
        "max-prob:0:1.5",
        "fixed:0:2:keep",
        "product:0:0.5:keep",
        "auto:1",
    ] {
        assert!(text.parse::<PolicySpec>().is_err(), "{text}");
    }
}

#[test]
fn settings_make_the_same_policies_as_full_names_and_strangers_are_refused() {
    let none = PolicySettings::default();
    let head = PolicySettings {
        exit_head: Some(1),
        tokens: Some(3),
        ..none
    };
    let nats = PolicySettings {
        entropy_threshold: Some(1.5),
        ..none
    };
    let parse = |text: &str| text.parse::<PolicySpec>().unwrap();
    assert_eq!(
        PolicySpec::from_settings("fixed", head).unwrap(),
        parse("fixed:1:3")
    );
    assert_eq!(
        PolicySpec::from_settings("entropy", nats).unwrap(),
        parse("entropy:1.5")
    );
    assert_eq!(
        PolicySpec::from_settings("entropy:2", none).unwrap(),
        parse("entropy:2")
    );
    let target = PolicySettings {
        target_agreement: Some(0.8),
        ..none
    };
    let entropy = |settings| PolicySpec::from_settings("entropy", settings).unwrap();
    assert_eq!(entropy(target), parse("entropy@0.8"));
    assert_eq!(entropy(none), parse("entropy@0.9"));
    let both = PolicySettings {
        target_agreement: Some(0.8),
        ..nats
    };
    for (name, settings) in [
        ("entropy", both),
        ("auto", target),
        ("entropy", head),
        ("fixed", nats),
        ("fixed:0:4", head),
        ("off", nats),
    ] {
        assert!(PolicySpec::from_settings(name, settings).is_err(), "{name}");
    }
}
