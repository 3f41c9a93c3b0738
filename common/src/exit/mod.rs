//! Exit heads: where the model may be left early, and what is read there.
//!
//! An exit at layer `l` reads the residual stream after `l` layers. *Untrained* exits apply the
//! model's own final norm and LM head there (the "logit lens"), which every checkpoint has;
//! *trained* ones come from `exit_heads.json` and `exit_heads.safetensors` ([`ExitHeads`]), with
//! a [`Calibration`] where one was made.

mod calibration;
mod description;
mod heads;
mod reader;
mod rule;

pub use calibration::{AcceptanceTable, Calibration, HeadCalibration, Realised, Threshold};
pub use heads::{ExitHead, ExitHeads, HeadKind};
pub use rule::ExitRule;

/// Exits of a model where nothing is said.
pub const DEFAULT_EXITS: usize = 4;

/// Layers after which `heads` exits sit when nothing else is said: evenly spaced, truncated,
/// as `linspace(0, layers, heads + 2)[1:-1]`. A model with too few layers gets fewer exits.
pub fn placement(layers: usize, heads: usize) -> Vec<usize> {
    let mut exits: Vec<_> = (1..=heads)
        .map(|head| head * layers / (heads + 1))
        .filter(|&layer| layer > 0)
        .collect();
    exits.dedup();
    exits
}
