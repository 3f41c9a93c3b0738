//! `dssd bench load`, as a script runs it: short runs on the demo model.

use serde_json::Value;
use std::process::{Command, Output};

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

fn list<'a>(report: &'a Value, key: &str) -> &'a [Value] {
    report[key].as_array().map_or(&[], Vec::as_slice)
}

/// The number that stands there.
fn number(value: &Value, key: &str) -> f64 {
    let found = value[key].as_f64();
    found.unwrap_or_else(|| panic!("{key} is no number: {value}"))
}

/// Three percentiles in order, the least of them above 0.
fn assert_percentiles(value: &Value) {
    let [p50, p90, p99] = ["p50", "p90", "p99"].map(|key| number(value, key));
    assert!(0.0 < p50 && p50 <= p90 && p90 <= p99, "{value}");
}

#[test]
fn the_ladder_and_the_open_loop_are_told_with_their_keys() {
    let plot = tempfile::tempdir().unwrap();
    let file = plot.path().join("ladder.svg");
    let report = report(&format!(
        "bench load --streams 1,3 --repeats 2 --requests 5 --warm-up 0 --policy fixed:0:2 \
         --prompt-tokens uniform:4:9 --output-tokens fixed:12 --shared-prefix 5 \
         --temperature 0.8 --sampled-share 0.5 --verify \
         --rate 1x --duration 2 --plot {} --json",
        file.display()
    ));
    let rungs = list(&report, "rungs");
    let found: Vec<_> = rungs
        .iter()
        .map(|rung| (number(rung, "streams"), rung["speculation"].as_str()))
        .collect();
    let policy = Some("fixed:0:2");
    let expected = [
        (1.0, policy),
        (1.0, Some("off")),
        (3.0, policy),
        (3.0, Some("off")),
    ];
    assert_eq!(found, expected);
    for rung in rungs {
        assert!(number(rung, "tokens_per_second") > 0.0);
        for key in ["ttft", "itl", "e2e"] {
            assert_percentiles(&rung[key]);
        }
        assert_eq!(
            (number(rung, "rejected"), number(rung, "errors")),
            (0.0, 0.0)
        );
        // Five ended in each of two windows.
        assert!(number(rung, "finished") >= 10.0, "{rung}");
        let drafted = number(rung, "num_draft_tokens");
        assert_eq!(drafted > 0.0, rung["speculation"] != "off", "{rung}");
    }
    let ratios = list(&report, "ratios");
    assert_eq!(ratios.len(), 2);
    for ratio in ratios {
        let [low, middle, high] = ["lowest", "ratio", "highest"].map(|key| number(ratio, key));
        assert!(0.0 < low && low <= middle && middle <= high, "{ratio}");
    }
    let open = &report["open_loop"];
    let ways = ["unsent", "finished", "rejected", "errors"];
    let all: f64 = ways.iter().map(|key| number(open, key)).sum();
    assert_eq!(number(open, "offered"), all, "{open}");
    assert!(
        number(open, "finished") > 0.0 && number(open, "goodput") > 0.0,
        "{open}"
    );
    assert!(number(&report["verified"], "compared") >= 4.0);
    assert_eq!(number(&report["verified"], "differing"), 0.0);
    assert_eq!(number(&report, "wrong"), 0.0);
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.contains("tokens per second") && svg.contains("fixed:0:2 p99"));
}

#[test]
fn what_a_full_server_refuses_is_counted_as_refused_and_not_as_an_error() {
    // Far more than one generation at once.
    let report = report(
        "bench load --no-ladder --rate 150 --duration 2 --warm-up 0 --max-sequences 1 \
         --max-queue 2 --output-tokens fixed:60 --json",
    );
    let open = &report["open_loop"];
    let [offered, finished, rejected] =
        ["offered", "finished", "rejected"].map(|key| number(open, key));
    assert!(offered > 200.0 && finished >= 1.0, "{open}");
    assert!(rejected > offered / 2.0, "{open}");
    assert_eq!(number(open, "rejected_with_retry_info"), rejected);
    assert_eq!(number(open, "errors"), 0.0, "{open}");
    assert_percentiles(&open["refusal"]);
    assert!(list(&report, "rungs").is_empty());
}

#[test]
fn what_the_client_may_not_send_is_counted_as_unsent() {
    let report = report(
        "bench load --no-ladder --rate 100 --duration 1 --warm-up 0 --max-outstanding 1 \
         --output-tokens fixed:100 --random-prompts --json",
    );
    let open = &report["open_loop"];
    assert!(number(open, "unsent") > 10.0, "{open}");
    assert_eq!(number(open, "rejected"), 0.0, "{open}");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let usage = [
        ("bench load --streams 0", "--streams"),
        ("bench load --rate 0", "--rate"),
        ("bench load --duration 3", "--rate"),
        ("bench load --no-ladder --rate 3x", "--no-ladder"),
        ("bench load --no-ladder --rate 3 --verify", "--verify"),
        ("bench load --policy off", "--policy"),
        ("bench load --output-tokens 64", "fixed:N"),
        ("bench load --seconds 1 --requests 2", "--requests"),
        (
            "bench load --endpoint http://localhost:1 --model x",
            "--model",
        ),
    ];
    for (arguments, named) in usage {
        let output = dssd(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {words}");
        assert!(words.contains(named), "{arguments}: {words}");
    }
    let failure = dssd("bench load --streams 1 --output-tokens fixed:100000");
    assert_eq!(failure.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failure.stderr).contains("--output-tokens"));
}
