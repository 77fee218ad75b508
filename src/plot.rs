//! Plots, as SVG that needs nothing around it.

use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::drawing::IntoDrawingArea as _;
use plotters::element::{Circle, Rectangle, Text};
use plotters::prelude::{DrawingAreaErrorKind, IntoFont as _, SVGBackend};
use plotters::series::LineSeries;
use plotters::style::{BLACK, Color as _, RGBColor, WHITE};

use crate::experiment::figures::short;

/// Colours that people with any kind of sight tell apart: Okabe and Ito, "Color Universal Design" (2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

const WIDTH: u32 = 720;
const FONT: (&str, i32) = ("sans-serif", 13);

/// Points that belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// What the legend says.
    pub(crate) name: String,
    /// In ascending order.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether it is a law rather than something that was measured: a line without points.
    pub(crate) is_law: bool,
}

/// A plot, or why it can't be drawn: only memory can be short.
pub(crate) type Drawn = Result<String, DrawingAreaErrorKind<std::io::Error>>;

/// Lines over a common axis, from zero.
///
/// # Errors
///
/// If it can't be drawn.
pub(crate) fn lines(x_name: &str, y_name: &str, series: &[Series]) -> Drawn {
    let all = || series.iter().flat_map(|series| series.points.iter().copied());
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0_f64, f64::max);
    let (right, top) = (most(&mut all().map(|(x, _)| x)), most(&mut all().map(|(_, y)| y)));
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, 340)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(
                0.0..room(right, 1.08),
                0.0..room(top, if series.len() > 1 { 1.4 } else { 1.08 }),
            )?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.1))
            .x_desc(x_name)
            .y_desc(y_name)
            .label_style(FONT.into_font())
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let style = if series.is_law { colour.mix(0.5).stroke_width(1) } else { colour.stroke_width(2) };
            chart
                .draw_series(LineSeries::new(series.points.iter().copied(), style))?
                .label(series.name.clone())
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
            if !series.is_law {
                chart
                    .draw_series(series.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.85))
                .label_font(FONT.into_font())
                .draw()?;
        }
        root.present()?;
    }
    Ok(text)
}

/// A bar for each row, of parts one after the other; the parts have the same names in every row.
///
/// # Errors
///
/// If it can't be drawn.
pub(crate) fn bars(x_name: &str, names: &[&str], rows: &[(String, Vec<f64>)]) -> Drawn {
    let longest = rows.iter().map(|(_, parts)| parts.iter().sum()).fold(0.0_f64, f64::max);
    let height = u32::try_from(rows.len()).unwrap_or(u32::MAX).saturating_mul(34).saturating_add(96);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let count = as_float(rows.len());
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(8)
            .build_cartesian_2d(0.0..room(longest, if names.len() > 1 { 1.5 } else { 1.08 }), -count..0.4)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.1))
            .x_desc(x_name)
            .y_labels(0)
            .label_style(FONT.into_font())
            .x_label_formatter(&|x| short(*x))
            .draw()?;
        for (part, (name, colour)) in names.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let bar = |(row, (_, parts)): (usize, &(String, Vec<f64>))| {
                let start: f64 = parts.iter().take(part).sum();
                let (top, end) = (-as_float(row) - 0.36, start + parts.get(part).copied().unwrap_or(0.0));
                Rectangle::new([(start, top), (end, top - 0.5)], colour.filled())
            };
            chart
                .draw_series(rows.iter().enumerate().map(bar))?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
        }
        chart.draw_series(rows.iter().enumerate().map(|(row, (label, _))| {
            Text::new(label.clone(), (0.0, -as_float(row) - 0.04), FONT.into_font())
        }))?;
        if names.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.85))
                .label_font(FONT.into_font())
                .draw()?;
        }
        root.present()?;
    }
    Ok(text)
}

/// An axis that ends behind the largest value, with room for a legend where there is one; and that is there also where nothing is.
fn room(most: f64, times: f64) -> f64 {
    if most.is_finite() && most > 0.0 { most * times } else { 1.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a number of rows")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_needs_nothing_around_it() {
        let series = Series { name: "a <b>".into(), points: vec![(1.0, 2.0), (2.0, 3.0)], is_law: false };
        let text = lines("workers", "records a second", &[series.clone(), Series { is_law: true, ..series }])
            .unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("records a second") && text.contains("a &lt;b&gt;"));
        assert!(!text.contains("href"));
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert!(lines("x", "y", &[]).unwrap().contains("<svg"));
        assert!(bars("x", &["a"], &[]).unwrap().contains("<svg"));
        assert!(bars("ns", &["a", "b"], &[("row".into(), vec![1.0, 2.0])]).unwrap().contains("row"));
    }
}
