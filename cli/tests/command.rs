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
fn every_sampling_flag_reaches_the_server() {
    let out_of_range = [
        ("--repetition-penalty", "0", "repetition_penalty"),
        ("--presence-penalty", "-3", "presence_penalty"),
        ("--frequency-penalty", "3", "frequency_penalty"),
        ("--logit-bias", "999999:1", "logit_bias"),
        ("--temperature", "-1", "temperature"),
        ("--top-p", "2", "top_p"),
        ("--min-p", "2", "min_p"),
        ("--min-new-tokens", "200", "min_new_tokens"),
        ("--stop-token-id", "999999", "stop_token_ids"),
        ("--stop-string", "", "stop_strings"),
        ("--max-draft-tokens", "1000", "max_draft_tokens"),
    ];
    for (flag, value, field) in out_of_range {
        let output = dssd(&["demo", flag, value]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag}: {error}");
        assert!(error.contains(field), "{flag}: {error}");
    }
}

#[test]
fn flags_change_the_story_as_they_say() {
    let run = |arguments: &str| {
        let arguments = format!("demo --json --max-new-tokens 16 {arguments}");
        json(&dssd(&arguments.split(' ').collect::<Vec<_>>()))
    };
    let plain = run("--logprobs 2");
    let ids = plain["token_ids"].as_array().unwrap();
    let logprobs = plain["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), ids.len());
    for (entry, id) in logprobs.iter().zip(ids) {
        assert_eq!((&entry["token_id"], &entry["rank"]), (id, &1.into()));
        assert_eq!(entry["top"].as_array().unwrap().len(), 2);
        assert_eq!(&entry["top"][0]["token_id"], id);
    }
    let biased = run(&format!("--logit-bias {}:-100", ids[0]));
    assert_ne!(biased["token_ids"][0], ids[0]);
    assert_eq!(biased["logprobs"], Value::Null);
    let stopped = run(&format!("--stop-token-id {}", ids[4]));
    assert_eq!(stopped["finish_reason"], "STOP");
    let at = ids.iter().position(|id| *id == ids[4]).unwrap();
    assert_eq!(stopped["token_ids"].as_array().unwrap().len(), at + 1);
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
        assert!(count("tokens") > 0, "{row}");
        let drafted = count("accepted") > 0 && count("rejected") > 0;
        assert!(drafted || row["adaptive"] == true, "{row}");
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
    let wrong: [&[&str]; 10] = [
        &["check"],
        &["check", "--local", "--endpoint", "http://127.0.0.1:1"],
        &["demo", "--policy", "guess"],
        &["demo", "--plain", "--policy", "fixed:0:2"],
        &["generate"],
        &["generate", "--endpoint", "127.0.0.1:1", "x"],
        &["generate", "--logit-bias", "13=1", "x"],
        &["generate", "--deadline", "-1", "x"],
        &["generate", "--logprobs", "2", "x"],
        &["check", "--local", "--max-new-tokens", "0"],
    ];
    for arguments in wrong {
        assert_eq!(dssd(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let error = |arguments: &[&str]| {
        let output = dssd(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for command in ["demo", "check --local", "bench pair", "bench decode"] {
        let arguments = format!("{command} --model no/such/folder");
        let message = error(&arguments.split(' ').collect::<Vec<_>>());
        assert!(
            message.contains("no/such/folder: no such folder"),
            "{message}"
        );
    }
    let message = error(&["check", "--local", "--prompts", "no/such/file"]);
    assert!(message.contains("no/such/file"), "{message}");
    let url = "http://127.0.0.1:1";
    let message = error(&["generate", "--endpoint", url, "x"]);
    assert!(
        message.contains(url) && message.contains("refused"),
        "{message}"
    );
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands = [
        "",
        "demo",
        "generate",
        "check",
        "bench kernels",
        "bench decode",
        "bench pair",
    ];
    for command in commands {
        let arguments = command.split_whitespace().chain(["--help"]);
        let output = dssd(&arguments.collect::<Vec<_>>());
        assert!(output.status.success(), "{command}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Example: dssd"), "{command}: {text}");
    }
}

#[test]
fn a_reader_that_has_left_ends_a_command_quietly() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
    for arguments in [
        &["heads", "inspect", model][..],
        &["heads", "inspect", model, "--json"],
        &["demo", "--plain", "--max-new-tokens", "2"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_dssd"));
        let output = command.args(arguments).stdout(writer).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{arguments:?}: {told}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_is_full_is_told_and_is_a_failure() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dssd"));
    command.args(["heads", "inspect", model, "--json"]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("standard output"), "{told}");
}
