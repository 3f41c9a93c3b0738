//! `calibration.json`: what a head's entropy says about its agreement with the whole model.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    description::{check_format, check_same, invalid},
    heads::ExitHeads,
};
use crate::{
    checkpoint::{hex, json_file},
    error::{Error, Result},
};

const FILE: &str = "calibration.json";

/// Thresholds and acceptance probabilities of trained heads. It names, by hash, everything
/// that it was made from, and is refused beside anything else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of this form, 1.
    pub format: u32,
    /// Fingerprint of the checkpoint.
    pub checkpoint_fingerprint: String,
    /// SHA-256 of the checkpoint's `tokenizer.json`, where it had one.
    pub tokenizer_hash: Option<String>,
    /// [`ExitHeads::hash`] of the heads.
    pub heads_hash: String,
    /// SHA-256 of the text.
    pub text_hash: String,
    /// What the text is, for people.
    pub source: String,
    /// How the thresholds were chosen.
    pub rule: String,
    /// Temperatures that every head has an acceptance table for, ascending.
    pub temperatures: Vec<f64>,
    /// One for each head, from shallow to deep.
    pub heads: Vec<HeadCalibration>,
}

/// Calibration of one head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadCalibration {
    /// Layer of the head.
    pub layer: usize,
    /// Exit thresholds, by ascending target.
    pub thresholds: Vec<Threshold>,
    /// Acceptance, one table for each of the calibration's temperatures.
    pub acceptance: Vec<AcceptanceTable>,
}

/// The entropy up to which a head may be left at a target agreement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Target agreement with the whole model, 0 to 1.
    pub epsilon: f64,
    /// Exit iff the entropy in nats is at most this; none: the head is off at this target.
    pub nats: Option<f64>,
    /// What came of it on documents that the threshold was not chosen on; none where nothing
    /// left there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realised: Option<Realised>,
}

/// A threshold on documents of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Realised {
    /// Share of all positions that left at this head.
    pub coverage: f64,
    /// Share of those for which the head said what the whole model says.
    pub agreement: f64,
    /// Lower end of the agreement's 95 % interval, over documents.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Probability that the whole model chooses what a head chose, as a step function of the
/// head's entropy: `probabilities[i]` holds for entropies above `entropies[i − 1]` and up to
/// `entropies[i]`, the last one also beyond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceTable {
    /// Sampling temperature, 0 for greedy.
    pub temperature: f64,
    /// Upper ends of the steps in nats, ascending.
    pub entropies: Vec<f64>,
    /// Probabilities of the steps, never rising.
    pub probabilities: Vec<f64>,
}

impl Calibration {
    /// Reads the calibration in `dir`, where there is one, which must be of `heads`, whose hash is
    /// given.
    pub(super) fn open(dir: &Path, heads: &ExitHeads, heads_hash: &str) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let calibration: Self = json_file::read_sealed(&path)?;
        check_format(&path, calibration.format)?;
        let none = || "none".to_owned();
        let tokenizer = heads.tokenizer_hash.clone().unwrap_or_else(none);
        let found = calibration.tokenizer_hash.clone().unwrap_or_else(none);
        check_same(
            "calibration's checkpoint fingerprint",
            &heads.checkpoint_fingerprint,
            &calibration.checkpoint_fingerprint,
        )?;
        check_same("calibration's tokenizer hash", &tokenizer, &found)?;
        check_same(
            "calibration's heads hash",
            heads_hash,
            &calibration.heads_hash,
        )?;
        match calibration.contradiction(heads) {
            Some(reason) => Err(invalid(&path, reason)),
            None => Ok(Some(calibration)),
        }
    }

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        json_file::write_sealed(&dir.join(FILE), self)
    }

    /// SHA-256 of this calibration as compact JSON, lower-case hexadecimal.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(&json))
    }

    /// The thresholds, head by head, for a target agreement: those of the smallest target in the
    /// file that is no smaller than `epsilon`.
    ///
    /// # Errors
    /// If the file has no target as high.
    pub fn thresholds(&self, epsilon: f64) -> Result<Vec<Option<f32>>> {
        let of_head = |head: &HeadCalibration| {
            let mut at_least = head.thresholds.iter().filter(|t| t.epsilon >= epsilon);
            let threshold = at_least.next().ok_or_else(|| Error::InvalidParameter {
                field: "target_agreement",
                reason: format!(
                    "{epsilon} is above the highest target that the heads were calibrated for, {:?}",
                    head.thresholds.last().map(|threshold| threshold.epsilon)
                ),
            })?;
            Ok(threshold.nats.map(|nats| nats as f32))
        };
        self.heads.iter().map(of_head).collect()
    }

    /// Per head, the acceptance table of the calibrated temperature nearest to `temperature`.
    pub fn acceptance<'a>(&'a self, temperature: f64) -> Vec<&'a AcceptanceTable> {
        let distance = |table: &AcceptanceTable| (table.temperature - temperature).abs();
        let nearest = |head: &'a HeadCalibration| {
            let tables = head.acceptance.iter();
            tables.min_by(|a, b| distance(a).total_cmp(&distance(b)))
        };
        self.heads.iter().filter_map(nearest).collect()
    }

    fn contradiction(&self, heads: &ExitHeads) -> Option<String> {
        if !self.temperatures.is_sorted_by(|a, b| a < b) {
            return Some("`temperatures` must be ascending".into());
        }
        if !self
            .heads
            .iter()
            .map(|head| head.layer)
            .eq(heads.heads.iter().map(|head| head.layer))
        {
            return Some(
                "`heads` must list the layers of the exit heads, from shallow to deep".into(),
            );
        }
        let mut faults = self
            .heads
            .iter()
            .filter_map(|head| Some((head.layer, head.contradiction(&self.temperatures)?)));
        faults
            .next()
            .map(|(layer, fault)| format!("head at layer {layer}: {fault}"))
    }
}

impl AcceptanceTable {
    /// The probability at an entropy in nats.
    pub fn probability(&self, entropy: f64) -> f64 {
        let step = self.entropies.partition_point(|&end| end < entropy);
        let last = self.probabilities.len().saturating_sub(1);
        self.probabilities
            .get(step.min(last))
            .copied()
            .unwrap_or_default()
    }
}

impl HeadCalibration {
    fn contradiction(&self, temperatures: &[f64]) -> Option<&'static str> {
        let probability = |value: &f64| (0.0..=1.0).contains(value);
        if !self.thresholds.is_sorted_by(|a, b| a.epsilon < b.epsilon) {
            Some("`thresholds` must be listed by ascending `epsilon`")
        } else if !self
            .thresholds
            .iter()
            .all(|threshold| probability(&threshold.epsilon))
        {
            Some("`epsilon` must be 0 to 1")
        } else if self
            .thresholds
            .iter()
            .filter_map(|threshold| threshold.nats)
            .any(|nats| nats < 0.0)
        {
            Some("`nats` must not be negative")
        } else if !self
            .acceptance
            .iter()
            .map(|table| table.temperature)
            .eq(temperatures.iter().copied())
        {
            Some("`acceptance` must have one table for each of `temperatures`")
        } else if self.acceptance.iter().any(|table| {
            table.entropies.is_empty() || table.entropies.len() != table.probabilities.len()
        }) {
            Some("`entropies` and `probabilities` must be equally many, and some")
        } else if !self
            .acceptance
            .iter()
            .all(|table| table.entropies.is_sorted_by(|a, b| a < b))
        {
            Some("`entropies` must be ascending")
        } else if !self
            .acceptance
            .iter()
            .flat_map(|table| &table.probabilities)
            .all(probability)
        {
            Some("`probabilities` must be 0 to 1")
        } else if !self
            .acceptance
            .iter()
            .all(|table| table.probabilities.is_sorted_by(|a, b| a >= b))
        {
            Some("`probabilities` must never rise")
        } else {
            None
        }
    }
}
