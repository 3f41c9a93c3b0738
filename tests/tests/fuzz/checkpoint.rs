//! Model folders: configurations, headers, indices, manifests, truncated weights.

use crate::{
    bytes::{self, EDGES},
    folder,
    harness::Target,
    json,
};
use dssd_common::{
    Error,
    checkpoint::{Architecture, Checkpoint},
};
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::{fs, path::Path};
use tempfile::TempDir;

type Files = Vec<(String, Vec<u8>)>;

const TARGET: Target = Target {
    name: "checkpoint",
    share: 0.2,
};

#[test]
fn folders() {
    let seeds = seeds();
    let dir = TempDir::new().unwrap();
    TARGET.run(|random| {
        let mut files = seeds.choose(random).unwrap().clone();
        let most = random.random_range(1..=2);
        for at in rand::seq::index::sample(random, files.len(), most) {
            damage(random, &mut files[at]);
        }
        if random.random_bool(0.02) {
            files.remove(random.random_range(0..files.len()));
        }
        folder::write(dir.path(), &files);
        open(dir.path())
    });
}

/// Opens a folder, and if that works loads it and runs a few rows.
fn open(dir: &Path) -> bool {
    let checkpoint = match Checkpoint::open(dir) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refused(dir, &error),
    };
    if let Err(error) = checkpoint.fingerprint() {
        return refused(dir, &error);
    }
    let settings = folder::settings(vec![1, checkpoint.layers_held().max(2)]);
    match settings.load(&checkpoint) {
        Ok(mut model) => {
            model.warm_up().unwrap();
            true
        }
        Err(error) => {
            let named = matches!(error, Error::InvalidParameter { .. } | Error::Tensor { .. });
            assert!(named, "{error}");
            false
        }
    }
}

/// A refusal names the file, the tensor or the field.
fn refused(dir: &Path, error: &Error) -> bool {
    let text = error.to_string();
    let named = match error {
        Error::Io { path, .. }
        | Error::InvalidFile { path, .. }
        | Error::UnsupportedField { path, .. } => path.starts_with(dir),
        Error::Tensor { .. } | Error::Mismatch { .. } => true,
        _ => false,
    };
    assert!(named && text.len() < 20_000, "{text}");
    false
}

fn seeds() -> Vec<Files> {
    let mut seeds = Vec::new();
    for architecture in [Architecture::GptNeoX, Architecture::Llama] {
        let saved = folder::saved(architecture, 32);
        let whole = folder::files(&saved.path().join("model"));
        for spelling in spellings(&whole, architecture) {
            seeds.push(spelling);
        }
        seeds.push(sharded(&whole));
        let split = saved.path().join("split");
        let opened = Checkpoint::open(&saved.path().join("model")).unwrap();
        opened.save_split(&split, 2).unwrap();
        seeds.push(folder::files(&split));
    }
    seeds
}

/// The folder with every spelling of `config.json` that the golden models have, cut to its size,
/// and with their `generation_config.json`.
fn spellings(whole: &Files, architecture: Architecture) -> Vec<Files> {
    let own: Value = serde_json::from_slice(&content(whole, "config.json")).unwrap();
    let models = match architecture {
        Architecture::GptNeoX => &["neox-pythia"][..],
        Architecture::Llama => &["llama-gqa", "llama3-scaled-tied"],
    };
    let mut all = Vec::new();
    for (model, name) in models
        .iter()
        .flat_map(|model| [(model, "config.json"), (model, "config.legacy.json")])
    {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../common/tests/golden")
            .join(model);
        let mut config: Value =
            serde_json::from_slice(&fs::read(golden.join(name)).unwrap()).unwrap();
        for (field, value) in own.as_object().unwrap() {
            let size = value.is_u64() || field == "tie_word_embeddings";
            if size && config.get(field).is_some() {
                config[field] = value.clone();
            }
        }
        let mut files = whole.clone();
        replace(&mut files, "config.json", config.to_string().into_bytes());
        let generation = fs::read(golden.join("generation_config.json")).unwrap();
        files.push(("generation_config.json".to_owned(), generation));
        all.push(files);
    }
    all
}

fn sharded(whole: &Files) -> Files {
    let weights = content(whole, "model.safetensors");
    let (header, _) = header(&weights);
    let names = header.as_object().unwrap().keys();
    let map = names
        .filter(|name| *name != "__metadata__")
        .map(|name| (name.clone(), "part.safetensors".into()));
    let index = serde_json::json!({ "weight_map": map.collect::<serde_json::Map<_, _>>() });
    vec![
        ("config.json".to_owned(), content(whole, "config.json")),
        ("part.safetensors".to_owned(), weights),
        (
            "model.safetensors.index.json".to_owned(),
            index.to_string().into_bytes(),
        ),
    ]
}

fn content(files: &Files, name: &str) -> Vec<u8> {
    files
        .iter()
        .find(|(known, _)| known == name)
        .unwrap()
        .1
        .clone()
}

fn replace(files: &mut Files, name: &str, content: Vec<u8>) {
    files.retain(|(known, _)| known != name);
    files.push((name.to_owned(), content));
}

fn damage(random: &mut ChaCha8Rng, (name, content): &mut (String, Vec<u8>)) {
    if name.ends_with(".safetensors") {
        *content = weights(random, content);
    } else if let (Ok(value), true) = (serde_json::from_slice(content), random.random_bool(0.9)) {
        *content = json::mutated(random, &value);
    } else {
        let other = content.clone();
        bytes::mutate(random, content, &other);
    }
}

/// The header of a safetensors file, and what follows it.
pub(crate) fn header(file: &[u8]) -> (Value, &[u8]) {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).unwrap(), data)
}

/// A safetensors file with another header, another header length, or other data.
pub(crate) fn weights(random: &mut ChaCha8Rng, file: &[u8]) -> Vec<u8> {
    let (header, data) = header(file);
    let mut data = data.to_vec();
    let header = match random.random_range(0..4) {
        0 => header.to_string().into_bytes(),
        _ => json::mutated(random, &header),
    };
    let mut length = header.len() as u64;
    match random.random_range(0..8) {
        0 => length = *EDGES.choose(random).unwrap(),
        1 => {
            length = length
                .wrapping_add(random.random_range(0..16))
                .wrapping_sub(8)
        }
        2 => data.truncate(random.random_range(0..data.len())),
        3 => bytes::mutate(random, &mut data, &header),
        _ => {}
    }
    [&length.to_le_bytes()[..], &header, &data].concat()
}
