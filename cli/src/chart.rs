//! Charts as SVG, for a page or a file of its own: no script, no font files, nothing from elsewhere.

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{Shift, types::RangedCoordf64},
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::{Circle, PathElement},
    prelude::{Cartesian2d, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color as _, RGBColor, ShapeStyle, WHITE},
};

/// Colours that people with colour-blindness tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
const FONT: &str = "sans-serif";
/// Pixels.
const TEXT: u32 = 13;
const MARK: u32 = 4;
const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";

/// A chart of points and lines.
pub(crate) struct Chart<'a> {
    /// Pixels.
    pub(crate) size: (u32, u32),
    pub(crate) title: &'a str,
    pub(crate) x: Axis<'a>,
    pub(crate) y: Axis<'a>,
    pub(crate) series: Vec<Series>,
    /// A grey line for comparison, such as that of chance.
    pub(crate) guide: Option<[(f64, f64); 2]>,
    pub(crate) legend: Corner,
}

/// Where the names of the series stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Corner {
    LowerRight,
    UpperLeft,
    UpperRight,
}

/// An axis.
pub(crate) struct Axis<'a> {
    pub(crate) label: &'a str,
    pub(crate) range: (f64, f64),
    /// What stands at 0, 1, 2, …, in place of numbers.
    pub(crate) names: &'a [String],
}

/// Points that belong together.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Lower and upper end of each point's interval, or none at all.
    pub(crate) intervals: Vec<(f64, f64)>,
    pub(crate) style: Style,
}

/// How points are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A line without marks.
    Line,
    /// A line with a mark at each point.
    Marked,
    /// Marks alone.
    Marks,
}

/// Charts beside each other, as the text of an SVG file.
///
/// # Errors
/// If one cannot be drawn.
pub(crate) fn file(charts: &[Chart<'_>]) -> Result<String> {
    let (mut inner, mut width) = (String::new(), 0);
    for chart in charts {
        let placed = chart
            .svg()?
            .replacen("<svg", &format!("<svg x=\"{width}\""), 1);
        inner.push_str(&placed);
        width += chart.size.0;
    }
    let height = charts.iter().map(|chart| chart.size.1).max().unwrap_or(0);
    Ok(format!(
        "<svg{NAMESPACE} width=\"{width}\" height=\"{height}\">\n{inner}</svg>\n"
    ))
}

type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
type Context<'c, 's> =
    ChartContext<'c, SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl<'a> Axis<'a> {
    /// An axis of numbers.
    pub(crate) fn new(label: &'a str, range: (f64, f64)) -> Self {
        Self {
            label,
            range,
            names: &[],
        }
    }

    /// From 0 to 1.
    pub(crate) fn share(label: &'a str) -> Self {
        Self::new(label, (0.0, 1.0))
    }

    /// Room for values and some more.
    pub(crate) fn around(label: &'a str, values: impl Iterator<Item = f64>) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let margin = (0.06 * (high - low)).max(0.02);
        match low <= high {
            true => Self::new(label, (low - margin, high + margin)),
            false => Self::share(label),
        }
    }

    fn tick(&self, at: f64) -> String {
        if self.names.is_empty() {
            return format!("{}", (at * 1000.0).round() / 1000.0);
        }
        let name = self.names.get(at.round() as usize);
        let on_it = at >= 0.0 && (at - at.round()).abs() < 0.01;
        name.filter(|_| on_it).cloned().unwrap_or_default()
    }
}

impl Series {
    /// Points without intervals.
    pub(crate) fn new(name: impl Into<String>, points: Vec<(f64, f64)>, style: Style) -> Self {
        Self {
            name: name.into(),
            points,
            intervals: Vec::new(),
            style,
        }
    }
}

impl Chart<'_> {
    /// The chart as an `svg` element.
    ///
    /// # Errors
    /// If it cannot be drawn: a range is empty, or the size too small.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, self.size).into_drawing_area();
        let drawn = self.draw(&root);
        drawn.map_err(|error| anyhow!("the chart `{}`: {error}", self.title))?;
        drop(root);
        // An element of a page needs no namespace, and the page names no address at all.
        Ok(svg.replace(NAMESPACE, ""))
    }

    fn draw(&self, root: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(root)
            .caption(self.title, (FONT, TEXT + 3))
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(
                self.x.range.0..self.x.range.1,
                self.y.range.0..self.y.range.1,
            )?;
        let ticks = |axis: &Axis<'_>| {
            if axis.names.is_empty() {
                6
            } else {
                2 * axis.names.len()
            }
        };
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.1))
            .x_labels(ticks(&self.x))
            .y_labels(ticks(&self.y))
            .x_label_formatter(&|at| self.x.tick(*at))
            .y_label_formatter(&|at| self.y.tick(*at))
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .label_style((FONT, TEXT))
            .axis_desc_style((FONT, TEXT))
            .draw()?;
        if let Some(guide) = self.guide {
            chart.draw_series([PathElement::new(guide.to_vec(), BLACK.mix(0.35))])?;
        }
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            series.draw(&mut chart, *colour)?;
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(match self.legend {
                    Corner::LowerRight => SeriesLabelPosition::LowerRight,
                    Corner::UpperLeft => SeriesLabelPosition::UpperLeft,
                    Corner::UpperRight => SeriesLabelPosition::UpperRight,
                })
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.2))
                .label_font((FONT, TEXT))
                .draw()?;
        }
        root.present()?;
        Ok(())
    }
}

impl Series {
    fn draw(
        &self,
        chart: &mut Context<'_, '_>,
        colour: RGBColor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let thick = ShapeStyle::from(colour).stroke_width(2);
        for (&(x, _), &(low, high)) in self.points.iter().zip(&self.intervals) {
            chart.draw_series([PathElement::new(vec![(x, low), (x, high)], thick)])?;
        }
        if self.style != Style::Marks {
            chart.draw_series(LineSeries::new(self.points.iter().copied(), thick))?;
        }
        let marked = if self.style == Style::Line {
            &[]
        } else {
            self.points.as_slice()
        };
        let marks = (marked.iter()).map(|&at| Circle::new(at, MARK, colour.filled()));
        chart
            .draw_series(marks)?
            .label(&self.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], thick));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_needs_nothing_from_elsewhere_and_escapes_names() {
        let chart = Chart {
            size: (320, 240),
            title: "a < b & c",
            x: Axis::share("x"),
            y: Axis::around("y", [0.2, 0.9].into_iter()),
            series: vec![
                Series::new("<one>", vec![(0.0, 0.2), (1.0, 0.9)], Style::Marked),
                Series::new("two", Vec::new(), Style::Line),
            ],
            guide: Some([(0.0, 0.0), (1.0, 1.0)]),
            legend: Corner::UpperLeft,
        };
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&lt;one&gt;"));
        assert!(!svg.contains("http") && !svg.contains("href"));
        // Both ends of the line, inside the picture.
        assert!(svg.contains("<circle"));
    }

    #[test]
    fn names_stand_at_whole_numbers_alone() {
        let names = ["one".to_owned(), "two".to_owned()];
        let axis = Axis {
            names: &names,
            ..Axis::new("", (-0.5, 1.5))
        };
        let ticks: Vec<String> = [-0.5, 0.0, 0.5, 1.0, 2.0].map(|at| axis.tick(at)).to_vec();
        assert_eq!(ticks, ["", "one", "", "two", ""]);
        assert_eq!(Axis::share("").tick(0.30000000000000004), "0.3");
    }
}
