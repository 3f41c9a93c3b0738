//! `report.html`: tables, charts as inline SVG, one style sheet inside; no script.

mod drafting;
mod exits;
mod grid;
mod placement;
mod separation;

use super::document::Report;
use anyhow::Result;
use dssd_heads::interval::Estimate;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");

/// What every number is, where its column's name does not say it.
const TERMS: [(&str, &str); 11] = [
    (
        "agreement",
        "share of positions at which the arg-max is the whole model's",
    ),
    (
        "KL",
        "mean divergence of a head from the whole model, in nats",
    ),
    (
        "AUROC",
        "probability that a position where the head is right has a higher score than one where it is wrong; equal scores count half. The score of the entropy is its negative",
    ),
    (
        "AURC",
        "mean, over positions, of the share of wrong ones among all that are at least as confident; lower is better",
    ),
    ("acceptance", "accepted over drafted tokens"),
    (
        "length",
        "mean acceptance length: 1 + accepted tokens per draft",
    ),
    (
        "wasted",
        "drafted tokens that were not accepted, per emitted token",
    ),
    (
        "coverage",
        "share of rounds in which anything was drafted; of thresholds and curves: share of positions",
    ),
    (
        "speed-up",
        "tokens per second from the first token to the last, over plain decoding in the same turn: the median of the ratios",
    ),
    (
        "modelled",
        "the speed-up by the renewal model, out of this run's acceptance and costs; optimum: by the best length of drafts",
    ),
    (
        "exit depth",
        "mean layers before the exit; layers: those computed for a token, filled late included, the heads beside it in layers by the weights that they read",
    ),
];

/// The whole page.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn page(report: &Report) -> Result<String> {
    let title = format!("Exit heads of {}", report.model);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (facts(report))
                (separation::section(report)?)
                (exits::thresholds(report)?)
                (exits::early_exit(report)?)
                (drafting::section(report)?)
                (placement::section(report))
                (folders(report))
                (terms())
            }
        }
    };
    Ok(page.into_string())
}

fn facts(report: &Report) -> Markup {
    let text = &report.text;
    html! {
        p.facts {
            (report.layers) " layers, " (report.dtype) ", " (report.threads) " threads, seed "
            (report.seed) ". " (text.positions) " positions of " (text.documents)
            " documents of " (text.description) ", and " (text.continuation_positions)
            " positions of the model's continuations of their beginnings. Made in "
            (format!("{:.0}", report.seconds)) " seconds. Intervals are of 95 %, over documents or prompts."
        }
        @if report.quick {
            p.warning { "Made with --quick: too little was measured to conclude anything." }
        }
    }
}

fn folders(report: &Report) -> Markup {
    if report.spread.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Several folders of heads" }
        p { "Drafts and early exits above are of the first one." }
        ul { @for folder in &report.folders { li { (folder.folder) } } }
        table {
            caption { "Least, middle and greatest value over the folders" }
            thead { tr {
                th { "layer" } th { "folders" } th { "agreement" } th { "KL" }
                th { "AUROC of the entropy" } th { "AURC of the entropy" }
            } }
            tbody { @for row in &report.spread { tr {
                td { (row.layer) }
                td { (row.folders) }
                @for spread in [Some(row.agreement), Some(row.kl), row.entropy_auroc, row.entropy_aurc] {
                    td { @if let Some(s) = spread {
                        (format!("{:.3} · {:.3} · {:.3}", s.min, s.median, s.max))
                    } }
                }
            } } }
        }
    }
}

fn terms() -> Markup {
    html! {
        h2 { "Terms" }
        dl { @for (term, meaning) in TERMS { dt { (term) } dd { (meaning) "." } } }
    }
}

/// A value with its interval in small print, or a dash.
fn estimate(estimate: Option<&Estimate>) -> Markup {
    html! {
        @match estimate {
            Some(e) => {
                (number(e.value)) " " small { (number(e.low)) "–" (number(e.high)) }
            }
            None => "–",
        }
    }
}

fn number(value: f64) -> String {
    format!("{value:.3}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
