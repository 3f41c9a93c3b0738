//! `dssd check` against servers that are broken in one way each.

#![expect(
    clippy::unwrap_used,
    reason = "the functions of a test fail by panicking"
)]

mod proxy;

use proxy::{Fault, Proxy};
use serde_json::Value;
use std::process::{Command, Output};

const PROMPTS: [&str; 3] = ["Once upon a time", "The old dog", "Tom and his sister"];

/// A check of a pair behind a proxy, with more arguments, and what it found.
async fn check(fault: Fault, arguments: &[&str]) -> (Output, Value) {
    let prompts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prompts.path(), PROMPTS.join("\n")).unwrap();
    let proxy = Proxy::start(fault).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_dssd"));
    command
        .args(["check", "--json", "--max-new-tokens", "12"])
        .args(["--endpoint", &proxy.url])
        .arg("--prompts")
        .arg(prompts.path())
        .args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    proxy.stop().await;
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, report)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_passes_without_drafters_of_other_kinds() {
    let (output, report) = check(Fault::None, &["--quick"]).await;
    assert_eq!(output.status.code(), Some(0), "{report}");
    let names = |key: &str| -> Vec<String> {
        let rows = report[key].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let other = |name: &String| name.contains("oracle") || name.contains("working ahead");
    assert!(!names("settings").iter().any(other));
    let left_out = names("left_out");
    assert!(left_out.len() > 2 && left_out.iter().all(other), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_fails_where_too_little_was_accepted() {
    let (output, report) = check(Fault::None, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["differing_tokens"], 0);
    let failures = report["failures"].as_array().unwrap();
    // Too few accepted and too few rejected tokens, in each setting that must draft.
    let settings = report["settings"].as_array().unwrap();
    let bound = settings.iter().filter(|row| row["adaptive"] == false);
    assert_eq!(failures.len(), 2 * bound.count());
    assert!(failures[0].as_str().unwrap().contains("accepted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_token_is_found_and_located() {
    let (output, report) = check(Fault::RunnerUp { prompt: 1, at: 5 }, &["--quick"]).await;
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["differing_tokens"], 1);
    let first = &report["first_divergence"];
    assert_eq!(first["setting"], "greedy; fixed:0:2");
    assert_eq!(first["prompt"], PROMPTS[1]);
    assert_eq!(
        (&first["what"], &first["position"]),
        (&"token".into(), &5.into())
    );
    assert_ne!(first["plain"], first["speculated"]);
    // The proxy sent the second most likely token of a greedy run.
    assert!(first["margin"].as_f64().unwrap() > 0.0, "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_bit_of_a_log_probability_is_found() {
    let (output, report) = check(Fault::LogprobBit { prompt: 2, at: 3 }, &["--quick"]).await;
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(report["differing_tokens"], 1);
    let first = &report["first_divergence"];
    assert_eq!(first["prompt"], PROMPTS[2]);
    assert_eq!(
        (&first["what"], &first["position"]),
        (&"logprobs".into(), &3.into())
    );
    assert_eq!(first["plain"], first["speculated"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_what_it_resumes_from_is_found() {
    let (output, report) = check(Fault::ResumedSeed, &["--quick"]).await;
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report["differing_tokens"].as_u64().unwrap() > 0);
    let setting = report["first_divergence"]["setting"].as_str().unwrap();
    assert!(setting.ends_with("; resumed"), "{setting}");
    // The resumed rest alone is compared, and it begins behind the first token.
    assert!(report["first_divergence"]["position"].as_u64().unwrap() > 0);
}
