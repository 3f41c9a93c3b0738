//! Training that was interrupted: everything that is needed to go on.

use super::{head::TrainableHead, learning::Parameter, quality::Quality};
use crate::{Error, Result, corpus::WindowState};
use candle_core::{Device, Tensor, safetensors};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

const TENSORS: &str = "training.safetensors";
const PROGRESS: &str = "training.json";

/// Everything but tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What the training was asked to do; another wish is another training.
    pub(super) plan: serde_json::Value,
    /// Name of the tensor file that belongs to this.
    pub(super) tensors: String,
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    pub(super) steps: i32,
    /// Held-out quality before the first step.
    pub(super) first: Vec<Quality>,
    /// The best held-out quality so far.
    pub(super) best: Vec<Quality>,
    /// Evaluations since the best one.
    pub(super) stale: usize,
    pub(super) windows: WindowState,
}

/// The tensors of one head.
pub(super) struct HeadState {
    pub(super) parameters: Vec<Parameter>,
    pub(super) best: Vec<Tensor>,
}

/// Whether a folder holds an interrupted training.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(PROGRESS).exists()
}

/// Writes both files: the `best` heads' parameters, and those of the heads that learn as they are now. The tensors get
/// a new name, and the old ones go only when the progress that names the new ones is in place: whatever moment this is
/// cut at, one pair is whole.
pub(super) fn save(
    dir: &Path,
    mut progress: Progress,
    best: &[TrainableHead],
    parameters: &[Vec<Parameter>],
) -> Result<()> {
    let mut tensors = HashMap::new();
    for (head, parameters) in best.iter().zip(parameters) {
        for ((name, best), parameter) in head.parameters().iter().zip(parameters) {
            let key = |part| format!("{}.{name}.{part}", head.layer());
            tensors.insert(key("value"), parameter.value.clone());
            tensors.insert(key("first"), parameter.first.clone());
            tensors.insert(key("second"), parameter.second.clone());
            tensors.insert(key("best"), best.as_tensor().clone());
        }
    }
    let former = read_progress(dir).ok().map(|former| former.tensors);
    progress.tensors = match former.as_deref() {
        Some(TENSORS) => format!("next-{TENSORS}"),
        _ => TENSORS.into(),
    };
    let path = dir.join(&progress.tensors);
    safetensors::save(&tensors, &path)?;
    let io = |error| Error::io(&path, error);
    File::open(&path)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    let json = serde_json::to_vec(&progress).map_err(std::io::Error::from);
    replace(&dir.join(PROGRESS), &json.map_err(io)?)?;
    if let Some(former) = former {
        remove(&dir.join(former))?;
    }
    Ok(())
}

/// Reads what [`save`] wrote for these heads.
pub(super) fn load(
    dir: &Path,
    heads: &[TrainableHead],
    device: &Device,
) -> Result<(Progress, Vec<HeadState>)> {
    let progress = read_progress(dir)?;
    let path = dir.join(&progress.tensors);
    let mut tensors = safetensors::load(&path, device).map_err(|error| {
        Error::invalid_file(&path, format!("{error}; remove the folder to begin anew"))
    })?;
    let states = heads.iter().map(|head| {
        let mut state = HeadState {
            parameters: Vec::new(),
            best: Vec::new(),
        };
        for (name, var) in head.parameters() {
            let mut take = |part: &str| {
                let key = format!("{}.{name}.{part}", head.layer());
                tensors
                    .remove(&key)
                    .filter(|tensor| tensor.dims() == var.dims())
                    .ok_or_else(|| {
                        Error::invalid_file(&path, format!("lacks {key} as it should be"))
                    })
            };
            state.best.push(take("best")?);
            state.parameters.push(Parameter {
                value: take("value")?,
                first: take("first")?,
                second: take("second")?,
            });
        }
        Ok(state)
    });
    let states = states.collect::<Result<_>>()?;
    Ok((progress, states))
}

/// Removes both files: the training is over.
pub(super) fn clear(dir: &Path) -> Result<()> {
    let Ok(progress) = read_progress(dir) else {
        return Ok(());
    };
    remove(&dir.join(PROGRESS))?;
    remove(&dir.join(progress.tensors))
}

fn read_progress(dir: &Path) -> Result<Progress> {
    let path: PathBuf = dir.join(PROGRESS);
    let text = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
    serde_json::from_slice(&text).map_err(|error| Error::invalid_file(&path, error.to_string()))
}

/// Puts a whole new file in the place of an old one.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let io = |error| Error::io(&new, error);
    let mut file = File::create(&new).map_err(io)?;
    file.write_all(content).map_err(io)?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&new, path).map_err(io)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}
