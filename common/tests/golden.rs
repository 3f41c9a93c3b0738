//! The model against reference values that Hugging Face transformers computed in f32.
#![expect(
    clippy::unwrap_used,
    reason = "a failed assumption of a test is a failed test"
)]

use dssd_common::{
    checkpoint::Checkpoint,
    kernels::Kernels,
    kv::{KvCache, SequenceId},
    model::{Decoder, DecoderOptions, Span},
};
use safetensors::SafeTensors;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

struct Reference {
    input_ids: Vec<Vec<u32>>,
    logits: Vec<f32>,
    hidden_after_block_2: Vec<f32>,
    greedy_of_first: Vec<u32>,
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes
        .chunks_exact(8)
        .map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap())
        .collect()
}

fn reference(dir: &Path) -> Reference {
    let bytes = fs::read(dir.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let row_len = file.tensor("input_ids").unwrap().shape()[1];
    Reference {
        input_ids: ids(&file, "input_ids")
            .chunks(row_len)
            .map(<[u32]>::to_vec)
            .collect(),
        logits: floats(&file, "logits"),
        hidden_after_block_2: floats(&file, "hidden_after_block_2"),
        greedy_of_first: ids(&file, "greedy_of_first"),
    }
}

fn load(dir: &Path, band_ends: Vec<usize>) -> (Decoder, KvCache) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let options = DecoderOptions {
        band_ends,
        compute: None,
        max_context: 256,
    };
    let decoder = Decoder::load(&checkpoint, Arc::new(Kernels::new(2)), options).unwrap();
    let kv = KvCache::new(decoder.kv_layout(), 64 << 20).unwrap();
    (decoder, kv)
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(
        worst <= 2e-4 * scale,
        "{what}: off by {worst}, largest value {scale}"
    );
}

fn next_token(
    decoder: &mut Decoder,
    kv: &mut KvCache,
    sequence: SequenceId,
    tokens: &[u32],
) -> u32 {
    let end = kv.len(sequence, 0) + tokens.len();
    let width = decoder.config().hidden;
    let hidden = decoder
        .advance(
            kv,
            0,
            &[Span {
                sequence,
                end,
                tokens,
            }],
        )
        .unwrap();
    let last = hidden[hidden.len() - width..].to_vec();
    let mut logits = Vec::new();
    decoder.logits(&last, &mut logits).unwrap();
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    u32::try_from(best).unwrap()
}

fn check_folder(dir: &Path) {
    let expected = reference(dir);
    let (mut decoder, mut kv) = load(dir, vec![2, 6]);
    let sequences: Vec<_> = expected
        .input_ids
        .iter()
        .map(|row| kv.open(row.len()).unwrap())
        .collect();
    let spans: Vec<_> = sequences
        .iter()
        .zip(&expected.input_ids)
        .map(|(&sequence, tokens)| Span {
            sequence,
            end: tokens.len(),
            tokens,
        })
        .collect();
    let shallow = decoder.advance(&mut kv, 0, &spans).unwrap();
    assert_close(
        "hidden_after_block_2",
        shallow,
        &expected.hidden_after_block_2,
    );
    let deep = decoder.advance(&mut kv, 1, &spans).unwrap().to_vec();
    let mut logits = Vec::new();
    decoder.logits(&deep, &mut logits).unwrap();
    assert_close("logits", &logits, &expected.logits);

    let (mut decoder, mut kv) = load(dir, vec![6]);
    let prompt = &expected.input_ids[0];
    let sequence = kv
        .open(prompt.len() + expected.greedy_of_first.len())
        .unwrap();
    let mut token = next_token(&mut decoder, &mut kv, sequence, prompt);
    for (i, &wanted) in expected.greedy_of_first.iter().enumerate() {
        assert_eq!(token, wanted, "greedy token {i}");
        token = next_token(&mut decoder, &mut kv, sequence, &[token]);
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn check_both_spellings(name: &str) {
    let dir = golden(name);
    check_folder(&dir);
    let legacy = tempfile::tempdir().unwrap();
    for file in [
        "model.safetensors",
        "expected.safetensors",
        "generation_config.json",
    ] {
        fs::copy(dir.join(file), legacy.path().join(file)).unwrap();
    }
    fs::copy(
        dir.join("config.legacy.json"),
        legacy.path().join("config.json"),
    )
    .unwrap();
    check_folder(legacy.path());
}

#[test]
fn neox_matches_the_reference() {
    check_both_spellings("neox-pythia");
}

#[test]
fn llama_with_grouped_queries_matches_the_reference() {
    check_both_spellings("llama-gqa");
}

#[test]
fn llama3_scaled_and_tied_matches_the_reference() {
    check_both_spellings("llama3-scaled-tied");
}
