//! What comes of leaving the model at the first confident head.
//!
//! Keys and values of skipped layers are filled late, and exactly. So a later position does not
//! notice that an earlier one left, and positions of a whole pass tell all there is to know.

use super::dense_documents;
use crate::{
    Result,
    calibrate::{Samples, threshold},
    interval,
};
use dssd_common::exit::Calibration;
use serde::Serialize;

/// One target agreement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EarlyExit {
    /// The target.
    pub epsilon: f64,
    /// Share of all positions, exits or not, at which the token is the whole model's.
    pub agreement: f64,
    /// Lower end of its 95 % interval.
    pub agreement_low: f64,
    /// Upper end.
    pub agreement_high: f64,
    /// Perplexity of the text over that under the whole model.
    pub perplexity_ratio: f64,
    /// Mean number of layers before the exit.
    pub exit_depth: f64,
    /// Share of the positions that leave at each head.
    pub coverage: Vec<f64>,
    /// Share of the positions at which each head is evaluated: none where it is off.
    pub asked: Vec<f64>,
}

/// Every target of a calibration, on samples of a model of so many layers.
///
/// # Errors
/// If the calibration contradicts itself.
pub fn early_exits(
    calibration: &Calibration,
    samples: &Samples,
    layers: usize,
    seed: u64,
) -> Result<Vec<EarlyExit>> {
    let targets = calibration.heads.first().map(|head| &head.thresholds);
    let report = |epsilon: f64| {
        let thresholds = calibration.thresholds(epsilon)?;
        let figures = Figures::new(samples, &thresholds, layers);
        let agreement = interval::ratio(&figures.hits, &figures.trials, seed);
        Ok(agreement.map(|agreement| EarlyExit {
            epsilon,
            agreement: agreement.value,
            agreement_low: agreement.low,
            agreement_high: agreement.high,
            perplexity_ratio: figures.perplexity_ratio,
            exit_depth: figures.exit_depth,
            asked: asked(&figures.coverage, &thresholds),
            coverage: figures.coverage,
        }))
    };
    let reports = targets.into_iter().flatten().map(|t| report(t.epsilon));
    Ok(reports
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// A head is evaluated where it is on and no head before it was left at.
fn asked(coverage: &[f64], thresholds: &[Option<f32>]) -> Vec<f64> {
    let mut left = 1.0;
    let both = coverage.iter().zip(thresholds);
    both.map(|(coverage, threshold)| {
        let before = left;
        left -= coverage;
        threshold.map_or(0.0, |_| before)
    })
    .collect()
}

struct Figures {
    /// Positions of each document whose token is the whole model's.
    hits: Vec<u32>,
    /// Positions of each document.
    trials: Vec<u32>,
    perplexity_ratio: f64,
    exit_depth: f64,
    coverage: Vec<f64>,
}

impl Figures {
    fn new(samples: &Samples, thresholds: &[Option<f32>], layers: usize) -> Self {
        let (documents, count) = dense_documents(samples);
        let all: Vec<usize> = (0..samples.len()).collect();
        let exits = threshold::exits(samples, &all, thresholds);
        let (mut hits, mut trials) = (vec![0; count], vec![0; count]);
        let (mut excess, mut depth) = (0.0, 0);
        for (exit, leaving) in exits.iter().enumerate() {
            let head = samples.heads.get(exit);
            depth += leaving.len() * head.map_or(layers, |head| head.layer);
            for &position in leaving {
                let document = documents[position] as usize;
                trials[document] += 1;
                hits[document] += u32::from(head.is_none_or(|head| head.agrees[position]));
                let whole = f64::from(samples.surprisal[position]);
                excess += head.map_or(0.0, |head| f64::from(head.surprisal[position]) - whole);
            }
        }
        let positions = samples.len() as f64;
        let of_heads = exits.iter().take(samples.heads.len());
        Self {
            hits,
            trials,
            perplexity_ratio: (excess / positions).exp(),
            exit_depth: depth as f64 / positions,
            coverage: of_heads
                .map(|leaving| leaving.len() as f64 / positions)
                .collect(),
        }
    }
}
