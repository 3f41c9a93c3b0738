//! The command as a person or a script runs it.

#![expect(
    clippy::unwrap_used,
    reason = "the functions of a test fail by panicking"
)]

use serde_json::Value;
use std::process::{Command, Output};

fn dssd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dssd"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{:?}", output.stderr))
}

#[test]
fn the_demo_tells_the_same_story_with_and_without_drafts() {
    let output = dssd(&["demo", "--json", "--max-new-tokens", "40", "--ignore-eos"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!(report["token_ids"].as_array().unwrap().len(), 40);
    assert!(!report["text"].as_str().unwrap().is_empty());
    assert_eq!(report["identical_to_plain"], true);
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(count("num_drafts") > 0, "{report}");
    assert!(count("num_accepted_tokens") > 0, "{report}");
    assert!(count("num_accepted_tokens") <= count("num_draft_tokens"));
    for key in [
        "tokens_per_second",
        "plain_tokens_per_second",
        "speedup",
        "draft_acceptance_rate",
        "mean_acceptance_length",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
    assert!(report["policy"].is_string());
}

#[test]
fn a_plain_demo_drafts_nothing_and_a_pipe_gets_no_colours() {
    let output = dssd(&[
        "demo",
        "--plain",
        "--max-new-tokens",
        "12",
        "--prompt",
        "The cat",
    ]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("The cat"), "{text}");
    assert!(!text.contains('\x1b'));
    assert!(text.contains("policy       off"), "{text}");
}

#[test]
fn a_seed_repeats_a_sampled_story() {
    let run = || {
        let arguments = "demo --json --max-new-tokens 24 --temperature 0.9 --seed 5";
        json(&dssd(&arguments.split(' ').collect::<Vec<_>>()))
    };
    let (first, second) = (run(), run());
    assert_eq!(first["token_ids"], second["token_ids"]);
    assert_eq!(first["seed"], 5);
}

#[test]
fn a_quick_check_passes_on_the_demo_model() {
    let output = dssd(&[
        "check",
        "--local",
        "--quick",
        "--json",
        "--max-new-tokens",
        "20",
    ]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!(report["differing_tokens"], 0);
    assert_eq!(report["first_divergence"], Value::Null);
    assert!(report["tokens_compared"].as_u64().unwrap() > 500);
    for row in report["settings"].as_array().unwrap() {
        let count = |key: &str| row[key].as_u64().unwrap();
        assert!(count("tokens") > 0 && count("accepted") > 0, "{row}");
        assert!(count("rejected") > 0, "{row}");
    }
}

#[test]
fn a_quick_check_with_faults_passes_and_counts_them() {
    let arguments = "check --local --quick --faults --json --max-new-tokens 16";
    let output = dssd(&arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    assert_eq!(report["differing_tokens"], 0);
    let rows = report["settings"].as_array().unwrap();
    let stale: u64 = rows
        .iter()
        .map(|row| row["stale_proposals"].as_u64().unwrap())
        .sum();
    assert!(stale > 0, "{report}");
}

#[test]
fn a_check_that_proves_nothing_fails() {
    let prompts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prompts.path(), "Once upon a time\n").unwrap();
    let path = prompts.path().to_str().unwrap();
    let output = dssd(&[
        "check",
        "--local",
        "--max-new-tokens",
        "8",
        "--prompts",
        path,
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("prove nothing"), "{text}");
}

#[test]
fn wrong_usage_ends_with_2_and_failed_work_with_1() {
    let wrong: [&[&str]; 5] = [
        &["check"],
        &["check", "--local", "--endpoint", "http://127.0.0.1:1"],
        &["demo", "--policy", "guess"],
        &["demo", "--plain", "--policy", "fixed:0:2"],
        &["generate"],
    ];
    for arguments in wrong {
        assert_eq!(dssd(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = dssd(&["demo", "--model", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no/such/folder"));
}
