//! A real, published Llama model gives exactly its published text. The model is not part of
//! this repository: set `DSSD_TEST_DATA` to the folder that holds `checkpoints/stories260k`.
#![expect(
    clippy::unwrap_used,
    reason = "a failed assumption of a test is a failed test"
)]

use dssd_common::{
    checkpoint::Checkpoint,
    kernels::Kernels,
    kv::KvCache,
    model::{Decoder, DecoderOptions, Span},
    sampling::{History, Sampler, SamplingParams, Scratch},
    tokenizer::Tokenizer,
};
use std::{env, fs, path::PathBuf, sync::Arc};

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

#[test]
fn stories260k_gives_its_published_tokens_and_text() {
    let Some(dir) =
        env::var_os("DSSD_TEST_DATA").map(|dir| PathBuf::from(dir).join("checkpoints/stories260k"))
    else {
        eprintln!("skipped: DSSD_TEST_DATA is not set");
        return;
    };
    let expected = fs::read_to_string(dir.join("expected_greedy.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let wanted = ids(&expected["token_ids"]);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let layers = checkpoint.config().layers;
    let options = DecoderOptions {
        band_ends: vec![layers],
        compute: None,
        max_context: 512,
    };
    let mut decoder = Decoder::load(&checkpoint, Arc::new(Kernels::new(2)), options).unwrap();
    let mut kv = KvCache::new(decoder.kv_layout(), 32 << 20).unwrap();
    let sequence = kv.open(512).unwrap();
    let sampler =
        Sampler::new(SamplingParams::default(), decoder.vocabulary(), Vec::new()).unwrap();
    let mut history = History::new(&ids(&expected["prompt_token_ids"]), &[]);
    let (mut logits, mut scratch) = (Vec::new(), Scratch::default());
    let width = decoder.config().hidden;
    for _ in 0..wanted.len() {
        let tokens = &history.tokens()[kv.len(sequence, 0)..];
        let span = Span {
            sequence,
            end: history.len(),
            tokens,
        };
        let states = decoder.advance(&mut kv, 0, &[span]).unwrap();
        let last = states[states.len() - width..].to_vec();
        decoder.logits(&last, &mut logits).unwrap();
        let token = sampler.choose(&logits, &history, &mut scratch).unwrap();
        history.push(token);
    }
    assert_eq!(history.generated(), wanted);
    let text = Tokenizer::open(&dir)
        .unwrap()
        .unwrap()
        .decode(history.generated())
        .unwrap();
    let published = expected["text"].as_str().unwrap();
    assert_eq!(text, published);
}
