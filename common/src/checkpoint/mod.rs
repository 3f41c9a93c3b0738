//! Hugging Face checkpoint folders: configuration, memory-mapped weights, fingerprint.
//!
//! A [`Checkpoint`] is checked whole when it is opened: afterwards every tensor of
//! [`expected_tensors`] is there, in a supported number format and in the shape that the
//! configuration asks for. A *split* folder holds the first layers alone, with the manifest of
//! the checkpoint that it was cut from; both have the same fingerprint.

mod config;
pub mod demo;
mod fields;
mod generation;
mod hash_cache;
mod hugging_face;
pub(crate) mod json_file;
mod layout;
mod manifest;
mod random;
mod rope;
mod save;
mod shapes;
mod tensor;
mod weights;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

pub use config::{Architecture, ModelConfig, Norm, NormKind, Rotary, RotaryScaling};
pub use generation::GenerationDefaults;
pub use layout::{embedding_name, expected_tensors, final_norm_name, layer_prefix, lm_head_name};
pub use manifest::{Manifest, ManifestTensor, hex};
pub use random::random_checkpoint;
pub use shapes::{shape, shape_names};
pub use tensor::TensorData;
pub(crate) use weights::WeightFile;

use crate::error::{Error, Result};
use weights::WeightFiles;

/// A model's configuration and weights, from a folder or in memory.
pub struct Checkpoint {
    config: ModelConfig,
    generation: GenerationDefaults,
    /// Exactly the tensors of `expected_tensors(&config, layers_held)`.
    tensors: BTreeMap<String, TensorData>,
    layers_held: usize,
    folder: Option<Folder>,
    fingerprint: OnceLock<String>,
}

/// Where an opened checkpoint came from.
struct Folder {
    path: PathBuf,
    weights: WeightFiles,
    /// The manifest of the whole checkpoint, in a split folder.
    parent: Option<Manifest>,
}

impl Checkpoint {
    /// Opens a folder and checks every tensor's presence, number format and shape. The weights
    /// are mapped, not read. Errors name the file, field or tensor.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = hugging_face::read_config(&dir.join("config.json"))?;
        let generation = GenerationDefaults::read(dir, &config)?;
        let weights = WeightFiles::open(dir)?;
        let parent = Manifest::read(dir)?;
        let layers_held = match &parent {
            Some(manifest) => {
                manifest.check_config(dir, &config)?;
                // At least the first, so that its tensors are missed where there are none.
                leading_layers(&config, &weights).max(1)
            }
            None => config.layers,
        };
        let mut tensors = BTreeMap::new();
        for (name, shape) in expected_tensors(&config, layers_held) {
            let file = weights.file_of(&name).ok_or_else(|| missing(&name, dir))?;
            let tensor = file.tensor(&name)?;
            check_shape(&config, &name, &shape, &tensor.shape)?;
            tensors.insert(name, tensor);
        }
        let folder = Some(Folder {
            path: dir.into(),
            weights,
            parent,
        });
        Ok(Self {
            config,
            generation,
            tensors,
            layers_held,
            folder,
            fingerprint: OnceLock::new(),
        })
    }

    /// A checkpoint in memory, of all layers; checked like a folder.
    pub fn from_parts(
        config: ModelConfig,
        mut given: BTreeMap<String, TensorData>,
    ) -> Result<Self> {
        config.validate()?;
        let mut tensors = BTreeMap::new();
        for (name, shape) in expected_tensors(&config, config.layers) {
            let missing = || Error::Tensor {
                tensor: name.clone(),
                reason: "missing".into(),
            };
            let tensor = given.remove(&name).ok_or_else(missing)?;
            check_shape(&config, &name, &shape, &tensor.shape)?;
            tensors.insert(name, tensor);
        }
        let layers_held = config.layers;
        let generation = GenerationDefaults::of(&config);
        Ok(Self {
            config,
            generation,
            tensors,
            layers_held,
            folder: None,
            fingerprint: OnceLock::new(),
        })
    }

    /// The configuration of the whole model, also when only its first layers are held.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A tensor by its name in [`expected_tensors`].
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let missing = || Error::Tensor {
            tensor: name.into(),
            reason: "not part of this checkpoint".into(),
        };
        self.tensors.get(name).cloned().ok_or_else(missing)
    }

    /// How many layers, from the first one on, the weights are here for.
    pub fn layers_held(&self) -> usize {
        self.layers_held
    }

    /// The folder that the checkpoint was opened from; none for one made in memory.
    pub fn dir(&self) -> Option<&Path> {
        self.folder.as_ref().map(|folder| folder.path.as_path())
    }

    /// What generation starts and ends with unless a request says otherwise.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// Lower-case hexadecimal hash of the manifest ([`Manifest::fingerprint`]), the same for a
    /// folder and for its splits. Reads all weights once, and keeps their hashes beside the
    /// model for the next time.
    pub fn fingerprint(&self) -> Result<String> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        let fingerprint = self.manifest()?.fingerprint()?;
        Ok(self.fingerprint.get_or_init(|| fingerprint).clone())
    }
}

/// Layers without a gap, from the first one on, of which the files have anything.
fn leading_layers(config: &ModelConfig, weights: &WeightFiles) -> usize {
    let held = |layer: &usize| {
        let prefix = layer_prefix(config.architecture, *layer);
        weights.names().any(|name| name.starts_with(&prefix))
    };
    (0..config.layers).take_while(held).count()
}

fn missing(name: &str, dir: &Path) -> Error {
    Error::Tensor {
        tensor: name.into(),
        reason: format!("missing from the weights in {}", dir.display()),
    }
}

fn check_shape(
    config: &ModelConfig,
    name: &str,
    expected: &[usize],
    found: &[usize],
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let embedding = name == embedding_name(config.architecture);
    let reason = match found {
        [rows, _] if embedding && *rows != config.vocabulary => {
            format!("has {rows} rows, but `vocab_size` is {}", config.vocabulary)
        }
        _ => format!("has the shape {found:?}, but the configuration asks for {expected:?}"),
    };
    Err(Error::Tensor {
        tensor: name.into(),
        reason,
    })
}
