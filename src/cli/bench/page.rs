//! A suite as one HTML page: tables, and bars drawn as SVG. It loads nothing, and runs nothing.

use super::results::{Key, Line, Results};
use super::targets::{kind, title};
use super::words::{left_out, limit, machine, rows, source, value, what, worst};

/// Plots: a title and the measures that share a scale.
const PLOTS: [(&str, &[&str]); 4] = [
    ("Predictions", &["predict", "adapted_predict", "merged_predict", "prefill", "token"]),
    ("Training steps", &["train_step", "later_step"]),
    ("Memory", &["predict_anonymous", "predict_peak_rss", "train_anonymous", "train_peak_rss"]),
    ("Predictions beside a training", &["predict_alone", "predict_while_training"]),
];

/// Measures have colours of these classes, by their place in a plot.
const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #5c636b; --line: #d9dde2; --good: #1a7f37;
  --bad: #b42318; --c0: #2f6fb5; --c1: #c2601a; --c2: #3d8b4a; --c3: #8a4fae; --c4: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --soft: #9aa3ad; --line: #333a42;
  --good: #5ccf7d; --bad: #ff8a7a; --c0: #6aa9ea; --c1: #f0944d; --c2: #6cc47c; --c3: #bd8be0; --c4: #a3abb5; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p, .soft { color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
.met { color: var(--good); } .missed { color: var(--bad); }
svg { display: block; max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); } svg .whisker { stroke: var(--ink); }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); }
.c4 { fill: var(--c4); }
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn page(results: &Results) -> String {
    let quick = if results.quick { " (quick)" } else { "" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>acclimate bench</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>acclimate bench{quick}</h1>\n<p>{}</p>\n",
        escaped(&machine(results))
    );
    page += "<h2>Targets</h2>\n";
    page += &targets(results);
    for (name, measures) in PLOTS {
        let models: Vec<&str> = results.models.iter().map(|m| m.name.as_str()).collect();
        let plots: Vec<String> = models.iter().filter_map(|model| plot(results, model, measures)).collect();
        if !plots.is_empty() {
            page += &format!("<h2>{name}</h2>\n<p>{}</p>\n{}", says(name), plots.concat());
        }
    }
    page += "<h2>Models</h2>\n";
    page += &models(results);
    page += "<h2>All figures</h2>\n";
    page += &figures(results);
    page + "</body>\n</html>\n"
}

fn says(plot: &str) -> &'static str {
    match plot {
        "Memory" => "Anonymous memory is what no file backs; the peak counts the pages of the mapped model, too.",
        _ => "Bars are medians; lines go from the shortest to the 95th percentile of all runs.",
    }
}

fn table(head: &[&str], numbers_from: usize, rows: Vec<Vec<String>>) -> String {
    let class = |at: usize| if at >= numbers_from { " class=\"n\"" } else { "" };
    let head: String = head.iter().enumerate().map(|(at, h)| format!("<th{}>{h}</th>", class(at))).collect();
    let row = |cells: Vec<String>| -> String {
        let cells: String = cells.iter().enumerate().map(|(at, c)| format!("<td{}>{c}</td>", class(at))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<div class=\"wide\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n")
}

fn targets(results: &Results) -> String {
    let row = |(t, met, all): (&super::results::Target, usize, usize)| {
        let (class, state) = if met == all { ("met", "met".into()) } else { ("missed", format!("{met} of {all} met")) };
        vec![
            escaped(&t.name),
            limit(t),
            value(t.value, &t.unit),
            escaped(&what(&Key { measure: String::new(), ..t.key.clone() })).trim_end_matches(", ").to_string(),
            format!("<span class=\"{class}\">{state}</span>"),
            escaped(&t.source),
        ]
    };
    let rows: Vec<Vec<String>> = worst(results).into_iter().map(row).collect();
    match rows.is_empty() {
        true => "<p>Nothing that was measured has a target.</p>\n".into(),
        false => table(&["target", "limit", "worst figure", "of", "state", "set by"], 9, rows),
    }
}

fn models(results: &Results) -> String {
    let rows = results.models.iter().map(|m| {
        let left_out = left_out(m).unwrap_or_else(|| "measured".into());
        vec![
            escaped(&m.name),
            source(m.source).into(),
            kind(m.shapes).into(),
            value(m.weight_bytes as f64, "bytes"),
            escaped(&left_out).replace('\n', "<br>"),
        ]
    });
    table(&["model", "from", "takes", "weights", "state"], 9, rows.collect())
}

fn figures(results: &Results) -> String {
    let rows = results.figures.iter().map(|l| {
        let beside = results.targets.iter().find(|t| t.key == l.key);
        let target = beside.map_or(String::new(), |t| {
            let (class, state) = if t.met { ("met", "met") } else { ("missed", "missed") };
            let name = escaped(&t.name);
            format!("<span class=\"{class}\">{name} {}: {}, {state}</span>", limit(t), value(t.value, &t.unit))
        });
        vec![
            escaped(&l.key.model),
            l.key.shape(),
            l.key.threads.to_string(),
            escaped(title(&l.key.measure)),
            target,
            value(l.median, &l.unit),
            value(l.min, &l.unit),
            value(l.p95, &l.unit),
            l.n.to_string(),
        ]
    });
    let head = ["model", "shape", "threads", "measure", "target", "median", "least", "p95", "runs"];
    table(&head, 5, rows.collect())
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 110.0;
const BAR: f64 = 16.0;
const GAP: f64 = 6.0;

/// Bars of one model, with lines from the least to the 95th percentile; none if it has none of the measures.
fn plot(results: &Results, model: &str, measures: &[&str]) -> Option<String> {
    let keys = rows(results).into_iter().chain(beside(results)).filter(|k| k.model == model);
    let mut lines: Vec<(usize, &Line)> = vec![];
    for key in keys {
        for (at, measure) in measures.iter().enumerate() {
            let line = results.beside(&key, measure);
            lines.extend(line.filter(|l| !lines.iter().any(|(_, other)| other.key == l.key)).map(|l| (at, l)));
        }
    }
    let most = lines.iter().map(|(_, l)| l.p95.max(l.median)).fold(0.0, f64::max);
    if lines.is_empty() || most <= 0.0 {
        return None;
    }
    let x = |v: f64| LEFT + (WIDTH - LEFT - RIGHT) * (v / most).clamp(0.0, 1.0);
    let height = lines.len() as f64 * (BAR + GAP) + GAP;
    let name = escaped(model);
    let mut svg = format!(
        "<h3>{name}</h3>\n<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{name}\">\n<line class=\"axis\" x1=\"{LEFT}\" y1=\"0\" x2=\"{LEFT}\" y2=\"{height}\"/>\n"
    );
    for (row, (colour, line)) in lines.into_iter().enumerate() {
        let y = GAP + row as f64 * (BAR + GAP);
        let (text, middle) = (y + 0.75 * BAR, y + 0.5 * BAR);
        let label = format!("{}, {} thr., {}", line.key.shape(), line.key.threads, title(&line.key.measure));
        let (width, end) = ((x(line.median) - LEFT).max(1.0), x(line.p95).max(x(line.median)) + 8.0);
        svg += &format!(
            "<text class=\"soft\" x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"c{}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <line class=\"whisker\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{end:.1}\" y=\"{text:.1}\">{}</text>\n",
            LEFT - 8.0,
            escaped(&label),
            colour % 5,
            x(line.min),
            x(line.p95),
            value(line.median, &line.unit)
        );
    }
    Some(svg + "</svg>\n")
}

/// Rows of what was measured beside a training, which the tables do not have.
fn beside(results: &Results) -> Vec<Key> {
    let lines = results.figures.iter().filter(|l| l.key.measure == "predict_alone");
    lines.map(|l| Key { measure: String::new(), ..l.key.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::compare_tests::made_up;
    use super::*;

    #[test]
    fn a_page_is_whole_shows_every_figure_and_loads_nothing() {
        let mut results = made_up(1.0);
        results.models[0].name = "a<b>&\"c\"".into();
        for line in &mut results.figures {
            line.key.model = "a<b>&\"c\"".into();
        }
        let page = page(&results);
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        for part in ["prefers-color-scheme: dark", "<svg", "class=\"whisker\"", "a&lt;b&gt;&amp;&quot;c&quot;"] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.contains("a<b>"), "what a file is called is not part of the page's code");
        for outside in ["http:", "https:", "<script", "url(", "@import", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        let rows = page.split("<h2>All figures</h2>").nth(1).unwrap().matches("<tr>").count();
        assert_eq!(rows, results.figures.len() + 1);
        for tag in ["svg", "table", "tr", "td", "text", "h2", "h3", "div", "span", "p"] {
            let opened = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
