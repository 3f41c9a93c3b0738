//! Texts to learn from: plain ones and JSON lines.

use crate::{bytes, folder, harness::Target, json};
use dssd_common::checkpoint::Architecture;
use dssd_heads::corpus::{Corpus, Document, Encoder, Windows};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::fs;
use tempfile::TempDir;

const TARGET: Target = Target {
    name: "corpora",
    share: 0.05,
};

#[test]
fn corpora() {
    let dir = TempDir::new().unwrap();
    let checkpoint = folder::small(Architecture::Llama, 32);
    let encoder = Encoder::new(&checkpoint, None);
    TARGET.run(|random| {
        let (name, content) = file(random);
        let path = dir.path().join(name);
        fs::write(&path, &content).unwrap();
        let mut corpus = Corpus::open(std::slice::from_ref(&path)).unwrap();
        let mut whole = true;
        loop {
            match corpus.next_document() {
                Ok(Some(document)) => {
                    document.is_held_out(50);
                    if let Document::Tokens(_) = document {
                        whole &= encoder.encode(&document).is_ok();
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(error.to_string().contains(name), "{error}");
                    whole = false;
                    break;
                }
            }
        }
        let corpus = Corpus::open(&[path]).unwrap();
        let mut windows = Windows::new(corpus, encoder.clone(), 8, 2, 1);
        whole & windows.next_window().is_ok()
    });
}

fn file(random: &mut ChaCha8Rng) -> (&'static str, Vec<u8>) {
    if random.random_bool(0.3) {
        let mut text = bytes::text(
            random,
            &["Once", " ", "\n", "<|endoftext|>", "<|endof"],
            200,
        );
        if random.random_bool(0.3) {
            let mut raw = text.into_bytes();
            bytes::mutate(random, &mut raw, b"\xff\xc3");
            return ("text.txt", raw);
        }
        if random.random_bool(0.05) {
            text = text.repeat(40);
        }
        return ("text.txt", text.into_bytes());
    }
    let seeds = [
        json!({ "text": "Once upon a time", "id": 7 }),
        json!({ "token_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20] }),
        json!({ "text": null, "token_ids": [] }),
    ];
    let mut lines = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let seed = &seeds[random.random_range(0..seeds.len())];
        match random.random_bool(0.3) {
            true => lines.extend(json::mutated(random, seed)),
            false => lines.extend(seed.to_string().into_bytes()),
        }
        lines.push(b'\n');
    }
    ("lines.jsonl", lines)
}
