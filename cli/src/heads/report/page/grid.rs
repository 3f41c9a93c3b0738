//! Every fixed length and every target agreement on split A.

use super::percent;
use crate::{
    chart::{Axis, Chart, Corner, Series, Style},
    heads::report::{
        document::Report,
        speculation::{Drafts, DssdRow, LayerSkipRow},
    },
};
use anyhow::Result;
use maud::{Markup, html};

const SIZE: (u32, u32) = (460, 360);

/// The grids at one temperature.
pub(super) struct Grid<'a> {
    layerskip: Vec<&'a LayerSkipRow>,
    dssd: Vec<&'a DssdRow>,
}

impl<'a> Grid<'a> {
    pub(super) fn of(report: &'a Report, temperature: f32) -> Self {
        let of_temperature = |drafts: &Drafts| drafts.temperature == temperature;
        let (layerskip, dssd) = (report.layerskip_grid.iter(), report.dssd_grid.iter());
        Self {
            layerskip: layerskip
                .filter(|row| of_temperature(&row.drafts))
                .collect(),
            dssd: dssd.filter(|row| of_temperature(&row.drafts)).collect(),
        }
    }

    /// Acceptance against mean acceptance length.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub(super) fn chart(&self) -> Result<String> {
        let mut layers: Vec<usize> = self.layerskip.iter().map(|row| row.layer).collect();
        layers.dedup();
        let fixed = layers.iter().map(|&layer| {
            let of_layer = self.layerskip.iter().filter(|row| row.layer == layer);
            let points = of_layer.map(|row| point(&row.drafts)).collect();
            Series::new(format!("fixed, layer {layer}"), points, Style::Marked)
        });
        let dssd = self.dssd.iter().map(|row| point(&row.drafts)).collect();
        let dssd = Series::new("DSSD", dssd, Style::Marked);
        let series: Vec<Series> = fixed.chain([dssd]).collect();
        let lengths = series.iter().flat_map(|series| series.points.iter());
        let x = Axis::around("mean acceptance length", lengths.map(|point| point.0));
        Chart {
            size: SIZE,
            title: "Acceptance by length, on split A",
            x,
            y: Axis::share("acceptance"),
            series,
            guide: None,
            legend: Corner::UpperRight,
        }
        .svg()
    }

    pub(super) fn table(&self) -> Markup {
        html! { details {
            summary { "Every fixed length, and every target of DSSD, on split A" }
            table {
                thead { tr {
                    th { "settings" } th { "generations" } th { "tokens/s" } th { "acceptance" }
                    th { "length" } th { "wasted" } th { "coverage" }
                } }
                tbody {
                    @for row in &self.layerskip { tr {
                        td { "layer " (row.layer) ", " (row.tokens) " tokens" }
                        td { (row.drafts.generations) }
                        (drafts(&row.drafts))
                    } }
                    @for row in &self.dssd { tr {
                        td { "DSSD at " (row.epsilon) }
                        td { (row.drafts.generations) }
                        (drafts(&row.drafts))
                    } }
                }
            }
        } }
    }
}

fn point(drafts: &Drafts) -> (f64, f64) {
    (drafts.mean_acceptance_length, drafts.draft_acceptance_rate)
}

/// Cells: tokens per second, acceptance, length, wasted, coverage.
pub(super) fn drafts(drafts: &Drafts) -> Markup {
    html! {
        td { (format!("{:.0}", drafts.tokens_per_second)) }
        td { (percent(drafts.draft_acceptance_rate)) }
        td { (format!("{:.2}", drafts.mean_acceptance_length)) }
        td { (format!("{:.2}", drafts.wasted_per_token)) }
        td { (percent(drafts.coverage)) }
    }
}
