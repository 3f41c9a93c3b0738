//! What a training is asked to do.

use super::head::{Kind, Start};
use crate::{Error, Result};
use dssd_common::{checkpoint::ModelConfig, kernels::WeightType};
use serde::Serialize;
use std::path::PathBuf;

/// Which choices are made where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Heads start from the model's own end, and their norms move too.
    Default,
    /// As the paper's public scripts: linear, from random numbers, under the model's own final
    /// norm, at a learning rate of 1e-4.
    Paper,
}

/// How heads are trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSettings {
    /// Layers that run before each head, in rising order.
    pub layers: Vec<usize>,
    /// What follows each head's norm.
    pub kind: Kind,
    /// What the heads start from.
    pub start: Start,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// Most tokens of a window.
    pub window: usize,
    /// Tokens in a step, gathered over as many passes as it takes.
    pub step_tokens: usize,
    /// Tokens after which training ends.
    pub tokens: u64,
    /// Seconds after which training ends, if that is sooner.
    pub seconds: Option<f64>,
    /// Tokens of held-out text that heads are measured on.
    pub held_out_tokens: usize,
    /// Training ends when so many measurements in a row bring nothing better.
    pub patience: usize,
    /// Seconds between measurements; each is followed by writing the state down.
    pub measure_seconds: f64,
    /// Number format of the stored matrices.
    pub dtype: WeightType,
    /// Seed of the order of windows and of random starts.
    pub seed: u64,
}

impl Recipe {
    /// What the recipe says of heads at `layers` of a model whose unembedding is in `dtype`.
    pub fn settings(
        self,
        layers: Vec<usize>,
        config: &ModelConfig,
        dtype: WeightType,
    ) -> TrainSettings {
        let (start, learning_rate) = match self {
            Self::Default => (Start::Model, 1e-3),
            Self::Paper => (Start::Random, 1e-4),
        };
        TrainSettings {
            layers,
            kind: Kind::Linear,
            start,
            learning_rate,
            weight_decay: 0.01,
            window: config.max_positions.min(512),
            step_tokens: 4096,
            tokens: 20_000_000,
            seconds: None,
            held_out_tokens: 8192,
            patience: 10,
            measure_seconds: 60.0,
            dtype,
            seed: 0,
        }
    }
}

/// Every setting that a resumed training must share with the one that it goes on with. Ends,
/// measuring and patience may change.
#[derive(Serialize)]
struct Plan<'a> {
    checkpoint: &'a str,
    text: Vec<(String, u64)>,
    held_out: Option<(String, u64)>,
    layers: &'a [usize],
    kind: Kind,
    start: Start,
    learning_rate: f64,
    weight_decay: f64,
    window: usize,
    step_tokens: usize,
    held_out_tokens: usize,
    seed: u64,
}

impl TrainSettings {
    /// Refuses settings that a model of this shape cannot be trained with.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        let rising = self.layers.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = |layer: &usize| (1..config.layers).contains(layer);
        if self.layers.is_empty() || !rising || !self.layers.iter().all(inside) {
            let reason = format!(
                "{:?} must be rising numbers from 1 to {}, one for each head",
                self.layers,
                config.layers - 1
            );
            return Err(Error::setting("layers", reason));
        }
        if !(2..=config.max_positions).contains(&self.window) {
            let reason = format!("is {}, must be 2 to {}", self.window, config.max_positions);
            return Err(Error::setting("window", reason));
        }
        let positive = [
            (
                "learning-rate",
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            ),
            ("step-tokens", self.step_tokens > 0),
            ("tokens", self.tokens > 0),
            ("held-out-tokens", self.held_out_tokens > 0),
            ("patience", self.patience > 0),
            ("minutes", self.seconds.is_none_or(|seconds| seconds > 0.0)),
            ("rank", self.kind != Kind::Adapter { rank: 0 }),
        ];
        match positive.into_iter().find(|(_, positive)| !positive) {
            Some((setting, _)) => Err(Error::setting(setting, "must be above 0")),
            None => Ok(()),
        }
    }

    /// What is written into the state of an interrupted training, as JSON.
    pub(super) fn plan(
        &self,
        fingerprint: &str,
        text: &[PathBuf],
        held_out: Option<&PathBuf>,
    ) -> Result<serde_json::Value> {
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let sized = |path: &PathBuf| {
            let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
            Ok((name(path), size.len()))
        };
        let plan = Plan {
            checkpoint: fingerprint,
            text: text.iter().map(sized).collect::<Result<_>>()?,
            held_out: held_out.map(sized).transpose()?,
            layers: &self.layers,
            kind: self.kind,
            start: self.start,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            window: self.window,
            step_tokens: self.step_tokens,
            held_out_tokens: self.held_out_tokens,
            seed: self.seed,
        };
        serde_json::to_value(&plan).map_err(|error| Error::setting("resume", error.to_string()))
    }
}

/// The first setting in which two plans differ, with both values.
pub(super) fn difference(
    stored: &serde_json::Value,
    wanted: &serde_json::Value,
) -> Option<(String, String, String)> {
    let keys = wanted.as_object()?.keys();
    keys.map(|key| (key, &stored[key], &wanted[key]))
        .find(|(_, stored, wanted)| stored != wanted)
        .map(|(key, stored, wanted)| (key.clone(), stored.to_string(), wanted.to_string()))
}
