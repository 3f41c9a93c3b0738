//! A second oracle: candle-transformers' Llama on the same weights.
#![expect(
    clippy::unwrap_used,
    reason = "a failed assumption of a test is a failed test"
)]

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use dssd_common::{
    checkpoint::Checkpoint,
    kernels::Kernels,
    kv::KvCache,
    model::{Decoder, DecoderOptions, Span},
};
use std::{fs, path::Path, sync::Arc};

fn logits_of_candle(dir: &Path, tokens: &[u32]) -> Vec<f32> {
    let config: LlamaConfig =
        serde_json::from_str(&fs::read_to_string(dir.join("config.legacy.json")).unwrap()).unwrap();
    let config = config.into_config(false);
    let device = Device::Cpu;
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &device).unwrap();
    let model = Llama::load(
        VarBuilder::from_tensors(tensors, DType::F32, &device),
        &config,
    )
    .unwrap();
    let mut cache = Cache::new(true, DType::F32, &config, &device).unwrap();
    let input = Tensor::new(tokens, &device).unwrap().unsqueeze(0).unwrap();
    model
        .forward(&input, 0, &mut cache)
        .unwrap()
        .squeeze(0)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn our_logits(dir: &Path, tokens: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let options = DecoderOptions {
        band_ends: vec![6],
        compute: None,
        max_context: 64,
    };
    let mut decoder = Decoder::load(&checkpoint, Arc::new(Kernels::new(1)), options).unwrap();
    let mut kv = KvCache::new(decoder.kv_layout(), 8 << 20).unwrap();
    let sequence = kv.open(tokens.len()).unwrap();
    let width = decoder.config().hidden;
    let span = Span {
        sequence,
        end: tokens.len(),
        tokens,
    };
    let states = decoder.advance(&mut kv, 0, &[span]).unwrap().to_vec();
    let mut logits = Vec::new();
    decoder
        .logits(&states[states.len() - width..], &mut logits)
        .unwrap();
    logits
}

#[test]
fn llama_agrees_with_candle_transformers() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 512).collect();
    for name in ["llama-gqa", "llama3-scaled-tied"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        let (ours, candle) = (our_logits(&dir, &tokens), logits_of_candle(&dir, &tokens));
        let scale = candle.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = ours
            .iter()
            .zip(&candle)
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(
            worst <= 2e-4 * scale,
            "{name}: off by {worst}, largest {scale}"
        );
    }
}
