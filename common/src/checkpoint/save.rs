//! Writing a checkpoint, or its first layers, as a Hugging Face folder.

use std::path::Path;

use safetensors::SafeTensorError;

use super::{
    Checkpoint, Manifest, embedding_name, expected_tensors, generation::GENERATION_FILE,
    hugging_face, json_file, manifest::MANIFEST_FILE, weights::SINGLE_FILE,
};
use crate::{
    error::{Error, Result},
    kernels::WeightType,
    tokenizer::TOKENIZER_FILE,
};

impl Checkpoint {
    /// Writes `config.json` and `model.safetensors`, with copies of the tokenizer and of
    /// `generation_config.json` where the checkpoint came with them. The folder is made if
    /// need be, and must not hold weights yet.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let parent = self
            .folder
            .as_ref()
            .and_then(|folder| folder.parent.as_ref());
        self.write(dir, self.layers_held, parent)
    }

    /// Writes a split folder: the first `layers` layers, the embedding, the final norm and the
    /// LM head, with the manifest of the whole checkpoint.
    pub fn save_split(&self, dir: &Path, layers: usize) -> Result<()> {
        if layers == 0 || layers > self.layers_held {
            let reason = format!("must be 1 to {}, is {layers}", self.layers_held);
            return Err(Error::InvalidParameter {
                field: "layers",
                reason,
            });
        }
        self.write(dir, layers, Some(&self.manifest()?))
    }

    fn write(&self, dir: &Path, layers: usize, manifest: Option<&Manifest>) -> Result<()> {
        let weights = dir.join(SINGLE_FILE);
        if weights.exists() {
            let reason = "is there already: choose another folder or remove it".into();
            return Err(Error::InvalidFile {
                path: weights,
                reason,
            });
        }
        std::fs::create_dir_all(dir).map_err(|source| Error::Io {
            path: dir.into(),
            source,
        })?;
        self.write_config(&dir.join("config.json"))?;
        if let Some(manifest) = manifest {
            json_file::write(&dir.join(MANIFEST_FILE), manifest)?;
        }
        for name in [TOKENIZER_FILE, GENERATION_FILE] {
            if let Some(source) = self
                .dir()
                .map(|source| source.join(name))
                .filter(|source| source.exists())
            {
                std::fs::copy(&source, dir.join(name)).map_err(|error| Error::Io {
                    path: source,
                    source: error,
                })?;
            }
        }
        let held = expected_tensors(&self.config, layers);
        let tensors = held
            .iter()
            .filter_map(|(name, _)| Some((name, self.tensors.get(name)?)));
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(tensors, Some(metadata), &weights).map_err(|error| {
            match error {
                SafeTensorError::IoError(source) => Error::Io {
                    path: weights.clone(),
                    source,
                },
                error => Error::InvalidFile {
                    path: weights.clone(),
                    reason: error.to_string(),
                },
            }
        })
    }

    fn write_config(&self, path: &Path) -> Result<()> {
        json_file::write(
            path,
            &hugging_face::write_config(&self.config, self.torch_dtype()?),
        )?;
        if hugging_face::read_config(path)? == self.config {
            return Ok(());
        }
        let reason = "no Hugging Face configuration says what this model computes".into();
        Err(Error::InvalidFile {
            path: path.into(),
            reason,
        })
    }

    /// What Hugging Face calls the number format of the embedding.
    fn torch_dtype(&self) -> Result<&'static str> {
        Ok(
            match self.tensor(embedding_name(self.config.architecture))?.dtype {
                WeightType::F32 => "float32",
                WeightType::F16 => "float16",
                WeightType::Bf16 => "bfloat16",
            },
        )
    }
}
