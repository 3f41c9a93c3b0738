//! Starts that cannot work end with a status and a sentence that says what to do.

use crate::processes::Kind;
use dssd_common::checkpoint::demo;
use std::{fs, path::Path};
use tempfile::TempDir;

/// The exit status of a start that fails, and what it says.
fn failed(kind: Kind, flags: &[&str]) -> (Option<i32>, String) {
    let listen = ["--listen", "127.0.0.1:0", "--http-listen", "off"];
    let flags: Vec<String> = listen
        .iter()
        .chain(flags)
        .map(|&flag| flag.to_owned())
        .collect();
    let output = kind.command(&flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// A copy of the demo model.
fn model() -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in fs::read_dir(demo::folder().unwrap()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
    }
    dir
}

fn refuses_model(dir: &Path, named: &str) {
    for kind in [Kind::Verifier, Kind::Drafter] {
        let (code, said) = failed(kind, &["--model", dir.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(named), "{named} is not named: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_damaged_model_is_named_and_the_status_is_one() {
    let dir = model();
    let weights = dir.path().join("model.safetensors");
    let length = fs::metadata(&weights).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.set_len(length / 2).unwrap();
    refuses_model(dir.path(), "model.safetensors");
    fs::remove_file(&weights).unwrap();
    refuses_model(dir.path(), "model.safetensors");

    let dir = model();
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    refuses_model(dir.path(), "tokenizer.json");
    fs::write(dir.path().join("config.json"), "{").unwrap();
    refuses_model(dir.path(), "config.json");
    refuses_model(&dir.path().join("nowhere"), "nowhere");
}

#[test]
fn settings_that_cannot_work_are_named_and_the_status_is_two() {
    let too_much: &[&str] = &["--kv-memory", "900000GiB"];
    let too_long: &[&str] = &["--max-context", "1000000"];
    let both: [(&[&str], &str); 6] = [
        (too_much, "free"),
        (too_long, "--max-context"),
        (&["--max-sequences", "0"], "--max-sequences"),
        (&["--kv-memory", "1"], "--kv-memory"),
        (&["--threads", "0"], "--threads"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (flags, named) in both {
        for kind in [Kind::Verifier, Kind::Drafter] {
            let (code, said) = failed(kind, flags);
            assert_eq!(code, Some(2), "{flags:?}: {said}");
            assert!(said.contains(named), "{named} is not named: {said}");
        }
    }
}
