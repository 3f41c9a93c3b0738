//! The manifest of a checkpoint, whose hash is its fingerprint.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, ModelConfig, hash_cache, json_file, tensor::dtype_name};
use crate::{
    error::{Error, Result},
    tokenizer,
};

/// The manifest of the whole checkpoint, in a split folder.
pub(super) const MANIFEST_FILE: &str = "dssd-manifest.json";

/// Version of the manifest's form; another one means other fingerprints.
const FORMAT: u32 = 1;

/// Everything that a model's answers depend on, by hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form, 1.
    pub format: u32,
    /// The normalised configuration.
    pub config: ModelConfig,
    /// SHA-256 of `tokenizer.json`, where there is one.
    pub tokenizer: Option<String>,
    /// All tensors of the model, sorted by name.
    pub tensors: Vec<ManifestTensor>,
}

/// A tensor in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestTensor {
    /// Its name.
    pub name: String,
    /// `F32`, `F16` or `BF16`.
    pub dtype: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// SHA-256 of its bytes as they are stored, lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// SHA-256 of this manifest as compact JSON, lower-case hexadecimal.
    pub fn fingerprint(&self) -> Result<String> {
        let json = serde_json::to_vec(self).map_err(|error| Error::InvalidParameter {
            field: "config",
            reason: error.to_string(),
        })?;
        Ok(hex(&Sha256::digest(&json)))
    }

    /// The manifest that a split folder ships; none in other folders.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST_FILE);
        let Some(manifest) = json_file::read_optional::<Self>(&path)? else {
            return Ok(None);
        };
        if manifest.format != FORMAT {
            return Err(Error::InvalidFile {
                path,
                reason: format!("format {} is not supported, only {FORMAT}", manifest.format),
            });
        }
        Ok(Some(manifest))
    }

    /// Refuses a split folder whose `config.json` is not the one it was cut with.
    pub(super) fn check_config(&self, dir: &Path, config: &ModelConfig) -> Result<()> {
        if self.config == *config {
            return Ok(());
        }
        let reason =
            "describes another configuration than config.json: split the checkpoint again".into();
        Err(Error::InvalidFile {
            path: dir.join(MANIFEST_FILE),
            reason,
        })
    }

    /// Checks that every tensor and the tokenizer of a split folder are those of this manifest.
    fn check_part(&self, part: &Self) -> Result<()> {
        let whole: BTreeMap<_, _> = self
            .tensors
            .iter()
            .map(|tensor| (&tensor.name, tensor))
            .collect();
        for held in &part.tensors {
            if whole.get(&held.name) != Some(&held) {
                let reason = format!(
                    "is not the one that {MANIFEST_FILE} names: split the checkpoint again"
                );
                return Err(Error::Tensor {
                    tensor: held.name.clone(),
                    reason,
                });
            }
        }
        match (&self.tokenizer, &part.tokenizer) {
            (expected, Some(found)) if expected.as_ref() != Some(found) => Err(Error::Mismatch {
                what: "tokenizer.json",
                expected: expected.clone().unwrap_or_else(|| "none".into()),
                found: found.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Checkpoint {
    /// The manifest of the whole checkpoint. In a split folder it is the parent's, after all
    /// that the folder holds was found in it. Reads the weights from their files, so that
    /// hashing does not fault the maps in.
    pub fn manifest(&self) -> Result<Manifest> {
        let held = self.held_manifest()?;
        match self
            .folder
            .as_ref()
            .and_then(|folder| folder.parent.as_ref())
        {
            Some(parent) => parent.check_part(&held).map(|()| parent.clone()),
            None => Ok(held),
        }
    }

    /// The manifest of what is held.
    fn held_manifest(&self) -> Result<Manifest> {
        let mut hashes = match &self.folder {
            Some(folder) => hash_cache::hash_tensors(&folder.path, &folder.weights, &self.tensors)?,
            None => self
                .tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), hex(&Sha256::digest(&tensor.bytes))))
                .collect(),
        };
        let tensors = self.tensors.iter().map(|(name, tensor)| ManifestTensor {
            name: name.clone(),
            dtype: dtype_name(tensor.dtype).into(),
            shape: tensor.shape.clone(),
            sha256: hashes.remove(name).unwrap_or_default(),
        });
        let tokenizer = self.dir().map(tokenizer::file_hash).transpose()?.flatten();
        Ok(Manifest {
            format: FORMAT,
            config: self.config.clone(),
            tokenizer,
            tensors: tensors.collect(),
        })
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
