//! What a model is made of and what of it could adapt, before anything is spent on it.

use std::path::Path;

use crate::base::{Base, EndReport, Port, Task};
use crate::error::{Error, Result};
use crate::plan::survey;
use crate::sites::{Pattern, Site, Skipped};

/// Length at which a model with sequences is looked at.
const LENGTH: usize = 16;

/// What to look for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the model answers; read off its outputs when not given.
    pub task: Option<Task>,
    /// Rank of the deltas.
    pub rank: usize,
    /// Sites that may adapt.
    pub sites: Pattern,
    /// Name of the output that answers; the one that looks like it when not given.
    pub model_output: Option<String>,
    /// Name of the input that is fed with what is given without a name, where there are several.
    pub model_input: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { task: None, rank: 8, sites: Pattern::default(), model_output: None, model_input: None }
    }
}

/// A site and whether it is among those that would adapt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteReport {
    /// The site.
    pub site: Site,
    /// Whether it adapts by default.
    pub adapts: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Report {
    /// BLAKE3 of the file, in hex.
    pub fingerprint: String,
    /// Size of the file.
    pub file_bytes: u64,
    /// Default-domain opset.
    pub opset: i64,
    /// What the model answers; none where it answers no question of one class among several.
    pub task: Option<Task>,
    /// Where it ends: the output that answers, its kind, and what was taken for scores, probabilities and features.
    pub end: EndReport,
    /// What stands in the way of a home, with what would work.
    pub warnings: Vec<String>,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
    /// Stored numbers.
    pub parameters: u64,
    /// Length of the vector that a head reads.
    pub features: usize,
    /// Classes that the model answers with; 0 for an encoder.
    pub classes: usize,
    /// Sites in evaluation order.
    pub sites: Vec<SiteReport>,
    /// Nodes that could have been sites.
    pub skipped: Vec<Skipped>,
    /// Sites that no gradient reaches, with what stands in the way; empty in a build that cannot train.
    pub unreachable: Vec<String>,
    /// Numbers in `A` and `B` of the sites that adapt; none in a build that cannot train.
    pub trainable_parameters: Option<usize>,
    /// Estimate of the memory that training needs, bytes; none in a build that cannot train.
    pub train_memory_bytes: Option<u64>,
}

/// Looks at the model at `path`. It is run, on random examples, only where its operators do not tell what its output is.
///
/// # Errors
/// When the file is no ONNX model, the runtime cannot type it, the rank is out of range, or the pattern names no site.
pub fn inspect(path: impl AsRef<Path>, options: &Options) -> Result<Report> {
    if !(1..=256).contains(&options.rank) {
        return Err(Error::usage(format!("a rank of {}", options.rank)).hint("choose 1 to 256; 8 is the default"));
    }
    let base = Base::open(path)?.answering(options.model_output.as_deref(), None)?;
    let base = base.reading(options.model_input.as_deref())?;
    let end = base.end_report()?;
    let guessed = base.task(options.task);
    // Layers can be looked at whatever the output holds.
    let task = guessed.as_ref().ok().copied().unwrap_or(Task::Encoder);
    let (seen, refused) = match (survey(&base, task, &base.bucket(1, LENGTH)), guessed) {
        (Ok(seen), guessed) => (seen, guessed.err()),
        (Err(e), Ok(_)) => return Err(e),
        (Err(_), Err(refused)) => return Err(refused),
    };
    let words = |e: Error| match e.next_step() {
        Some(next) => format!("{}; {next}", e.what()),
        None => e.what().to_string(),
    };
    let all = &seen.table.sites;
    if !options.sites.is_all() && !all.iter().any(|s| options.sites.selects(s)) {
        return Err(Error::usage(format!("no site matches {:?}", options.sites.to_string()))
            .at(base.path().display())
            .hint("leave --sites away to see all names; `*` stands for anything"));
    }
    let mut sites: Vec<SiteReport> = all
        .iter()
        .map(|site| {
            let reason = match () {
                () if seen.classifier.as_ref() == Some(&site.name) => Some(match task {
                    Task::CausalLm => "it scores the vocabulary",
                    _ => "the head corrects its outputs directly",
                }),
                () if !options.sites.selects(site) => Some("the pattern does not name it"),
                () => None,
            };
            SiteReport { site: site.clone(), adapts: reason.is_none(), reason: reason.map(str::to_string) }
        })
        .collect();
    let costs = costs(&base, task, options, &mut sites)?;
    Ok(Report {
        fingerprint: base.fingerprint().to_string(),
        file_bytes: base.file_bytes(),
        opset: base.onnx().opset,
        task: refused.is_none().then_some(task),
        end,
        warnings: refused.map(words).into_iter().collect(),
        inputs: base.inputs().to_vec(),
        outputs: base.outputs().to_vec(),
        parameters: base.onnx().parameters,
        features: seen.features,
        classes: seen.classes,
        sites,
        skipped: seen.table.skipped.clone(),
        unreachable: costs.unreachable,
        trainable_parameters: costs.trainable_parameters,
        train_memory_bytes: costs.train_memory_bytes,
    })
}

#[derive(Default)]
struct Costs {
    unreachable: Vec<String>,
    trainable_parameters: Option<usize>,
    train_memory_bytes: Option<u64>,
}

#[cfg(not(feature = "train"))]
fn costs(_: &Base, _: Task, _: &Options, _: &mut [SiteReport]) -> Result<Costs> {
    Ok(Costs::default())
}

/// What the default choice of sites costs; marks the sites that no gradient reaches.
#[cfg(feature = "train")]
fn costs(base: &Base, task: Task, options: &Options, sites: &mut [SiteReport]) -> Result<Costs> {
    let choice =
        crate::adapt::select::choose(base, task, &options.sites, options.rank, crate::adapt::select::TYPICAL_LENGTH)?;
    for site in sites.iter_mut().filter(|s| s.adapts) {
        if !choice.sites.iter().any(|s| s.name == site.site.name) {
            let blocked = choice.unreachable.iter().find_map(|u| u.strip_prefix(&format!("{}: ", site.site.name)));
            (site.adapts, site.reason) =
                (false, Some(format!("no gradient reaches it: {}", blocked.unwrap_or("the path is cut"))));
        }
    }
    let trainable = choice.sites.iter().map(|s| s.trainable(s.clamp_rank(options.rank))).sum();
    Ok(Costs {
        unreachable: choice.unreachable,
        trainable_parameters: Some(trainable),
        train_memory_bytes: Some(choice.train_memory_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx")
    }

    #[test]
    fn the_activity_model() {
        let report = inspect(model(), &Options::default()).unwrap();
        assert_eq!((report.task, report.classes), (Some(Task::Classification), 6));
        assert_eq!(report.fingerprint.len(), 64);
        assert!(report.sites.iter().filter(|s| s.adapts).count() >= 3, "{:?}", report.sites);
        assert!(report.sites.iter().all(|s| s.adapts == s.reason.is_none()));
        assert_eq!(report.sites.iter().filter(|s| s.reason.as_deref().is_some_and(|r| r.contains("head"))).count(), 1);
    }

    #[test]
    fn a_pattern_leaves_others_out_and_must_name_something() {
        let all = inspect(model(), &Options::default()).unwrap();
        let first = all.sites[0].site.name.clone();
        let one = inspect(model(), &Options { sites: Pattern::new(&first), ..Options::default() }).unwrap();
        let adapting: Vec<&str> = one.sites.iter().filter(|s| s.adapts).map(|s| s.site.name.as_str()).collect();
        assert_eq!(adapting, [first.as_str()]);
        let e = inspect(model(), &Options { sites: Pattern::new("nothing*"), ..Options::default() }).unwrap_err();
        assert_eq!(e.kind(), crate::error::ErrorKind::Usage);
    }
}
