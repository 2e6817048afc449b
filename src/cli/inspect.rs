//! `inspect`: what a model is made of and what of it could adapt.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
use acclimate::adapter::SiteKind;
use acclimate::base::{Dim, EndPoint, Port, Task};
use acclimate::runtime::sandbox::Trial;
use acclimate::sites::{Module, Pattern};
use acclimate::tools::inspect::{Options, Report, SiteReport};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, bytes, table};
use super::vet::VetArgs;
use super::{EndsArg, TASKS, model_file, task};

/// Show which layers of a model can adapt, which cannot and why, and what training would cost
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate inspect model.onnx")]
pub struct Inspect {
    /// The ONNX file, or a home
    model: PathBuf,
    /// What the model answers; read off its outputs when not given
    #[arg(long, value_parser = TASKS)]
    task: Option<String>,
    /// Rank of the low-rank deltas
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Layers that may adapt: names with * between commas; all when not given
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    sites: String,
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    vet: VetArgs,
}

impl Inspect {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let options = Options {
            task: task(self.task.as_deref())?,
            rank: self.rank,
            sites: Pattern::new(&self.sites),
            model_output: self.ends.model_output,
            model_input: self.ends.model_input,
        };
        let trial = Trial { output: options.model_output.clone(), classes: None, task: options.task };
        let model = model_file(&self.model)?;
        self.vet.check(&model, &trial)?;
        let report = acclimate::tools::inspect::inspect(&model, &options)?;
        report.warnings.iter().for_each(|warning| output.warn(warning));
        output.data(&as_json(&report), || for_people(&report))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn kind(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Linear => "linear",
        SiteKind::Conv => "conv",
        SiteKind::ConvTranspose => "conv_transpose",
    }
}

fn as_json(r: &Report) -> Value {
    let dim = |d: &Dim| if let Dim::Fixed(n) = d { json!(n) } else { json!(d.to_string()) };
    let port = |p: &Port| json!({ "name": p.name, "type": p.element.name(), "shape": p.dims.iter().map(dim).collect::<Vec<_>>() });
    let end = |at: &Option<EndPoint>| at.as_ref().map(|e| json!({ "node": e.node, "form": e.form }));
    let module = |m: &Module| json!({ "name": m.name, "outputs": [m.outputs.start, m.outputs.end] });
    let site = |s: &SiteReport| {
        json!({
            "name": s.site.name,
            "kind": kind(s.site.kind),
            "in": s.site.inputs,
            "out": s.site.outputs,
            "kernel": s.site.kernel,
            "groups": s.site.groups,
            "modules": s.site.modules.iter().map(module).collect::<Vec<_>>(),
            "adapts": s.adapts,
            "reason": s.reason,
        })
    };
    json!({
        "fingerprint": r.fingerprint,
        "file_bytes": r.file_bytes,
        "opset": r.opset,
        "task": r.task.map(Task::name),
        "kind": r.end.kind.name(),
        "model_output": r.end.output,
        "end": {
            "scores": end(&r.end.scores),
            "probabilities": end(&r.end.probabilities),
            "features": end(&r.end.features),
            "batch_axis": r.end.batch_axis,
        },
        "warnings": r.warnings,
        "inputs": r.inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": r.outputs.iter().map(port).collect::<Vec<_>>(),
        "parameters": r.parameters,
        "features": r.features,
        "classes": r.classes,
        "sites": r.sites.iter().map(site).collect::<Vec<_>>(),
        "skipped": r.skipped.iter().map(|s| json!({ "name": s.name, "op": s.op, "reason": s.reason })).collect::<Vec<_>>(),
        "unreachable": r.unreachable,
        "trainable_parameters": r.trainable_parameters,
        "train_memory_bytes": r.train_memory_bytes,
    })
}

/// The lines about the model's end.
fn ends(r: &Report) -> String {
    let axis = match r.end.batch_axis {
        0 => String::new(),
        axis => format!("; its axis {axis} counts the examples and is moved to the front"),
    };
    let mut lines = format!("answers  {}: {}{axis}\n", r.end.output, r.end.kind.describe());
    let points = [("scores", &r.end.scores), ("probs", &r.end.probabilities), ("features", &r.end.features)];
    for (name, point) in points.into_iter().filter_map(|(name, point)| Some((name, point.as_ref()?))) {
        lines += &format!("{name:<8} {}: {}\n", point.node, point.form);
    }
    lines
}

fn for_people(r: &Report) -> String {
    let port = |p: &Port| {
        let dims: Vec<String> = p.dims.iter().map(Dim::to_string).collect();
        format!("{} {}[{}]", p.name, p.element.name(), dims.join(", "))
    };
    let ports = |all: &[Port]| all.iter().map(port).collect::<Vec<_>>().join("; ");
    let classes = if r.classes > 0 { format!(", {} classes", r.classes) } else { String::new() };
    let mut text = format!(
        "{}{classes}, {} parameters, opset {}, {}\nblake3   {}\ninputs   {}\noutputs  {}\n{}",
        r.task.map_or("no classifier or encoder", Task::name),
        r.parameters,
        r.opset,
        bytes(r.file_bytes),
        r.fingerprint,
        ports(&r.inputs),
        ports(&r.outputs),
        ends(r)
    );
    if r.sites.is_empty() {
        text += "\nno layer of this model can adapt; a head alone can still be trained\n";
    } else {
        let row = |s: &SiteReport| {
            let kernel: Vec<String> = s.site.kernel.iter().map(usize::to_string).collect();
            let sort = match (s.site.kind, s.site.groups) {
                (SiteKind::Linear, _) => "linear".to_string(),
                (kind, groups) => {
                    let transposed = if kind == SiteKind::ConvTranspose { "transposed " } else { "" };
                    let groups = if groups > 1 { format!(", {groups} groups") } else { String::new() };
                    format!("{transposed}conv {}{groups}", kernel.join("×"))
                }
            };
            let size = format!("{} → {}", s.site.inputs, s.site.outputs);
            let adapts =
                if s.adapts { "adapts".to_string() } else { format!("no: {}", s.reason.as_deref().unwrap_or("")) };
            let modules: Vec<&str> = s.site.modules.iter().map(|m| m.name.as_str()).collect();
            let packs = if modules.is_empty() { String::new() } else { format!("; packs {}", modules.join(", ")) };
            [s.site.name.clone(), sort, size, adapts + &packs]
        };
        text += &format!("\n{}\n", table(["layer", "sort", "in → out", ""], r.sites.iter().map(row), 4));
    }
    if !r.skipped.is_empty() {
        let rows = r.skipped.iter().map(|s| [s.name.clone(), s.op.clone(), s.reason.clone()]);
        text += &format!("\n{}\n", table(["passed over", "operator", "because"], rows, 3));
    }
    if let (Some(numbers), Some(memory)) = (r.trainable_parameters, r.train_memory_bytes) {
        let adapting = r.sites.iter().filter(|s| s.adapts).count();
        text += &format!(
            "\n{adapting} layers adapt: {numbers} trainable parameters, about {} while training\n",
            bytes(memory)
        );
    }
    text
}
