//! The model that is measured: a folder, or random weights of a published shape.

use super::{Threads, device::Computer, type_name};
use crate::pair;
use dssd_common::{
    checkpoint::{Checkpoint, embedding_name, random_checkpoint, shape, shape_names},
    kernels::{Kernels, WeightType},
    serve::{DeviceName, Dtype},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Seed of random weights, and of random prompts.
const SEED: u64 = 1;

/// Which model, in what type, on how many threads.
#[derive(clap::Args)]
pub(super) struct SubjectArgs {
    /// Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Random weights of this published shape, made in memory.
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_parser = known_shape)]
    pub(super) shape: Option<String>,
    /// Type of the weights: auto (as stored; bf16 for a shape), f32, bf16 or f16.
    #[arg(long, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// Where it runs: cpu, cuda or cuda:N.
    #[arg(long, default_value_t = DeviceName::Cpu)]
    pub(super) device: DeviceName,
    #[command(flatten)]
    threads: Threads,
}

/// The name of a published shape, as a flag takes it.
///
/// # Errors
/// If it is not known.
pub(crate) fn known_shape(name: &str) -> Result<String, String> {
    if shape_names().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "known shapes: {}",
        shape_names().collect::<Vec<_>>().join(", ")
    ))
}

/// A model to measure.
pub(crate) struct Subject {
    /// The name of the shape, or of the folder.
    pub(crate) name: String,
    pub(crate) checkpoint: Arc<Checkpoint>,
    /// The type asked for.
    pub(crate) dtype: Dtype,
    pub(crate) kernels: Arc<Kernels>,
    /// Where it runs.
    pub(crate) device: DeviceName,
}

impl SubjectArgs {
    /// Opens the folder or makes the weights; `default` is the folder where neither was named.
    ///
    /// # Errors
    /// If the folder is no fit checkpoint, or there is none.
    pub(super) fn open(&self, default: Option<PathBuf>) -> anyhow::Result<Subject> {
        let kernels = Arc::new(Kernels::new(self.threads.count()));
        let dtype = self.dtype;
        if let Some(name) = &self.shape {
            return Ok(Subject::random(name, dtype, kernels)?.on(self.device));
        }
        let Some(folder) = self.model.clone().or(default) else {
            anyhow::bail!("name a model: --model DIR or --shape NAME");
        };
        Ok(Subject::open(&folder, dtype, kernels)?.on(self.device))
    }
}

/// The last part of a path, also of one such as `.`.
fn folder_name(folder: &Path) -> String {
    let whole = folder.canonicalize();
    let whole = whole.as_deref().unwrap_or(folder);
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}

impl Subject {
    /// The model in a folder, for the CPU.
    ///
    /// # Errors
    /// If it is no fit checkpoint.
    pub(crate) fn open(folder: &Path, dtype: Dtype, kernels: Arc<Kernels>) -> anyhow::Result<Self> {
        Ok(Self {
            name: folder_name(folder),
            checkpoint: Arc::new(pair::checkpoint(folder)?),
            dtype,
            kernels,
            device: DeviceName::Cpu,
        })
    }

    /// Random weights of a published shape, for the CPU.
    ///
    /// # Errors
    /// If the shape is not known.
    pub(crate) fn random(name: &str, dtype: Dtype, kernels: Arc<Kernels>) -> anyhow::Result<Self> {
        let stored = dtype.compute().unwrap_or(WeightType::Bf16);
        Ok(Self {
            name: name.to_owned(),
            checkpoint: Arc::new(random_checkpoint(shape(name)?, stored, SEED)?),
            dtype,
            kernels,
            device: DeviceName::Cpu,
        })
    }

    /// The same on another device.
    pub(crate) fn on(self, device: DeviceName) -> Self {
        Self { device, ..self }
    }

    /// What computes its passes.
    ///
    /// # Errors
    /// If the device is not there.
    pub(super) fn computer(&self) -> anyhow::Result<Computer> {
        Ok(Computer::new(&self.device.open()?, &self.kernels))
    }

    /// The folder, as services are told it; weights made in memory have none but the name.
    pub(super) fn folder(&self) -> PathBuf {
        let folder = self.checkpoint.dir();
        folder.map_or_else(|| PathBuf::from(&self.name), Path::to_path_buf)
    }

    /// The type that the matrices have in the passes.
    ///
    /// # Errors
    /// If there is no embedding.
    pub(crate) fn type_name(&self) -> anyhow::Result<&'static str> {
        let embedding = embedding_name(self.checkpoint.config().architecture);
        let stored = self.checkpoint.tensor(embedding)?.dtype;
        Ok(type_name(self.dtype.compute().unwrap_or(stored)))
    }

    /// `count` token ids that look arbitrary, the same every time.
    pub(super) fn tokens(&self, count: usize) -> Vec<u32> {
        use rand::{Rng, SeedableRng};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(SEED);
        let vocabulary = self.checkpoint.config().vocabulary as u32;
        (0..count)
            .map(|_| random.random_range(0..vocabulary))
            .collect()
    }
}
