//! What a person types: policies, sizes, seconds, flags.

use crate::{bytes, harness::Target};
use clap::Parser as _;
use dssd_common::{
    policy::{PolicySettings, PolicySpec, Setting},
    serve::{Dtype, KvMemory, LogFormat, Switch, WorkAhead, parse_seconds},
};
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

const NAMES: Target = Target {
    name: "policies and values",
    share: 0.05,
};
const FLAGS: Target = Target {
    name: "command lines",
    share: 0.05,
};
const SEEDS: [&str; 24] = [
    "auto",
    "off",
    "del",
    "fixed:0:4",
    "fixed:1:18446744073709551615",
    "entropy:1.5",
    "entropy@0.9",
    "max-prob:0:0.5",
    "max-prob:0:0.5:keep",
    "adaedl:1:keep",
    "product:2:0.9",
    "entropy",
    "512MiB",
    "0.25",
    "18014398509481984KiB",
    "25",
    "1e19",
    "-0.0",
    "bf16",
    "on",
    "json",
    "127.0.0.1:0",
    "http://[::1]:50052",
    "1,2,3",
];

fn value(random: &mut ChaCha8Rng) -> String {
    let (seed, other) = (SEEDS.choose(random).unwrap(), SEEDS.choose(random).unwrap());
    match random.random_range(0..8) {
        0 => (*seed).to_owned(),
        1 => bytes::text(random, &SEEDS, 4),
        _ => bytes::mutated_text(random, seed, other),
    }
}

#[test]
fn policies_and_values() {
    NAMES.run(|random| {
        let text = value(random);
        let accepted = [
            text.parse::<KvMemory>().is_ok(),
            parse_seconds(&text).is_ok(),
            text.parse::<Dtype>().is_ok(),
            text.parse::<Switch>().is_ok(),
            text.parse::<LogFormat>().is_ok(),
            text.parse::<WorkAhead>().is_ok(),
        ];
        if let Ok(memory) = text.parse() {
            _ = KvMemory::budget(Some(memory), 1 << 20);
        }
        let settings = PolicySettings {
            exit_head: random
                .random_bool(0.1)
                .then(|| random.random::<u64>() as usize),
            tokens: random
                .random_bool(0.1)
                .then(|| random.random::<u64>() as usize),
            entropy_threshold: random
                .random_bool(0.1)
                .then(|| f32::from_bits(random.random())),
            target_agreement: random
                .random_bool(0.1)
                .then(|| f32::from_bits(random.random())),
        };
        let spec = PolicySpec::requested(&text, settings, PolicySpec::Auto);
        if let Ok(spec) = spec {
            assert_eq!(spec.to_string().parse::<PolicySpec>().unwrap(), spec);
            build(random, spec);
        }
        spec.is_ok() || accepted.contains(&true)
    });
}

fn build(random: &mut ChaCha8Rng, spec: PolicySpec) {
    let setting = Setting {
        exits: &[1, 2],
        max_draft_tokens: *[1, 8, usize::MAX].choose(random).unwrap(),
        calibration: None,
        temperature: *[0.0, 0.8, 1e30].choose(random).unwrap(),
    };
    if let Ok(Some(policy)) = spec.build(setting) {
        assert!(policy.max_draft_tokens() <= setting.max_draft_tokens);
        policy.reads(0);
    }
}

#[test]
fn command_lines() {
    const FLAG_NAMES: [&str; 20] = [
        "--model",
        "--listen",
        "--threads",
        "--dtype",
        "--kv-memory",
        "--max-sequences",
        "--max-context",
        "--max-step-rows",
        "--policy",
        "--target-agreement",
        "--max-draft-tokens",
        "--drain-timeout",
        "--reflection",
        "--log-format",
        "--draft",
        "--allow-lossy",
        "--heads",
        "--exits",
        "--work-ahead",
        "--default-max-new-tokens",
    ];
    FLAGS.run(|random| {
        let mut line = vec!["service".to_owned()];
        for _ in 0..random.random_range(0..4) {
            line.push((*FLAG_NAMES.choose(random).unwrap()).to_owned());
            line.push(value(random));
        }
        let drafter = draft_svc::Config::try_parse_from(&line).is_ok();
        let verifier = verify_svc::Config::try_parse_from(&line).is_ok();
        drafter || verifier
    });
}
