//! `--device cuda`, on a stand-in for the driver that runs the kernels' own source on the CPU. Needs Linux and a
//! C++ compiler: `DSSD_CXX`, or else `c++`. Where there is none, the tests say so and pass, unless
//! `DSSD_CUDA_SOURCE_REQUIRED` is set, as it is in CI.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

#[path = "../../common/tests/cuda/build.rs"]
mod build;

/// A model so small that the stand-in can take it through many rows.
const SMALL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../common/tests/golden/llama-gqa"
);

/// The folder of the stand-ins, built once for all tests.
fn stand_in() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-stand-in");
        build::build(&folder).then_some(folder)
    });
    built.as_deref()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dssd"));
    command.args(arguments.split_whitespace());
    command.env("LD_LIBRARY_PATH", folder);
    command
}

fn dssd(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().unwrap()
}

fn report(folder: &Path, arguments: &str) -> Value {
    let output = dssd(folder, arguments);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_kernel_computes_what_the_cpu_does() {
    let Some(folder) = stand_in() else { return };
    let arguments = format!("gpu-check --quick --no-pair --model {SMALL} --json");
    let report = report(folder, &arguments);
    let compared = |name: &str| {
        let all = report["checked"].as_array().unwrap();
        let found = all.iter().find(|checked| checked["name"] == name);
        found.unwrap()["compared"].as_u64().unwrap()
    };
    assert!(compared("picks") >= 100_000);
    assert!(compared("products") >= 10_000 && compared("activations") >= 100_000);
    assert!(compared("norms") >= 1000 && compared("summaries") >= 1000);
    assert!(compared("passes") >= 1000 && compared("learning") >= 100_000);
    assert_eq!(report["failures"].as_array().unwrap().len(), 0);
    assert!(report["timings"].as_array().unwrap().len() >= 20);
    let decode = &report["decode"];
    assert_eq!(decode["shape"], "llama-gqa");
    assert!(decode["bandwidth_share"].as_f64().unwrap() > 0.0);
    assert_eq!(decode["rows"].as_array().unwrap().len(), 8);
    // Quick timings are no figures to hold against bars.
    assert_eq!(report["bars"].as_array().unwrap().len(), 0);
}

#[test]
fn decoding_is_measured_beside_the_memory_of_the_gpu() {
    let Some(folder) = stand_in() else { return };
    let flags = "--device cuda --batch 1,2 --rounds 1 --prefill 0 --json";
    let report = report(folder, &format!("bench decode --model {SMALL} {flags}"));
    let gpu = report["gpu"].as_str().unwrap();
    assert!(gpu.contains("stand-in"), "{gpu}");
    // What is not of a GPU is not told of it: the processor's threads, and ways that were not timed.
    assert!(report.get("threads").is_none(), "{report}");
    assert!(report["phases"].get("upload").is_none(), "{report}");
    // Tokens are chosen on the GPU, as the services do it.
    assert_eq!(report["copied_logits_rows"], 0);
    let number = |value: &Value| value.as_f64().unwrap();
    let read = number(&report["read_bandwidth"]);
    assert!(read > 0.0 && number(&report["copy_bandwidth"]) > 0.0);
    let batches = report["batches"].as_array().unwrap();
    assert_eq!(batches.len(), 2);
    for (batch, sequences) in batches.iter().zip(1..) {
        assert_eq!(batch["batch"], sequences);
        let reading = number(&report["weight_bytes"]) / read;
        let share = reading / number(&batch["step_seconds"]);
        assert!((share / number(&batch["bandwidth_share"]) - 1.0).abs() < 1e-9);
    }
    assert_eq!(report["rows"].as_array().unwrap().len(), 8);
}

#[test]
fn the_pair_is_measured_on_the_gpu() {
    let Some(folder) = stand_in() else { return };
    let flags = "--policy fixed:0:2 --rounds 1 --max-new-tokens 6 --json";
    let arguments = format!("bench pair --model {SMALL} --device cuda {flags}");
    let report = report(folder, &arguments);
    assert!(report["gpu"].as_str().unwrap().contains("stand-in"));
    assert!(report.get("threads").is_none(), "{report}");
    let policy = &report["policies"][0];
    assert!(policy["speedup"].as_f64().unwrap() > 0.0, "{report}");
    assert!(policy["draft_seconds"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn the_pair_tells_the_same_story_on_a_gpu() {
    let Some(folder) = stand_in() else { return };
    let ask = "demo --max-new-tokens 8 --seed 5 --json";
    let here = report(folder, ask);
    let there = report(folder, &format!("{ask} --device cuda"));
    assert_eq!(there["text"], here["text"]);
    assert_eq!(there["identical_to_plain"], true);
    assert!(there["num_draft_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn a_driver_that_records_no_graphs_tells_the_same_story() {
    let Some(folder) = stand_in() else { return };
    let ask = "demo --max-new-tokens 4 --seed 5 --json --device cuda";
    let recorded = report(folder, ask);
    let mut demo = command(folder, ask);
    demo.env("DSSD_STAND_IN_RECORDS", "no")
        .env("RUST_LOG", "warn");
    let output = demo.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let launched: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(launched["text"], recorded["text"]);
    assert_eq!(launched["identical_to_plain"], true);
    let told = text(&output.stderr);
    assert!(told.contains("cannot be recorded as a graph"), "{told}");
}

#[test]
fn a_gpu_that_fails_is_told_with_what_is_known() {
    let Some(folder) = stand_in() else { return };
    let mut check = command(folder, "gpu-check --quick --no-pair --json");
    // In the middle of the norms.
    let output = check.env("DSSD_STAND_IN_FAILS", "390").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checked = report["checked"].as_array().unwrap();
    assert_eq!(checked.len(), 1, "{report}");
    assert_eq!(checked[0]["name"], "products");
    let failures = report["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 8, "{report}");
    let first = failures[0].as_str().unwrap();
    assert!(
        first.starts_with("norms: the GPU: CUDA_ERROR_LAUNCH_FAILED"),
        "{first}"
    );
}

#[test]
fn a_gpu_that_is_not_there_is_told_with_exit_status_2() {
    let nowhere = Path::new("/nonexistent");
    for command in [
        "gpu-check",
        "demo",
        "check --local",
        "bench decode --shape pythia-70m",
    ] {
        let output = dssd(nowhere, &format!("{command} --device cuda:99"));
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {told}");
        assert!(told.contains("--device"), "{command}: {told}");
    }
}
