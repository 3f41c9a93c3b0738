//! How often heads are right, and how well their scores tell right from wrong.

use super::{estimate, number};
use crate::{
    chart::{Axis, Chart, Corner, Series, Style},
    heads::report::document::Report,
};
use anyhow::Result;
use dssd_heads::{
    interval::Estimate,
    report::{HeadReport, Point, Scores},
};
use maud::{Markup, PreEscaped, html};

const SMALL: (u32, u32) = (340, 300);

/// The section.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn section(report: &Report) -> Result<Markup> {
    let heads: Vec<&HeadReport> = report.heads.iter().map(|section| &section.head).collect();
    let roc = heads.iter().map(|head| roc(head));
    let risk = heads.iter().map(|head| risk_coverage(head));
    let charts: Vec<String> = std::iter::once(agreement(&heads, report.layers))
        .chain(roc)
        .chain(risk)
        .collect::<Result<_>>()?;
    Ok(html! {
        h2 { "Heads against the whole model" }
        div.wide { table {
            caption { "On the text, position by position" }
            thead { tr {
                th { "after layer" } th { "agreement" } th { "KL" }
                @for (name, ()) in NAMES.named() { th { "AUROC" br; (name) } }
            } }
            tbody { @for head in &heads { tr {
                td { (head.layer) }
                td { (estimate(Some(&agreement_of(head)))) }
                td { (number(head.kl)) }
                @for (_, area) in head.auroc.named() { td { (estimate(area.as_ref())) } }
            } } }
        } }
        div.wide { table {
            thead { tr {
                th { "after layer" }
                @for (name, ()) in NAMES.named() { th { "AURC" br; (name) } }
            } }
            tbody { @for head in &heads { tr {
                td { (head.layer) }
                @for (_, area) in head.aurc.named() { td { (estimate(area.as_ref())) } }
            } } }
        } }
        div.charts { @for chart in &charts { (PreEscaped(chart)) } }
    })
}

const NAMES: Scores<()> = Scores {
    entropy: (),
    max_probability: (),
    margin_probability: (),
    margin_logit: (),
};

fn agreement_of(head: &HeadReport) -> Estimate {
    Estimate {
        value: head.agreement,
        low: head.agreement_low,
        high: head.agreement_high,
    }
}

fn agreement(heads: &[&HeadReport], layers: usize) -> Result<String> {
    let points = heads.iter().map(|head| (head.layer as f64, head.agreement));
    let intervals = heads
        .iter()
        .map(|head| (head.agreement_low, head.agreement_high));
    let series = Series {
        intervals: intervals.collect(),
        ..Series::new("heads", points.collect(), Style::Marked)
    };
    Chart {
        size: SMALL,
        title: "Agreement with the whole model",
        x: Axis::new("layers before the head", (0.0, layers as f64)),
        y: Axis::share("agreement"),
        series: vec![series],
        guide: None,
        legend: Corner::LowerRight,
    }
    .svg()
}

fn curves(curves: &Scores<Vec<Point>>) -> Vec<Series> {
    let series = |(name, points): (&'static str, &Vec<Point>)| {
        let points = points.iter().map(|point| (point.x, point.y)).collect();
        Series::new(name, points, Style::Line)
    };
    curves.named().map(series).into()
}

fn roc(head: &HeadReport) -> Result<String> {
    Chart {
        size: SMALL,
        title: &format!("ROC after layer {}", head.layer),
        x: Axis::share("wrong ones let through"),
        y: Axis::share("right ones let through"),
        series: curves(&head.roc),
        guide: Some([(0.0, 0.0), (1.0, 1.0)]),
        legend: Corner::LowerRight,
    }
    .svg()
}

fn risk_coverage(head: &HeadReport) -> Result<String> {
    let risk = 1.0 - head.agreement;
    Chart {
        size: SMALL,
        title: &format!("Risk and coverage after layer {}", head.layer),
        x: Axis::share("coverage"),
        y: Axis::new("share of wrong ones", (0.0, (1.2 * risk).clamp(0.05, 1.0))),
        series: curves(&head.risk_coverage),
        guide: Some([(0.0, risk), (1.0, risk)]),
        legend: Corner::UpperLeft,
    }
    .svg()
}
