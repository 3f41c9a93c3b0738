//! The ladder as a picture: throughput and inter-token latency over the number of streams.

use super::report::{Report, Rung};
use crate::chart::{self, Axis, Chart, Corner, Series, Style};
use anyhow::Result;

/// Pixels of each chart.
const SIZE: (u32, u32) = (520, 360);
const STREAMS: &str = "streams";

/// An SVG file.
///
/// # Errors
/// If a chart cannot be drawn.
pub(super) fn svg(report: &Report) -> Result<String> {
    let mut streams: Vec<usize> = report.rungs.iter().map(|rung| rung.streams).collect();
    streams.dedup();
    let names: Vec<String> = streams.iter().map(usize::to_string).collect();
    let ladder = Ladder { report, streams };
    let rate = |rung: &Rung| Some(rung.tokens_per_second);
    let latency = |quantile: usize| {
        move |rung: &Rung| {
            let itl = rung.calls.itl?;
            Some(1e3 * [itl.p50, itl.p99][quantile])
        }
    };
    let rates = ladder.series("", rate);
    let latencies = [("p50", 0), ("p99", 1)].map(|(name, at)| ladder.series(name, latency(at)));
    chart::file(&[
        picture("tokens per second", rates, &names, Corner::LowerRight),
        picture(
            "from token to token, ms",
            latencies.into_iter().flatten().collect(),
            &names,
            Corner::UpperLeft,
        ),
    ])
}

struct Ladder<'a> {
    report: &'a Report,
    streams: Vec<usize>,
}

impl Ladder<'_> {
    /// One line for each kind of drafting.
    fn series(&self, suffix: &str, value: impl Fn(&Rung) -> Option<f64>) -> Vec<Series> {
        let kinds = [self.report.policy.as_str(), "off"];
        let line = |kind: &str| {
            let rungs = self.report.rungs.iter();
            let points = rungs.filter(|rung| rung.speculation == kind);
            let points = points.filter_map(|rung| {
                let at = self.streams.iter().position(|&n| n == rung.streams)?;
                Some((at as f64, value(rung)?))
            });
            let name = format!("{kind} {suffix}").trim_end().to_owned();
            Series::new(name, points.collect(), Style::Marked)
        };
        kinds.map(line).into()
    }
}

fn picture<'a>(
    label: &'a str,
    series: Vec<Series>,
    names: &'a [String],
    legend: Corner,
) -> Chart<'a> {
    let highest = series.iter().flat_map(|series| &series.points);
    let highest = highest.map(|point| point.1).fold(0.0, f64::max);
    Chart {
        size: SIZE,
        title: label,
        x: Axis {
            label: STREAMS,
            range: (-0.5, names.len() as f64 - 0.5),
            names,
        },
        y: Axis::new(label, (0.0, 1.15 * highest.max(f64::MIN_POSITIVE))),
        series,
        guide: None,
        legend,
    }
}
