//! One fingerprint for one model, however it is stored; another one for any other.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use dssd_common::checkpoint::{Checkpoint, random_checkpoint};
use dssd_common::kernels::WeightType;
use serde_json::json;

use crate::support::{copy, demo, edit, read_json, refusal, tensors};

const CACHE: &str = ".dssd-hash.json";

fn fingerprint(dir: &Path) -> String {
    Checkpoint::open(dir).unwrap().fingerprint().unwrap()
}

/// Makes a weight file old enough for its hashes to be kept.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
}

/// Flips a bit of the last weight.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn it_does_not_change_by_itself() {
    let dir = copy("neox-pythia");
    let first = fingerprint(dir.path());
    assert_eq!(first.len(), 64);
    assert!(
        first
            .bytes()
            .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    );
    assert_eq!(fingerprint(dir.path()), first);
    let memory = Checkpoint::open(dir.path()).unwrap();
    let memory = Checkpoint::from_parts(memory.config().clone(), tensors(&memory)).unwrap();
    assert_eq!(memory.fingerprint().unwrap(), first);
}

#[test]
fn one_byte_changes_it() {
    let dir = copy("neox-pythia");
    let before = fingerprint(dir.path());
    damage(&dir.path().join("model.safetensors"));
    assert_ne!(fingerprint(dir.path()), before);
}

#[test]
fn configuration_and_tokenizer_change_it() {
    let dir = copy("neox-pythia");
    let before = fingerprint(dir.path());
    edit(
        &dir.path().join("config.json"),
        json!({ "use_parallel_residual": false }),
    );
    let sequential = fingerprint(dir.path());
    assert_ne!(sequential, before);
    fs::copy(
        demo().join("tokenizer.json"),
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    assert_ne!(fingerprint(dir.path()), sequential);
}

#[test]
fn hashes_are_kept_by_size_and_time() {
    let dir = copy("llama-gqa");
    let weights = dir.path().join("model.safetensors");
    let young = fingerprint(dir.path());
    assert!(
        !read_json(&dir.path().join(CACHE))
            .as_object()
            .unwrap()
            .contains_key("model.safetensors")
    );
    age(&weights);
    assert_eq!(fingerprint(dir.path()), young);
    // Proof that the kept hash is what counts: change it.
    let mut cache = read_json(&dir.path().join(CACHE));
    cache["model.safetensors"]["tensors"]["model.norm.weight"] = json!("0");
    fs::write(dir.path().join(CACHE), cache.to_string()).unwrap();
    assert_ne!(fingerprint(dir.path()), young);
    // A file with another time is read again.
    fs::write(&weights, fs::read(&weights).unwrap()).unwrap();
    assert_eq!(fingerprint(dir.path()), young);
    fs::write(dir.path().join(CACHE), "not JSON").unwrap();
    assert_eq!(fingerprint(dir.path()), young);
}

#[test]
fn a_split_has_the_fingerprint_of_the_whole() {
    for model in ["neox-pythia", "llama-gqa", "llama3-scaled-tied"] {
        let dir = copy(model);
        fs::copy(
            demo().join("tokenizer.json"),
            dir.path().join("tokenizer.json"),
        )
        .unwrap();
        let whole = Checkpoint::open(dir.path()).unwrap();
        let split = dir.path().join("split");
        whole.save_split(&split, 2).unwrap();
        let opened = Checkpoint::open(&split).unwrap();
        assert_eq!((opened.layers_held(), opened.config().layers), (2, 6));
        assert_eq!(opened.fingerprint().unwrap(), whole.fingerprint().unwrap());
        let size = |dir: &Path| fs::metadata(dir.join("model.safetensors")).unwrap().len();
        assert!(size(&split) < size(dir.path()) * 2 / 3);
        let again = dir.path().join("again");
        opened.save_split(&again, 1).unwrap();
        assert_eq!(fingerprint(&again), whole.fingerprint().unwrap());
        assert!(opened.save_split(&dir.path().join("deeper"), 3).is_err());
    }
}

#[test]
fn a_split_with_other_weights_is_refused() {
    let dir = copy("neox-pythia");
    let split = dir.path().join("split");
    Checkpoint::open(dir.path())
        .unwrap()
        .save_split(&split, 2)
        .unwrap();
    damage(&split.join("model.safetensors"));
    let error = Checkpoint::open(&split)
        .unwrap()
        .fingerprint()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("gpt_neox.") && error.contains("dssd-manifest.json"),
        "{error}"
    );
    edit(
        &split.join("config.json"),
        json!({ "max_position_embeddings": 128 }),
    );
    let error = refusal(&split);
    assert!(error.contains("dssd-manifest.json"), "{error}");
    // Without its manifest a split is a checkpoint with layers missing.
    let split = dir.path().join("bare");
    Checkpoint::open(dir.path())
        .unwrap()
        .save_split(&split, 2)
        .unwrap();
    fs::remove_file(split.join("dssd-manifest.json")).unwrap();
    let error = refusal(&split);
    assert!(
        error.contains("gpt_neox.layers.2.") && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn a_saved_model_is_the_same_and_never_overwrites() {
    let config = Checkpoint::open(copy("llama-gqa").path())
        .unwrap()
        .config()
        .clone();
    for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
        let made = random_checkpoint(config.clone(), dtype, 7).unwrap();
        let dir = tempfile::tempdir().unwrap();
        made.save(dir.path()).unwrap();
        assert_eq!(fingerprint(dir.path()), made.fingerprint().unwrap());
        let error = made.save(dir.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}
