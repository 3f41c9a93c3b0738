//! The benches, as a script runs them: quick settings, and the keys that it reads.

use serde_json::Value;
use std::process::{Command, Output};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");

fn dssd(arguments: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_dssd"))
        .args(arguments.split(' '))
        .output();
    output.unwrap_or_else(|error| panic!("{arguments}: {error}"))
}

fn report(arguments: &str) -> Value {
    let output = dssd(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments}: {output:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The keys are there, and their numbers positive.
fn assert_positive(value: &Value, keys: &[&str]) {
    for key in keys {
        let number = value[key].as_f64();
        assert!(number.is_some_and(|number| number > 0.0), "{key}: {value}");
    }
}

fn list<'a>(report: &'a Value, key: &str) -> &'a [Value] {
    report[key].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn decode_reports_passes_of_one_to_eight_rows() {
    let report = report(&format!("bench decode --model {DEMO} --rounds 3 --json"));
    assert_positive(
        &report,
        &[
            "weight_bytes",
            "decode_tokens_per_second",
            "bandwidth_share",
            "prefill_tokens_per_second",
        ],
    );
    assert_eq!(report["dtype"], "bf16");
    let rows = list(&report, "rows");
    assert_eq!(rows.len(), 8);
    assert_eq!(rows[0]["ratio_to_one_row"], 1.0);
    assert_positive(&rows[7], &["rows", "seconds", "ratio_to_one_row"]);
    assert_positive(&report["phases"], &["pass", "other"]);
    assert_eq!(report["phases"]["upload"], 0.0);
}

#[test]
fn decode_measures_several_batches_beside_one_sequence() {
    let report = report(&format!(
        "bench decode --model {DEMO} --rounds 3 --batch 3,1 --prefill 0 --json"
    ));
    let batches = list(&report, "batches");
    let sizes: Vec<&Value> = batches.iter().map(|batch| &batch["batch"]).collect();
    assert_eq!(sizes, [3, 1]);
    let keys = [
        "step_seconds",
        "bandwidth_share",
        "ratio_to_one_sequence",
        "tokens_per_second",
    ];
    for batch in batches {
        assert_positive(batch, &keys);
        let number = |key: &str| batch[key].as_f64().unwrap_or(f64::NAN);
        let tokens = number("tokens_per_second") * number("step_seconds");
        assert!((tokens - number("batch")).abs() < 1e-9, "{batch}");
    }
    // The first one is the one that readers of a single number see.
    assert_eq!(report["batch"], 3);
    let rate = &batches[0]["tokens_per_second"];
    assert_eq!(&report["decode_tokens_per_second"], rate);
    assert_eq!(&report["bandwidth_share"], &batches[0]["bandwidth_share"]);
    assert_eq!(batches[1]["ratio_to_one_sequence"], 1.0);
    assert!(report.get("prefill_tokens").is_none(), "{report}");
}

#[test]
fn kernels_reports_every_type_and_size() {
    let report = report("bench kernels --rounds 1 --json");
    assert_positive(&report, &["read_bandwidth", "cache_bytes"]);
    let products = list(&report, "products");
    assert_eq!(products.len(), 3 * 5);
    for product in products {
        let keys = [
            "seconds",
            "ratio_to_one_row",
            "bandwidth_share",
            "candle_seconds",
        ];
        assert_positive(product, &keys);
        assert_eq!((&product["n"], &product["k"]), (&8192.into(), &2048.into()));
    }
    let entropy = list(&report, "entropy");
    assert_eq!(entropy.len(), 3 * 3 * 2);
    for size in entropy {
        assert_positive(size, &["seconds", "bandwidth_share", "op_chain_seconds"]);
    }
}

#[test]
fn pair_measures_the_demo_model_with_its_own_drafter() {
    let report = report("bench pair --policy fixed:0:2 --rounds 1 --max-new-tokens 24 --json");
    assert_positive(&report, &["plain_tokens_per_second", "round_trip_seconds"]);
    assert_eq!(report["shape"], "demo");
    let policies = list(&report, "policies");
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0]["policy"], "fixed:0:2");
    let keys = [
        "tokens_per_second",
        "speedup",
        "draft_acceptance_rate",
        "mean_acceptance_length",
        "wasted_per_token",
        "coverage",
        "draft_seconds",
        "verify_seconds",
        "wire_seconds",
        "tokens_per_pass",
        "optimum_speedup",
    ];
    assert_positive(&policies[0], &keys);
    let number = |key: &str| policies[0][key].as_f64().unwrap_or(f64::NAN);
    let reached = number("share_of_optimum") * number("optimum_speedup");
    assert!((reached - number("speedup")).abs() < 1e-9, "{report}");
}

#[test]
fn an_oracle_drafts_for_random_weights_as_well_as_asked() {
    let arguments = "bench pair --shape pythia-70m --acceptance 0.9 --policy fixed:0:3";
    let report = report(&format!(
        "{arguments} --rounds 1 --max-new-tokens 48 --json"
    ));
    let policy = &list(&report, "policies")[0];
    // 0.9 for each token, given those before it: 0.81 of three on average, with some noise.
    let rate = policy["draft_acceptance_rate"].as_f64();
    assert!(
        rate.is_some_and(|rate| (0.5..=1.0).contains(&rate)),
        "{policy}"
    );
    assert_positive(policy, &["coverage", "draft_seconds", "verify_seconds"]);
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let usage = [
        "bench pair --acceptance 0.5",
        "bench pair --shape pythia-70m --acceptance 1.5",
        "bench decode --shape gpt-5",
        "bench decode --model x --shape pythia-70m",
        "bench decode --shape pythia-70m --batch 1,0",
        "bench decode --shape pythia-70m --prefill 513",
        "bench kernels --rounds 0",
    ];
    for arguments in usage {
        assert_eq!(dssd(arguments).status.code(), Some(2), "{arguments}");
    }
    let failure = dssd("bench pair --shape pythia-70m --policy entropy:1");
    assert_eq!(failure.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failure.stderr).contains("fixed:0:TOKENS"));
}
