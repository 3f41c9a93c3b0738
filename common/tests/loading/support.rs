//! Folders to load, and to damage.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use dssd_common::checkpoint::{Checkpoint, TensorData, expected_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const GOLDEN: [&str; 3] = ["neox-pythia", "llama-gqa", "llama3-scaled-tied"];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}

/// A copy of a golden folder's configuration and weights.
pub(crate) fn copy(name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(golden(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Sets fields of a JSON file; `null` removes one.
pub(crate) fn edit(path: &Path, changes: Value) {
    let mut value = read_json(path);
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            _ => value[name] = change.clone(),
        }
    }
    fs::write(path, value.to_string()).unwrap();
}

pub(crate) fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, TensorData> {
    let names = expected_tensors(checkpoint.config(), checkpoint.layers_held());
    names
        .into_iter()
        .map(|(name, _)| (name.clone(), checkpoint.tensor(&name).unwrap()))
        .collect()
}

/// Replaces a file of weights, which may be the one that `tensors` are mapped from.
pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) {
    let beside = path.with_extension("new");
    safetensors::serialize_to_file(tensors, None, &beside).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Replaces the single weight file by two shards and their index.
pub(crate) fn shard(dir: &Path) {
    let all = tensors(&Checkpoint::open(dir).unwrap());
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let mut places = serde_json::Map::new();
    for number in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", number + 1);
        let part: BTreeMap<_, _> = all
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 2 == number)
            .map(|(_, (name, tensor))| (name.clone(), tensor.clone()))
            .collect();
        places.extend(part.keys().map(|name| (name.clone(), json!(file))));
        write_tensors(&dir.join(file), &part);
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": places });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// The message of opening a folder that cannot be opened.
pub(crate) fn refusal(dir: &Path) -> String {
    match Checkpoint::open(dir) {
        Ok(_) => panic!("opened a folder that it had to refuse"),
        Err(error) => error.to_string(),
    }
}
