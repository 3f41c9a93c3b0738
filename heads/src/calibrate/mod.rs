//! Calibration: what a head's entropy promises, and whether it keeps it.

mod certificate;
mod isotonic;
mod sample;
pub mod threshold;

pub use certificate::{Level, certified, p_value};
pub use isotonic::{Curve, falling};
pub use sample::{HeadSamples, Samples, Window, collect};

use crate::{Error, Result, interval};
use dssd_common::exit::{
    AcceptanceTable, Calibration, ExitHeads, HeadCalibration, Realised, Threshold,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Temperatures that acceptance is measured at.
pub const TEMPERATURES: [f64; 4] = [0.0, 0.5, 0.8, 1.0];
/// Version of the file's form.
const FORMAT: u32 = 1;

/// How thresholds are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Every head over all positions, as the paper's scripts.
    Paper,
    /// Heads in order, each over what those before it refused.
    Conditional,
    /// As conditional, and certified by Learn-then-Test.
    Guaranteed,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Conditional => "conditional",
            Self::Guaranteed => "guaranteed",
        })
    }
}

/// What to calibrate for.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationSettings {
    /// How thresholds are chosen.
    pub rule: Rule,
    /// Target agreements, ascending, each between 0 and 1.
    pub epsilons: Vec<f64>,
    /// Probability that a guaranteed threshold breaks its promise.
    pub delta: f64,
    /// Seed of the split of documents and of intervals.
    pub seed: u64,
}

/// Where the positions came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// SHA-256 of the text.
    pub text_hash: String,
    /// What the text is, for people.
    pub description: String,
}

/// Positions by what they are used for; no document is in two of them.
pub struct Split {
    /// To choose candidates of the guaranteed rule.
    pub candidates: Vec<usize>,
    /// To choose, or to certify, thresholds.
    pub fit: Vec<usize>,
    /// To see what comes of them.
    pub check: Vec<usize>,
}

impl CalibrationSettings {
    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let inside = |value: &f64| (0.0..1.0).contains(value) && *value > 0.0;
        if self.epsilons.is_empty()
            || !self.epsilons.iter().all(inside)
            || !self.epsilons.is_sorted_by(|a, b| a < b)
        {
            let reason = "must be rising numbers between 0 and 1";
            return Err(Error::setting("epsilons", reason));
        }
        if !inside(&self.delta) {
            return Err(Error::setting("delta", "must be between 0 and 1"));
        }
        Ok(())
    }
}

impl Split {
    /// About a quarter of the documents for candidates, half to fit, a quarter to check. Each is
    /// dealt by chance, so that no property of it goes with its part.
    pub fn new(samples: &Samples, seed: u64) -> Self {
        let mut split = Self {
            candidates: Vec::new(),
            fit: Vec::new(),
            check: Vec::new(),
        };
        for (position, document) in samples.documents.iter().enumerate() {
            let key = seed ^ u64::from(*document) << 32;
            match ChaCha8Rng::seed_from_u64(key).random_range(0..4) {
                0 => split.candidates.push(position),
                1 => split.check.push(position),
                _ => split.fit.push(position),
            }
        }
        split
    }

    /// What the rules without a certificate may choose on.
    fn fit_all(&self) -> Vec<usize> {
        let mut all = [self.candidates.as_slice(), self.fit.as_slice()].concat();
        all.sort_unstable();
        all
    }
}

/// The calibration of `heads` from samples of them.
///
/// # Errors
/// If a setting is out of range, or there are too few documents to split.
pub fn calibrate(
    heads: &ExitHeads,
    samples: &Samples,
    settings: &CalibrationSettings,
    source: Source,
) -> Result<Calibration> {
    settings.check()?;
    let split = Split::new(samples, settings.seed);
    if split.candidates.is_empty() || split.fit.is_empty() || split.check.is_empty() {
        let reason = "has fewer than four documents: thresholds are chosen and checked on \
                      different ones, so give more text";
        return Err(Error::setting("text", reason));
    }
    let fit = split.fit_all();
    let mut thresholds = vec![Vec::new(); samples.heads.len()];
    for &epsilon in &settings.epsilons {
        let chosen = match settings.rule {
            Rule::Paper => threshold::paper(samples, &fit, epsilon),
            Rule::Conditional => threshold::conditional(samples, &fit, epsilon),
            Rule::Guaranteed => {
                let level = Level {
                    delta: settings.delta,
                };
                certified(samples, &split.candidates, &split.fit, epsilon, level)
            }
        };
        let realised = realised(samples, &split.check, &chosen, settings.seed);
        for ((list, nats), realised) in thresholds.iter_mut().zip(&chosen).zip(realised) {
            list.push(Threshold {
                epsilon,
                nats: nats.map(f64::from),
                realised,
            });
        }
    }
    let of_heads = samples.heads.iter().zip(thresholds);
    Ok(Calibration {
        format: FORMAT,
        checkpoint_fingerprint: heads.checkpoint_fingerprint.clone(),
        tokenizer_hash: heads.tokenizer_hash.clone(),
        heads_hash: heads.hash(),
        text_hash: source.text_hash,
        source: source.description,
        rule: settings.rule.to_string(),
        temperatures: samples.temperatures.clone(),
        heads: of_heads
            .map(|(head, thresholds)| HeadCalibration {
                layer: head.layer,
                thresholds,
                acceptance: acceptance(head, &samples.temperatures, &fit),
            })
            .collect(),
    })
}

/// What thresholds do on positions that they were not chosen on, head by head.
pub fn realised(
    samples: &Samples,
    positions: &[usize],
    thresholds: &[Option<f32>],
    seed: u64,
) -> Vec<Option<Realised>> {
    let lengths = samples.lengths(positions);
    let exits = threshold::exits(samples, positions, thresholds);
    let heads = samples.heads.iter().zip(&exits);
    let realised = heads.map(|(head, leaving)| {
        let (mut hits, mut trials) = (vec![0; lengths.len()], vec![0; lengths.len()]);
        for &position in leaving {
            let document = samples.documents[position];
            let index = lengths.partition_point(|length| length.0 < document);
            trials[index] += 1;
            hits[index] += u32::from(head.agrees[position]);
        }
        let estimate = interval::ratio(&hits, &trials, seed)?;
        Some(Realised {
            coverage: leaving.len() as f64 / positions.len().max(1) as f64,
            agreement: estimate.value,
            low: estimate.low,
            high: estimate.high,
        })
    });
    realised.collect()
}

fn acceptance(
    head: &HeadSamples,
    temperatures: &[f64],
    positions: &[usize],
) -> Vec<AcceptanceTable> {
    let tables = temperatures.iter().zip(&head.accepted);
    tables
        .map(|(&temperature, accepted)| {
            let at = |&position: &usize| (head.entropy[position], accepted[position]);
            let curve = falling(positions.iter().map(at).collect());
            AcceptanceTable {
                temperature,
                entropies: curve.ends,
                probabilities: curve.values,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
