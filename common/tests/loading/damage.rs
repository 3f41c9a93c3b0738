//! Damaged folders: each refusal names the file, the tensor or the field.

use std::fs;

use dssd_common::{
    bytes::SharedBytes,
    checkpoint::{Checkpoint, TensorData},
    kernels::WeightType,
};
use serde_json::json;

use crate::support::{copy, edit, read_json, refusal, shard, tensors, write_tensors};

#[track_caller]
fn names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            message.contains(part),
            "`{part}` is not named in: {message}"
        );
    }
}

#[test]
fn shards_are_the_single_file() {
    let dir = copy("llama-gqa");
    let single = Checkpoint::open(dir.path()).unwrap();
    let (whole, fingerprint) = (tensors(&single), single.fingerprint().unwrap());
    shard(dir.path());
    let sharded = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(sharded.fingerprint().unwrap(), fingerprint);
    for (name, tensor) in tensors(&sharded) {
        assert_eq!(tensor.bytes.as_ref(), whole[&name].bytes.as_ref(), "{name}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    let dir = copy("llama-gqa");
    shard(dir.path());
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    names(&refusal(dir.path()), &["model-00002-of-00002.safetensors"]);
}

#[test]
fn an_index_stays_in_its_folder_and_is_true() {
    let dir = copy("llama-gqa");
    shard(dir.path());
    let path = dir.path().join("model.safetensors.index.json");
    let index = read_json(&path);
    for (shard, named) in [
        ("../x.safetensors", "../x.safetensors"),
        ("model-00001-of-00002.safetensors", "missing from"),
    ] {
        let mut map = index["weight_map"].clone();
        let strayed = map
            .as_object()
            .unwrap()
            .iter()
            .find(|(_, file)| file.as_str().unwrap().starts_with("model-00002"));
        let tensor = strayed.unwrap().0.clone();
        map[&tensor] = json!(shard);
        edit(&path, json!({ "weight_map": map }));
        names(&refusal(dir.path()), &[named, &tensor]);
    }
}

#[test]
fn a_truncated_file_is_named() {
    let dir = copy("neox-pythia");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        names(&refusal(dir.path()), &["model.safetensors", "truncated"]);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for (model, tensor) in [
        ("neox-pythia", "gpt_neox.layers.3.attention.dense.bias"),
        ("llama-gqa", "model.layers.5.self_attn.k_proj.weight"),
        ("llama-gqa", "lm_head.weight"),
    ] {
        let dir = copy(model);
        let mut all = tensors(&Checkpoint::open(dir.path()).unwrap());
        all.remove(tensor).unwrap();
        write_tensors(&dir.path().join("model.safetensors"), &all);
        names(&refusal(dir.path()), &[tensor, "missing"]);
    }
}

#[test]
fn a_wrong_shape_is_named() {
    let dir = copy("llama-gqa");
    edit(
        &dir.path().join("config.json"),
        json!({ "intermediate_size": 161 }),
    );
    names(
        &refusal(dir.path()),
        &[
            "model.layers.0.mlp.gate_proj.weight",
            "[160, 64]",
            "[161, 64]",
        ],
    );
}

#[test]
fn a_vocabulary_beyond_the_embedding_is_named() {
    let dir = copy("neox-pythia");
    edit(
        &dir.path().join("config.json"),
        json!({ "vocab_size": 600 }),
    );
    names(
        &refusal(dir.path()),
        &["gpt_neox.embed_in.weight", "512", "vocab_size", "600"],
    );
}

#[test]
fn a_number_format_that_is_not_supported_is_named() {
    let dir = copy("llama-gqa");
    let path = dir.path().join("model.safetensors");
    let all = tensors(&Checkpoint::open(dir.path()).unwrap());
    let views = all.iter().map(|(name, tensor)| {
        let dtype = if name == "model.norm.weight" {
            safetensors::Dtype::I32
        } else {
            safetensors::Dtype::F32
        };
        (
            name,
            safetensors::tensor::TensorView::new(
                dtype,
                tensor.shape.clone(),
                tensor.bytes.as_ref(),
            )
            .unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(path, bytes).unwrap();
    names(
        &refusal(dir.path()),
        &["model.norm.weight", "I32", "model.safetensors"],
    );
}

#[test]
fn buffers_of_old_exporters_are_ignored() {
    let dir = copy("neox-pythia");
    let mut all = tensors(&Checkpoint::open(dir.path()).unwrap());
    let buffer = TensorData::new(
        "",
        WeightType::F32,
        vec![2],
        SharedBytes::from_vec(vec![0; 8]),
    )
    .unwrap();
    all.insert(
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq".into(),
        buffer,
    );
    let before = Checkpoint::open(dir.path()).unwrap().fingerprint().unwrap();
    write_tensors(&dir.path().join("model.safetensors"), &all);
    assert_eq!(
        Checkpoint::open(dir.path()).unwrap().fingerprint().unwrap(),
        before
    );
}

#[test]
fn folders_without_weights_say_what_to_do() {
    let dir = copy("llama-gqa");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    names(&refusal(dir.path()), &["model.safetensors.index.json"]);
    fs::write(dir.path().join("pytorch_model.bin"), b"pickle").unwrap();
    names(
        &refusal(dir.path()),
        &["pytorch_model.bin", "save_pretrained"],
    );
    fs::remove_file(dir.path().join("config.json")).unwrap();
    names(&refusal(dir.path()), &["config.json"]);
}

#[test]
fn a_damaged_configuration_is_named() {
    let dir = copy("llama-gqa");
    for text in ["", "[1]", "{\"vocab_size\": 5"] {
        fs::write(dir.path().join("config.json"), text).unwrap();
        names(&refusal(dir.path()), &["config.json"]);
    }
}
