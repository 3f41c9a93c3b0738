//! Hashes of stored tensors, kept beside the model by each file's size and time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    manifest::hex,
    tensor::TensorData,
    weights::{WeightFile, WeightFiles},
};
use crate::error::{Error, Result};

const CACHE_FILE: &str = ".dssd-hash.json";

/// A file younger than this when it was hashed may change once more within the same tick of
/// the file system's clock, so its hashes are not kept.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Name of a tensor to the hash of its bytes.
type Hashes = BTreeMap<String, String>;

/// By the name of a weight file.
type Cache = BTreeMap<String, CachedFile>;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CachedFile {
    size: u64,
    modified: SystemTime,
    tensors: Hashes,
}

/// SHA-256 of the bytes of each of `tensors`, out of the cache where the file is as it was.
pub(super) fn hash_tensors(
    dir: &Path,
    weights: &WeightFiles,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<Hashes> {
    let cache_path = dir.join(CACHE_FILE);
    // A cache that cannot be read is as good as none.
    let known: Cache = std::fs::read(&cache_path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let (mut hashes, mut cache, mut changed) = (Hashes::new(), Cache::new(), false);
    for (number, file) in weights.files.iter().enumerate() {
        let held = tensors
            .keys()
            .filter(|name| weights.places.get(*name) == Some(&number));
        let mut wanted: Vec<_> = held
            .filter_map(|name| Some((name, file.range(name)?)))
            .collect();
        wanted.sort_by_key(|(_, range)| range.start);
        let name = file
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (size, modified) = stamp(file)?;
        let valid = known.get(&name).filter(|entry| {
            (entry.size, entry.modified) == (size, modified)
                && wanted
                    .iter()
                    .all(|(name, _)| entry.tensors.contains_key(*name))
        });
        let entry = match valid {
            Some(entry) => entry.clone(),
            None => {
                changed = true;
                CachedFile {
                    size,
                    modified,
                    tensors: hash_file(file, &wanted)?,
                }
            }
        };
        hashes.extend(entry.tensors.clone());
        if modified.elapsed().is_ok_and(|age| age > SETTLED) {
            cache.insert(name, entry);
        }
    }
    if changed {
        store(&cache_path, &cache);
    }
    Ok(hashes)
}

fn stamp(file: &WeightFile) -> Result<(u64, SystemTime)> {
    let metadata = std::fs::metadata(&file.path);
    let stamp = metadata.and_then(|metadata| Ok((metadata.len(), metadata.modified()?)));
    stamp.map_err(|source| Error::Io {
        path: file.path.clone(),
        source,
    })
}

/// Reads the tensors in the order in which they lie in the file.
fn hash_file(weights: &WeightFile, wanted: &[(&String, Range<usize>)]) -> Result<Hashes> {
    let io = |source| Error::Io {
        path: weights.path.clone(),
        source,
    };
    let mut file = File::open(&weights.path).map_err(io)?;
    let mut chunk = vec![0; CHUNK];
    let mut hashes = Hashes::new();
    for (name, range) in wanted {
        file.seek(SeekFrom::Start(range.start as u64)).map_err(io)?;
        let mut hash = Sha256::new();
        let mut left = range.len();
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            file.read_exact(part).map_err(io)?;
            hash.update(&*part);
            left -= part.len();
        }
        hashes.insert((*name).clone(), hex(&hash.finalize()));
    }
    Ok(hashes)
}

/// Writes the cache whole or not at all; a folder that cannot be written to just has none.
fn store(path: &Path, cache: &Cache) {
    let temporary = path.with_extension(format!("json.{}", std::process::id()));
    let written = serde_json::to_vec(cache)
        .map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(&temporary, text))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "hash cache not written");
    }
}
