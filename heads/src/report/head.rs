//! One head on text, position by position.

use super::{Point, Ranking, dense_documents};
use crate::{
    calibrate::{HeadSamples, Samples},
    interval::{self, Estimate},
};
use serde::Serialize;
use std::thread;

/// Points of each curve.
const POINTS: usize = 64;

/// How often a head is right, and how well it knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadReport {
    /// Layers that run before the head.
    pub layer: usize,
    /// Share of positions at which its arg-max is the whole model's.
    pub agreement: f64,
    /// Lower end of that share's 95 % interval.
    pub agreement_low: f64,
    /// Upper end.
    pub agreement_high: f64,
    /// Mean KL(whole model ‖ head), in nats.
    pub kl: f64,
    /// Area under the ROC curve; none where the head is always, or never, right.
    pub auroc: Scores<Option<Estimate>>,
    /// Area under the risk–coverage curve.
    pub aurc: Scores<Option<Estimate>>,
    /// False positives along, true positives up.
    pub roc: Scores<Vec<Point>>,
    /// Coverage along, risk up.
    pub risk_coverage: Scores<Vec<Point>>,
}

/// Something for each score that a head's logits give.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores<T> {
    /// Minus the entropy.
    pub entropy: T,
    /// Probability of the arg-max.
    pub max_probability: T,
    /// Its distance from the runner-up.
    pub margin_probability: T,
    /// The same between logits.
    pub margin_logit: T,
}

impl<T> Scores<T> {
    /// The same shape with `f` of each.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Scores<U> {
        Scores {
            entropy: f(&self.entropy),
            max_probability: f(&self.max_probability),
            margin_probability: f(&self.margin_probability),
            margin_logit: f(&self.margin_logit),
        }
    }

    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &T); 4] {
        [
            ("entropy", &self.entropy),
            ("max_probability", &self.max_probability),
            ("margin_probability", &self.margin_probability),
            ("margin_logit", &self.margin_logit),
        ]
    }
}

/// Reports on every head, side by side on as many threads. `seed` is that of the bootstraps.
pub fn heads(samples: &Samples, seed: u64) -> Vec<HeadReport> {
    let (documents, count) = dense_documents(samples);
    let report = |head| head_report(head, &documents, count, seed);
    thread::scope(|scope| {
        let workers: Vec<_> = (samples.heads.iter())
            .map(|head| scope.spawn(move || report(head)))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|report| report.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn head_report(head: &HeadSamples, documents: &[u32], count: usize, seed: u64) -> HeadReport {
    let (mut hits, mut trials) = (vec![0; count], vec![0; count]);
    for (&document, &agrees) in documents.iter().zip(&head.agrees) {
        trials[document as usize] += 1;
        hits[document as usize] += u32::from(agrees);
    }
    let agreement = interval::ratio(&hits, &trials, seed).unwrap_or(Estimate {
        value: f64::NAN,
        low: f64::NAN,
        high: f64::NAN,
    });
    let rankings = rankings(head, documents);
    let once = vec![1; count];
    let bootstrap = |statistic: fn(&Ranking, &[u32]) -> Option<f64>| {
        rankings
            .map(|ranking| interval::bootstrap(count, seed, |counts| statistic(ranking, counts)))
    };
    HeadReport {
        layer: head.layer,
        agreement: agreement.value,
        agreement_low: agreement.low,
        agreement_high: agreement.high,
        kl: mean(&head.divergence),
        auroc: bootstrap(Ranking::auroc),
        aurc: bootstrap(Ranking::aurc),
        roc: rankings.map(|ranking| ranking.roc(&once, POINTS)),
        risk_coverage: rankings.map(|ranking| ranking.risk_coverage(&once, POINTS)),
    }
}

fn rankings(head: &HeadSamples, documents: &[u32]) -> Scores<Ranking> {
    let ranking = |scores: &[f32]| Ranking::new(scores, &head.agrees, documents);
    let certainty: Vec<f32> = head.entropy.iter().map(|entropy| -entropy).collect();
    Scores {
        entropy: ranking(&certainty),
        max_probability: ranking(&head.max_probability),
        margin_probability: ranking(&head.margin_probability),
        margin_logit: ranking(&head.margin_logit),
    }
}

fn mean(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
    sum / values.len() as f64
}
