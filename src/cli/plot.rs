//! Learning curves as SVG.

use std::path::Path;

use acclimate::tools::simulate::Point;
use acclimate::{Error, Result};
use plotters::prelude::*;

const SIZE: (u32, u32) = (820, 480);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 96, 20),
    RGBColor(44, 140, 60),
    RGBColor(148, 64, 170),
    RGBColor(170, 40, 50),
    RGBColor(90, 90, 90),
];

/// Whether a plot can be written to `path`, asked before the work that it shows.
pub fn check(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !path.is_dir() && folder.is_dir() {
        return Ok(());
    }
    Err(Error::usage("no plot can be written there").at(path.display()).hint("name a file in a folder that exists"))
}

/// Writes one line a named curve: accuracy on held-out items against interactions seen; the base model dashed.
pub fn write(path: &Path, title: &str, curves: &[(String, &[Point])]) -> Result<()> {
    let svg = draw(title, curves).map_err(|e| Error::internal("cannot draw the plot").because(e))?;
    std::fs::write(path, svg).map_err(|e| Error::io("cannot write the plot", path, e))
}

fn draw(title: &str, curves: &[(String, &[Point])]) -> std::result::Result<String, String> {
    let points = || curves.iter().flat_map(|(_, c)| c.iter());
    let last = points().map(|p| p.seen).max().unwrap_or(0).max(1) as f64;
    let lowest = points().map(|p| p.base_accuracy.min(p.adapted_accuracy)).fold(1.0, f64::min);
    let floor = ((lowest * 10.0 - 0.5).floor() / 10.0).clamp(0.0, 0.9) * 100.0;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let words = |e: DrawingAreaErrorKind<_>| format!("{e:?}");
        root.fill(&WHITE).map_err(words)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..last * 1.02, floor..101.0)
            .map_err(words)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("interactions")
            .y_desc("right on held-out items, %")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .draw()
            .map_err(words)?;
        for (at, (name, curve)) in curves.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let base = curve.first().map_or(0.0, |p| 100.0 * p.base_accuracy);
            let dashed = DashedLineSeries::new([(0.0, base), (last, base)], 6, 4, colour.mix(0.6).stroke_width(1));
            chart.draw_series(dashed).map_err(words)?;
            // The active generation stays as it is until the next training.
            let mut steps: Vec<(f64, f64)> = vec![];
            for p in *curve {
                let (x, y) = (p.seen as f64, 100.0 * p.adapted_accuracy);
                if let Some(&(_, before)) = steps.last() {
                    steps.push((x, before));
                }
                steps.push((x, y));
            }
            if let Some(&(_, y)) = steps.last() {
                steps.push((last, y));
            }
            chart
                .draw_series(LineSeries::new(steps, colour.stroke_width(2)))
                .map_err(words)?
                .label(name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .draw()
            .map_err(words)?;
        root.present().map_err(words)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_curve() {
        let at = |seen, adapted_accuracy| Point { seen, base_accuracy: 0.8, adapted_accuracy };
        let curve = [at(0, 0.8), at(90, 0.95)];
        let svg = draw("a title", &[("first".into(), &curve), ("second".into(), &curve[..1])]).unwrap();
        for part in ["<svg", "a title", "first", "second", "interactions", "#1F77B4"] {
            assert!(svg.contains(part), "{part} is missing");
        }
        assert!(draw("nothing", &[]).is_ok());
    }
}
