//! What drafts from each head alone would bring at best.

use super::{number, percent};
use crate::heads::report::{document::Report, speculation::Placement};
use maud::{Markup, html};

/// The section; nothing where no head's costs are known.
pub(super) fn section(report: &Report) -> Markup {
    if report.placements.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Where a head pays" }
        p {
            "Drafts from each head alone, greedy, replayed on the model's own continuations: a draft \
             ends at a longest length, or at the first entropy above a threshold. Costs are those of \
             this run; of all thresholds and lengths, the fastest on these very positions, so that no \
             rule of this kind that was chosen beforehand can be expected to do better. Below 1, plain \
             decoding is faster than any of them."
        }
        table {
            thead { tr {
                th { "layer" } th { "draft of 1" br; "ms" } th { "of 2" br; "ms" } th { "wire" br; "ms" }
                th { "best speed-up" } th { "rule" } th { "acceptance" } th { "coverage" }
                th { "without the wire" }
            } }
            tbody { @for placement in &report.placements { (row(placement)) } }
        }
    }
}

fn row(placement: &Placement) -> Markup {
    let optimum = &placement.optimum;
    html! { tr {
        td { (placement.layer) }
        @for seconds in placement.costs.draft_seconds.iter().take(2) { td { (number(1e3 * seconds)) } }
        td { (number(1e3 * placement.costs.wire_seconds)) }
        td { (number(optimum.speedup)) }
        td.name { (optimum.rule) }
        td { (percent(optimum.draft_acceptance_rate)) }
        td { (percent(optimum.coverage)) }
        td { (number(placement.optimum_without_wire.speedup)) }
    } }
}
