//! Thresholds, and what comes of leaving the model early.

use super::{estimate, number, percent};
use crate::{
    chart::{Axis, Chart, Corner, Series, Style},
    heads::report::{
        document::Report,
        early_exit::EarlyExitRow,
        folder::{CalibrationLine, HeadSection},
    },
};
use anyhow::Result;
use dssd_heads::{interval::Estimate, report::ThresholdReport};
use maud::{Markup, PreEscaped, html};

const SIZE: (u32, u32) = (420, 340);

/// Promised against realised agreement.
///
/// # Errors
/// If the chart cannot be drawn.
pub(super) fn thresholds(report: &Report) -> Result<Markup> {
    let calibration = report.folders.first().and_then(|f| f.calibration.as_ref());
    let Some(calibration) = calibration else {
        return Ok(html! {
            h2 { "Thresholds" }
            p { "The heads are not calibrated: run " code { "dssd heads calibrate" } "." }
        });
    };
    let chart = promised(&report.heads)?;
    Ok(html! {
        h2 { "Thresholds: promised and realised agreement" }
        (origin(calibration))
        div.charts { (PreEscaped(chart)) }
        div.wide { table {
            caption { "What leaves at each head, of the model's own continuations, and of the text" }
            thead { tr {
                th { "after layer" } th { "promised" } th { "entropy up to" } th { "coverage" }
                th { "realised" } th { "coverage" br; "on text" } th { "realised" br; "on text" }
            } }
            tbody { @for section in &report.heads { @for threshold in &section.thresholds {
                (threshold_row(section.head.layer, threshold))
            } } }
        } }
    })
}

fn origin(calibration: &CalibrationLine) -> Markup {
    html! {
        p {
            "Chosen by the " (calibration.rule) " rule on " (calibration.source)
            "; here on the documents of this report."
        }
        @if calibration.from_the_same_text {
            p.warning {
                "The calibration was made from the same files, so it may have seen these documents: \
                 the realised agreement is too kind to it. Give text of its own, with --documents all."
            }
        }
    }
}

fn threshold_row(layer: usize, threshold: &ThresholdReport) -> Markup {
    let whole = |(value, (low, high))| Estimate { value, low, high };
    let realised = threshold
        .realised
        .zip(threshold.low.zip(threshold.high))
        .map(whole);
    let on_text = threshold.on_text.map(|on_text| Estimate {
        value: on_text.agreement,
        low: on_text.low,
        high: on_text.high,
    });
    html! { tr {
        td { (layer) }
        td { (threshold.epsilon) }
        td { @match threshold.nats { Some(nats) => (format!("{nats:.3} nats")), None => "off" } }
        td { (percent(threshold.coverage)) }
        td { (estimate(realised.as_ref())) }
        td { (percent(threshold.on_text.map_or(0.0, |on_text| on_text.coverage))) }
        td { (estimate(on_text.as_ref())) }
    } }
}

fn promised(heads: &[HeadSection]) -> Result<String> {
    let series = heads.iter().map(|section| {
        let realised = section.thresholds.iter().filter_map(|threshold| {
            let interval = threshold.low.zip(threshold.high)?;
            Some(((threshold.epsilon, threshold.realised?), interval))
        });
        let (points, intervals) = realised.unzip();
        Series {
            intervals,
            ..Series::new(
                format!("layer {}", section.head.layer),
                points,
                Style::Marked,
            )
        }
    });
    let series: Vec<Series> = series.collect();
    let promised = series
        .iter()
        .flat_map(|series| series.points.iter().map(|point| point.0));
    let x = Axis::around("promised agreement", promised);
    let (least, most) = x.range;
    let ends = series.iter().flat_map(|series| &series.intervals);
    let ends = ends.flat_map(|&(low, high)| [low, high]);
    let y = Axis::around("realised agreement", ends.chain([least, most]));
    Chart {
        size: SIZE,
        title: "On the model's continuations",
        x,
        y,
        series,
        guide: Some([(least, least), (most, most)]),
        legend: Corner::LowerRight,
    }
    .svg()
}

/// Lossy early exits.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn early_exit(report: &Report) -> Result<Markup> {
    let rows = &report.early_exit;
    if rows.is_empty() {
        return Ok(html! {});
    }
    let charts = [
        against_depth(
            rows,
            report.layers,
            "agreement",
            Corner::LowerRight,
            |row| row.agreement,
        )?,
        against_depth(
            rows,
            report.layers,
            "perplexity ratio",
            Corner::UpperRight,
            |row| row.perplexity_ratio,
        )?,
        speed(rows)?,
    ];
    Ok(html! {
        h2 { "Early exit (lossy)" }
        p {
            "Tokens leave the model at the first confident head. Agreement is on the model's own \
             continuations, perplexity on the text; depth, layers and speed are of greedy \
             generations through verify-svc, of " (report.max_new_tokens) " tokens each."
        }
        div.wide { table {
            thead { tr {
                th { "target" } th { "agreement" } th { "agreement" br; "on text" }
                th { "perplexity" br; "ratio" } th { "exit depth" } th { "layers" }
                th { "heads" br; "in layers" } th { "never" br; "filled" } th { "speed-up" }
            } }
            tbody { @for row in rows { (early_exit_row(row)) } }
        } }
        div.charts { @for chart in &charts { (PreEscaped(chart)) } }
        (cloze(report))
    })
}

fn early_exit_row(row: &EarlyExitRow) -> Markup {
    let agreement = Estimate {
        value: row.agreement,
        low: row.agreement_low,
        high: row.agreement_high,
    };
    let speedup = Estimate {
        value: row.speedup,
        low: row.speedup_low,
        high: row.speedup_high,
    };
    html! { tr {
        td { (row.epsilon) }
        td { (estimate(Some(&agreement))) }
        td { (number(row.agreement_on_text)) }
        td { (number(row.perplexity_ratio)) }
        td { (format!("{:.2}", row.exit_depth)) }
        td { (format!("{:.2}", row.layers_per_token)) }
        td { (format!("{:.2}", row.heads_in_layers)) }
        td { (percent(row.never_filled)) }
        td { (estimate(Some(&speedup))) }
    } }
}

fn against_depth(
    rows: &[EarlyExitRow],
    layers: usize,
    label: &str,
    legend: Corner,
    value: fn(&EarlyExitRow) -> f64,
) -> Result<String> {
    let at = |depth: fn(&EarlyExitRow) -> f64| -> Vec<(f64, f64)> {
        rows.iter().map(|row| (depth(row), value(row))).collect()
    };
    Chart {
        size: SIZE,
        title: "Quality and depth",
        x: Axis::new("layers for each token", (0.0, layers as f64 + 0.5)),
        y: Axis::around(label, rows.iter().map(value)),
        series: vec![
            Series::new("before the exit", at(|row| row.exit_depth), Style::Marked),
            Series::new("computed", at(|row| row.layers_per_token), Style::Marked),
        ],
        guide: None,
        legend,
    }
    .svg()
}

fn speed(rows: &[EarlyExitRow]) -> Result<String> {
    let ends = rows
        .iter()
        .flat_map(|row| [row.speedup_low, row.speedup_high, 1.0]);
    let points = rows
        .iter()
        .map(|row| (row.agreement, row.speedup))
        .collect();
    let intervals = rows.iter().map(|row| (row.speedup_low, row.speedup_high));
    let x = Axis::around("agreement", rows.iter().map(|row| row.agreement));
    let guide = Some([(x.range.0, 1.0), (x.range.1, 1.0)]);
    Chart {
        size: SIZE,
        title: "Quality and speed",
        x,
        y: Axis::around("speed-up", ends),
        series: vec![Series {
            intervals: intervals.collect(),
            ..Series::new("targets", points, Style::Marked)
        }],
        guide,
        legend: Corner::UpperRight,
    }
    .svg()
}

fn cloze(report: &Report) -> Markup {
    let Some(cloze) = &report.cloze else {
        return html! {};
    };
    html! { table {
        caption { "Cloze task: " (cloze.questions) " questions" }
        thead { tr { th { "target" } th { "accuracy" } } }
        tbody {
            tr { td { "whole model" } td { (estimate(Some(&cloze.whole_model))) } }
            @for row in &cloze.early_exit {
                tr { td { (row.epsilon) } td { (estimate(Some(&row.accuracy))) } }
            }
        }
    } }
}
