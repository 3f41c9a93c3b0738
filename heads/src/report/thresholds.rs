//! What a calibration promised, beside what came of it.

use crate::{
    Result,
    calibrate::{Samples, realised},
};
use dssd_common::exit::{Calibration, Realised};
use serde::Serialize;

/// One head's threshold for one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThresholdReport {
    /// The agreement that was promised.
    pub epsilon: f64,
    /// How the threshold was chosen.
    pub rule: String,
    /// The entropy up to which the head may be left; none where it is off.
    pub nats: Option<f64>,
    /// Share of the positions of the model's continuations that leave here.
    pub coverage: f64,
    /// The agreement that they have; none where nothing leaves.
    pub realised: Option<f64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// The same on the text itself.
    pub on_text: Option<Realised>,
}

/// For each head, its thresholds by ascending target: what they do on the model's own
/// continuations and on text.
///
/// # Errors
/// If the calibration contradicts itself.
pub fn thresholds(
    calibration: &Calibration,
    continuations: &Samples,
    text: &Samples,
    seed: u64,
) -> Result<Vec<Vec<ThresholdReport>>> {
    let targets = |head: usize| calibration.heads.get(head).map(|head| &head.thresholds);
    let mut reports = vec![Vec::new(); calibration.heads.len()];
    for target in targets(0).into_iter().flatten() {
        let nats = calibration.thresholds(target.epsilon)?;
        let on = |samples: &Samples| {
            let all: Vec<usize> = (0..samples.len()).collect();
            realised(samples, &all, &nats, seed)
        };
        let both = on(continuations).into_iter().zip(on(text)).zip(&nats);
        for (((realised, on_text), nats), list) in both.zip(&mut reports) {
            list.push(ThresholdReport {
                epsilon: target.epsilon,
                rule: calibration.rule.clone(),
                nats: nats.map(f64::from),
                coverage: realised.map_or(0.0, |realised| realised.coverage),
                realised: realised.map(|realised| realised.agreement),
                low: realised.map(|realised| realised.low),
                high: realised.map(|realised| realised.high),
                on_text,
            });
        }
    }
    Ok(reports)
}
