//! Model folders small enough to be written thousands of times.

use dssd_common::{
    checkpoint::{
        Architecture, Checkpoint, ModelConfig, Norm, NormKind, Rotary, RotaryScaling,
        random_checkpoint,
    },
    kernels::{Activation, WeightType},
    serve::{DeviceName, Dtype, KvMemory, ModelSettings},
};
use std::{fs, path::Path};
use tempfile::TempDir;

/// Layers of the small models.
pub(crate) const LAYERS: usize = 3;

/// A GPT-NeoX or a Llama of a few thousand weights.
pub(crate) fn config(architecture: Architecture, vocabulary: usize) -> ModelConfig {
    let neox = architecture == Architecture::GptNeoX;
    ModelConfig {
        architecture,
        vocabulary,
        hidden: 16,
        layers: LAYERS,
        heads: 2,
        kv_heads: if neox { 2 } else { 1 },
        head_dim: 8,
        intermediate: 24,
        norm: Norm {
            kind: if neox {
                NormKind::LayerNorm
            } else {
                NormKind::RmsNorm
            },
            eps: 1e-5,
        },
        activation: Activation::Gelu,
        gated_mlp: !neox,
        rotary: Rotary {
            dims: if neox { 2 } else { 8 },
            theta: 10_000.0,
            scaling: RotaryScaling::None,
        },
        max_positions: 64,
        parallel_residual: neox,
        qkv_bias: neox,
        attention_output_bias: neox,
        mlp_bias: neox,
        tied_embeddings: !neox,
        bos_token_id: Some(0),
        eos_token_ids: vec![0],
    }
}

pub(crate) fn small(architecture: Architecture, vocabulary: usize) -> Checkpoint {
    random_checkpoint(config(architecture, vocabulary), WeightType::Bf16, 7).unwrap()
}

/// The same in a folder.
pub(crate) fn saved(architecture: Architecture, vocabulary: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    let checkpoint = small(architecture, vocabulary);
    checkpoint.save(&dir.path().join("model")).unwrap();
    dir
}

/// The files of a folder, by name.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// A folder with these files and no others.
pub(crate) fn write(dir: &Path, files: &[(String, Vec<u8>)]) {
    for entry in fs::read_dir(dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}

/// How the fuzzed models are loaded: as a service does, with a small cache.
pub(crate) fn settings(band_ends: Vec<usize>) -> ModelSettings {
    ModelSettings {
        device: DeviceName::Cpu,
        threads: Some(1),
        dtype: Dtype::Auto,
        kv_memory: Some(KvMemory::Bytes(1 << 20)),
        preallocate_kv: false,
        max_sequences: 1,
        max_context: None,
        band_ends,
    }
}
