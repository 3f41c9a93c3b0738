//! `report.json`.

use super::{
    cloze::ClozeReport,
    early_exit::EarlyExitRow,
    folder::{Folder, HeadSection},
    speculation::{Comparison, DssdRow, LayerSkipRow, Placement, Row},
};
use crate::bench::timing::median;
use dssd_heads::interval::Estimate;
use serde::Serialize;

/// Everything that was measured. `heads` and all that follows are of the first folder.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) layers: usize,
    pub(super) dtype: &'static str,
    pub(super) threads: usize,
    /// Made to see that everything works: too little was measured to conclude anything.
    pub(super) quick: bool,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    pub(super) text: TextLine,
    pub(super) max_new_tokens: u32,
    pub(super) heads: Vec<HeadSection>,
    pub(super) early_exit: Vec<EarlyExitRow>,
    pub(super) cloze: Option<ClozeReport>,
    pub(super) policies: Vec<Row>,
    pub(super) layerskip_grid: Vec<LayerSkipRow>,
    pub(super) dssd_grid: Vec<DssdRow>,
    /// Of greedy decoding; `comparisons` has the other temperatures, too.
    pub(super) dssd_over_layerskip_acceptance: Option<Estimate>,
    pub(super) comparisons: Vec<Comparison>,
    /// Greedy drafts from each head alone, by the model of rounds.
    pub(super) placements: Vec<Placement>,
    /// Every folder's own figures, the first one's without the heads, which are above.
    pub(super) folders: Vec<Folder>,
    /// Over the folders; empty for a single one.
    pub(super) spread: Vec<SpreadRow>,
}

/// What the heads were measured on.
#[derive(Serialize)]
pub(super) struct TextLine {
    pub(super) description: String,
    pub(super) documents: usize,
    pub(super) positions: usize,
    pub(super) continuation_positions: usize,
    /// Prompts of splits A and B.
    pub(super) prompts: [usize; 2],
}

/// One layer over all folders that have a head there.
#[derive(Serialize)]
pub(super) struct SpreadRow {
    pub(super) layer: usize,
    pub(super) folders: usize,
    pub(super) agreement: Spread,
    pub(super) kl: Spread,
    pub(super) entropy_auroc: Option<Spread>,
    pub(super) entropy_aurc: Option<Spread>,
}

/// Of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of no values.
    fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            min: values.iter().copied().reduce(f64::min)?,
            median: median(values),
            max: values.iter().copied().reduce(f64::max)?,
        })
    }
}

/// The spread over folders, layer by layer.
pub(super) fn spread(folders: &[Folder]) -> Vec<SpreadRow> {
    if folders.len() < 2 {
        return Vec::new();
    }
    let heads = || folders.iter().flat_map(|folder| &folder.heads);
    let mut layers: Vec<usize> = heads().map(|section| section.head.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let row = |layer: usize| {
        let of_layer = || heads().map(|s| &s.head).filter(|head| head.layer == layer);
        let all = |value: fn(&dssd_heads::report::HeadReport) -> Option<f64>| {
            Spread::of(&of_layer().filter_map(value).collect::<Vec<_>>())
        };
        Some(SpreadRow {
            layer,
            folders: of_layer().count(),
            agreement: all(|head| Some(head.agreement))?,
            kl: all(|head| Some(head.kl))?,
            entropy_auroc: all(|head| head.auroc.entropy.map(|area| area.value)),
            entropy_aurc: all(|head| head.aurc.entropy.map(|area| area.value)),
        })
    };
    layers.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn a_spread_has_the_ends_and_the_middle() {
        let spread = Spread::of(&[0.5, 0.1, 0.2]);
        let expected = Spread {
            min: 0.1,
            median: 0.2,
            max: 0.5,
        };
        assert_eq!(spread, Some(expected));
        assert_eq!(Spread::of(&[]), None);
    }
}
