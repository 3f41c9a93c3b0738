//! What heads are worth: how often they are right, how well their scores tell right from wrong,
//! what comes of leaving the model early, and what drafts from each would bring.
//!
//! Intervals are bootstraps over documents throughout.

mod early_exit;
mod head;
mod ranking;
mod replay;
mod thresholds;

pub use early_exit::{EarlyExit, early_exits};
pub use head::{HeadReport, Scores, heads};
pub use ranking::{Point, Ranking};
pub use replay::{DraftRule, Replay, RoundCosts, fastest};
pub use thresholds::{ThresholdReport, thresholds};

use crate::calibrate::Samples;

/// Number of the document of each position, counted from 0 without gaps, and of all documents.
fn dense_documents(samples: &Samples) -> (Vec<u32>, usize) {
    let mut count = 0;
    let mut last = None;
    let number = |&document: &u32| {
        if last.replace(document) != Some(document) {
            count += 1;
        }
        count - 1
    };
    let documents = samples.documents.iter().map(number).collect();
    (documents, count as usize)
}

#[cfg(test)]
mod tests;
