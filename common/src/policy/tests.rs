use super::*;

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
    })
}

#[test]
fn entropy_goes_deeper_until_confident_and_stops_at_the_deepest() {
    let spec: PolicySpec = "entropy:1.5".parse().unwrap();
    let mut policy = spec.build(&[2, 4], 8).unwrap().unwrap();
    assert_eq!(decide(policy.as_mut(), 0, false, 1.5), Decision::Emit);
    assert_eq!(decide(policy.as_mut(), 0, false, 1.51), Decision::Deeper);
    assert_eq!(decide(policy.as_mut(), 1, true, 1.51), Decision::Stop);
}

#[test]
fn a_damaged_row_is_never_drafted() {
    for text in ["entropy:9", "fixed:0:4"] {
        let mut policy = text
            .parse::<PolicySpec>()
            .unwrap()
            .build(&[2], 8)
            .unwrap()
            .unwrap();
        let bad = summary(0.0, false);
        assert_eq!(
            policy.decide(ExitView {
                head: 0,
                deepest: true,
                summary: &bad
            }),
            Decision::Stop
        );
    }
}

#[test]
fn fixed_reads_its_own_exit_only_and_must_exist() {
    let spec: PolicySpec = "fixed:1:3".parse().unwrap();
    let policy = spec.build(&[2, 4], 8).unwrap().unwrap();
    assert!(policy.reads(1) && !policy.reads(0));
    assert_eq!(policy.max_draft_tokens(), 3);
    assert!(spec.build(&[2], 8).unwrap_err().to_string().contains("[2]"));
}

#[test]
fn names_round_trip_and_nonsense_is_refused() {
    for text in ["off", "fixed:2:4", "entropy:1.25"] {
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
    for (name, settings) in [
        ("entropy", none),
        ("entropy", head),
        ("fixed", nats),
        ("fixed:0:4", head),
        ("off", nats),
    ] {
        assert!(PolicySpec::from_settings(name, settings).is_err(), "{name}");
    }
}
