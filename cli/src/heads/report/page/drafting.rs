//! Lossless drafting: every policy, and the paper's comparison.

use super::{
    estimate,
    grid::{Grid, drafts},
    number, percent,
};
use crate::{
    chart::{Axis, Chart, Corner, Series, Style},
    heads::report::{
        document::Report,
        speculation::{Comparison, LayerSkip, Row, Side},
    },
};
use anyhow::Result;
use maud::{Markup, PreEscaped, html};

const WIDE: (u32, u32) = (720, 320);

/// The section.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn section(report: &Report) -> Result<Markup> {
    let parts = report
        .comparisons
        .iter()
        .map(|told| temperature(report, told));
    let parts: Vec<Markup> = parts.collect::<Result<_>>()?;
    Ok(html! {
        h2 { "Drafting (lossless)" }
        p {
            "Measured through the running pair of services, one generation at a time, "
            (report.max_new_tokens) " tokens each, going on after an end of text. Settings were \
             chosen on split A (" (report.text.prompts[0]) " prompts) by tokens per second alone, by \
             successive halving; the figures are of split B (" (report.text.prompts[1])
            " other prompts), all policies and plain decoding in turn and in random order. Every \
             speculated text was compared with the plain one; none differed."
        }
        @for part in &parts { (part) }
    })
}

fn temperature(report: &Report, told: &Comparison) -> Result<Markup> {
    let of_temperature = |row: &&Row| row.temperature == told.temperature;
    let rows: Vec<&Row> = report.policies.iter().filter(of_temperature).collect();
    let grid = Grid::of(report, told.temperature);
    let charts = [speedups(&rows)?, grid.chart()?];
    Ok(html! {
        h3 {
            @if told.temperature == 0.0 { "Greedy" } @else { "At temperature " (told.temperature) }
        }
        p {
            "Plain decoding: " (format!("{:.0}", told.plain_tokens_per_second))
            " tokens per second; " (told.generations) " generations with each policy."
        }
        (policies(&rows))
        (auto(told))
        div.charts { @for chart in &charts { (PreEscaped(chart)) } }
        @if let Some(paper) = &told.layerskip { (layerskip(paper)) }
        (grid.table())
    })
}

fn policies(rows: &[&Row]) -> Markup {
    html! { div.wide { table {
        thead { tr {
            th { "policy" } th.name { "settings" } th { "tokens/s" } th { "speed-up" }
            th { "modelled" } th { "optimum" } th { "acceptance" } th { "length" } th { "wasted" }
            th { "coverage" } th { "draft" br; "ms" } th { "verify" br; "ms" } th { "wire" br; "ms" }
        } }
        tbody { @for row in rows { tr {
            td { (row.report.policy) }
            td.name { (row.settings) }
            td { (format!("{:.0}", row.report.tokens_per_second)) }
            td { (estimate(row.speedup_interval.as_ref())) }
            td { (format!("{:.2}", row.report.modelled_speedup)) }
            td { (format!("{:.2}", row.report.optimum_speedup)) }
            td { (percent(row.report.draft_acceptance_rate)) }
            td { (format!("{:.2}", row.report.mean_acceptance_length)) }
            td { (format!("{:.2}", row.report.wasted_per_token)) }
            td { (percent(row.report.coverage)) }
            @for seconds in [
                row.report.draft_seconds, row.report.verify_seconds, row.report.wire_seconds,
            ] { td { (format!("{:.2}", 1e3 * seconds)) } }
        } } }
    } } }
}

fn auto(told: &Comparison) -> Markup {
    html! {
        table {
            caption { "auto over each other policy, tokens per second: the median of paired ratios" }
            thead { tr { th { "over" } th.name { "settings" } th { "ratio" } } }
            tbody {
                @for over in &told.auto_over { tr {
                    td { (over.policy) }
                    td.name { (over.settings) }
                    td { (estimate(Some(&over.ratio))) }
                } }
                tr {
                    td { "the fastest of each turn" } td {}
                    td { (estimate(told.auto_over_oracle.as_ref())) }
                }
            }
        }
        @if let Some(best) = &told.auto_over_best {
            p {
                "Fastest on split A beside auto: " (best.settings) ". auto over it: "
                (estimate(Some(&best.ratio))) "; wanted at least 1, and the lower end at least 0.97: "
                strong { (if told.met { "met" } else { "not met" }) } ". The fastest of each turn is \
                an oracle's choice that also profits from noise."
            }
        }
    }
}

fn speedups(rows: &[&Row]) -> Result<String> {
    let names: Vec<String> = rows.iter().map(|row| row.report.policy.clone()).collect();
    let measured = rows.iter().enumerate().filter_map(|(at, row)| {
        let speedup = row.speedup_interval?;
        Some(((at as f64, speedup.value), (speedup.low, speedup.high)))
    });
    let (points, intervals): (Vec<_>, Vec<_>) = measured.unzip();
    let modelled = rows.iter().enumerate();
    let modelled = modelled.map(|(at, row)| (at as f64 + 0.2, row.report.modelled_speedup));
    let modelled: Vec<(f64, f64)> = modelled.collect();
    let values = intervals.iter().flat_map(|&(low, high)| [low, high, 1.0]);
    let y = Axis::around(
        "speed-up",
        values.chain(modelled.iter().map(|point| point.1)),
    );
    let x = Axis {
        names: &names,
        // Room for the legend behind the last name.
        ..Axis::new("", (-0.5, names.len() as f64 + 0.8))
    };
    let guide = Some([(x.range.0, 1.0), (x.range.1, 1.0)]);
    let series = vec![
        Series {
            intervals,
            ..Series::new("measured", points, Style::Marks)
        },
        Series::new("modelled", modelled, Style::Marks),
    ];
    Chart {
        size: WIDE,
        title: "Speed-up over plain decoding",
        x,
        y,
        series,
        guide,
        legend: Corner::LowerRight,
    }
    .svg()
}

fn layerskip(paper: &LayerSkip) -> Markup {
    let side = |name: &str, side: &Side| {
        html! { tr {
            td { (name) }
            td.name { (side.settings) }
            (drafts(&side.drafts))
        } }
    };
    html! {
        table {
            caption { "The paper's comparison: both at their fastest setting of split A, same longest draft" }
            thead { tr {
                th { "" } th.name { "settings" } th { "tokens/s" } th { "acceptance" } th { "length" } th { "wasted" } th { "coverage" }
            } }
            tbody {
                (side("LayerSkip", &paper.layerskip))
                (side("DSSD", &paper.dssd))
            }
        }
        p {
            "DSSD's acceptance over LayerSkip's: " (estimate(Some(&paper.dssd_over_layerskip_acceptance)))
            " (the paper: 1.66; wanted here " (number(paper.wanted)) "). Tokens per second over \
             LayerSkip's: " (estimate(paper.dssd_over_layerskip_rate.as_ref()))
            ", over plain decoding's: " (estimate(paper.dssd_over_plain_rate.as_ref())) ". At DSSD's mean acceptance length \
             on split A, the ratio to fixed lengths of LayerSkip's head is "
            (matched(paper.ratio_at_matched_length)) ", and to the best of any head, however dear, "
            (matched(paper.ratio_at_matched_length_of_any_head)) ". LayerSkip stands for drafts of a fixed length from one head: no keys and values are \
             shared with the verifier, and no layers were dropped in training."
        }
    }
}

fn matched(ratio: Option<f64>) -> String {
    ratio.map_or("unknown, as none reaches it".to_owned(), number)
}
