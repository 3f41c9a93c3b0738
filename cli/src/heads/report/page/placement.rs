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
            "Drafts from each head alone, replayed on the model's own continuations, half of them greedy \
             and half sampled: a draft ends at a longest length, or at the first entropy above a \
             threshold. An estimate, with the costs of this run: of 25 thresholds and these lengths, the \
             fastest on these very positions; behind a wrong token the head is taken to be as sure as it \
             was on the recorded text. Below 1, plain decoding is faster."
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
