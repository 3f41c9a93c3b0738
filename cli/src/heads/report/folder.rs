//! One folder of heads, on text and on the model's continuations of it.

use super::material::Material;
use anyhow::Result;
use dssd_common::{
    checkpoint::{Checkpoint, embedding_name},
    exit::{ExitHeads, HeadKind},
};
use dssd_heads::{
    backbone::{Backbone, Machine},
    calibrate::{Samples, Window, collect},
    report::{EarlyExit, HeadReport, ThresholdReport, early_exits, heads, thresholds},
};
use serde::Serialize;
use std::path::Path;

/// Windows that go through the model at once.
const WINDOWS_AT_ONCE: usize = 8;

/// The figures of a folder.
#[derive(Serialize)]
pub(super) struct Folder {
    pub(super) folder: String,
    pub(super) calibration: Option<CalibrationLine>,
    pub(super) heads: Vec<HeadSection>,
    /// Of the thresholds, position by position; none without a calibration.
    pub(super) early_exit: Vec<ExitSection>,
    /// What one evaluation of each head costs, in layers of the model, by the weights that it
    /// reads.
    pub(super) head_layers: Vec<f64>,
    /// What every head said on the continuations.
    #[serde(skip)]
    pub(super) continuations: Samples,
}

/// Where the thresholds came from.
#[derive(Serialize)]
pub(super) struct CalibrationLine {
    pub(super) rule: String,
    pub(super) source: String,
    pub(super) epsilons: Vec<f64>,
    /// Whether it was made from the files of this report, so that `realised` is on documents that
    /// it may have seen.
    pub(super) from_the_same_text: bool,
}

/// A head, and what was promised for it.
#[derive(Serialize)]
pub(super) struct HeadSection {
    #[serde(flatten)]
    pub(super) head: HeadReport,
    pub(super) thresholds: Vec<ThresholdReport>,
}

/// Early exits for one target, by the samples alone.
#[derive(Serialize)]
pub(super) struct ExitSection {
    pub(super) on_continuations: EarlyExit,
    pub(super) on_text: EarlyExit,
    /// Heads evaluated for a token, in layers of the model.
    pub(super) heads_in_layers: f64,
}

/// What every folder is measured with.
pub(super) struct Setup<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) machine: &'a Machine,
    pub(super) material: &'a Material,
    /// SHA-256 of the text's files.
    pub(super) text_hash: String,
    pub(super) seed: u64,
}

impl Setup<'_> {
    /// Measures the heads of a folder. `observer` hears the share that is done.
    ///
    /// # Errors
    /// If a window does not fit the model.
    pub(super) fn measure(
        &self,
        dir: &Path,
        heads_of: &ExitHeads,
        observer: &mut dyn FnMut(f64),
    ) -> Result<Folder> {
        let exits: Vec<usize> = heads_of.heads.iter().map(|head| head.layer).collect();
        let Material {
            text,
            continuations,
            longest,
            ..
        } = self.material;
        let (checkpoint, machine) = (self.checkpoint, self.machine);
        let mut backbone = Backbone::load(checkpoint, machine, &exits, WINDOWS_AT_ONCE, *longest)?;
        let bytes = backbone.decoder().bytes_per_pass();
        let head_layers = layer_equivalents(self.checkpoint, bytes, heads_of)?;
        let mut sample = |windows: &[Window], from: f64| {
            let of_window = windows.iter().map(|w| w.tokens.len() - 1 - w.first);
            let all: usize = of_window.sum();
            let observer = &mut |done: usize| observer(from + 0.5 * done as f64 / all as f64);
            collect(&mut backbone, heads_of, windows, &[], self.seed, observer)
        };
        let text = sample(text, 0.0)?;
        let continuations = sample(continuations, 0.5)?;
        self.figures(dir, heads_of, head_layers, &text, continuations)
    }

    fn figures(
        &self,
        dir: &Path,
        of: &ExitHeads,
        head_layers: Vec<f64>,
        text: &Samples,
        continuations: Samples,
    ) -> Result<Folder> {
        let reports = heads(text, self.seed);
        let mut promised = vec![Vec::new(); reports.len()];
        let mut early_exit = Vec::new();
        if let Some(calibration) = &of.calibration {
            promised = thresholds(calibration, &continuations, text, self.seed)?;
            let layers = self.checkpoint.config().layers;
            let on = |samples| early_exits(calibration, samples, layers, self.seed);
            let both = on(&continuations)?.into_iter().zip(on(text)?);
            early_exit = both
                .map(|(on_continuations, on_text)| ExitSection {
                    heads_in_layers: (on_continuations.asked.iter().zip(&head_layers))
                        .map(|(asked, layers)| asked * layers)
                        .sum(),
                    on_continuations,
                    on_text,
                })
                .collect();
        }
        let calibration = of.calibration.as_ref().map(|calibration| CalibrationLine {
            rule: calibration.rule.clone(),
            source: calibration.source.clone(),
            epsilons: early_exit.iter().map(|e| e.on_text.epsilon).collect(),
            from_the_same_text: calibration.text_hash == self.text_hash,
        });
        let sections = reports.into_iter().zip(promised);
        Ok(Folder {
            folder: dir.display().to_string(),
            calibration,
            heads: sections
                .map(|(head, thresholds)| HeadSection { head, thresholds })
                .collect(),
            early_exit,
            head_layers,
            continuations,
        })
    }
}

/// Weight bytes of each head over those of a layer.
///
/// # Errors
/// If the checkpoint has no embedding.
fn layer_equivalents(
    checkpoint: &Checkpoint,
    bytes_per_pass: usize,
    heads: &ExitHeads,
) -> Result<Vec<f64>> {
    let config = checkpoint.config();
    // The unembedding has the embedding's shape, tied or not.
    let embedding = checkpoint.tensor(embedding_name(config.architecture))?;
    let unembedding = embedding.byte_len();
    let layer = bytes_per_pass.saturating_sub(unembedding) as f64 / config.layers as f64;
    let bytes = heads.heads.iter().map(|head| match &head.kind {
        HeadKind::Linear { weight, .. } => weight.byte_len(),
        HeadKind::Adapter { down, up } => down.byte_len() + up.byte_len() + unembedding,
    });
    Ok(bytes.map(|bytes| bytes as f64 / layer).collect())
}
