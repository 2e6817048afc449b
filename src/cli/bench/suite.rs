//! `bench --suite`: many models, a few shapes, 1 thread and all cores, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use acclimate::device::Linux;
use acclimate::process::machine_memory;
use acclimate::tools::bench::{Look, Parted};
use acclimate::tools::machine::{Heat, Machine};
use acclimate::{Error, Result};
use serde_json::{Value, json};

use super::child::{Ended, Failure, run as in_child};
use super::models::{Found, find};
use super::plan::{Job, Plan};
use super::results::{FORMAT, KIND, Key, Line, Model, Program, Results, Source, State};
use super::{page, targets, words};
use crate::cli::output::{Output, bytes, instant};
use crate::cli::stop;

/// What was asked for.
pub struct How {
    pub models: Option<PathBuf>,
    pub quick: bool,
}

/// Exit code after a signal.
const STOPPED: u8 = 130;

pub fn run(out: &Path, how: &How, output: &Output) -> Result<ExitCode> {
    std::fs::create_dir_all(out).map_err(|e| Error::io("cannot make the folder of results", out, e))?;
    let Some(results) = measure(out, how, true, output)? else { return Ok(ExitCode::from(STOPPED)) };
    let (data, html) = (out.join("results.json"), out.join("index.html"));
    results.write(&data)?;
    std::fs::write(&html, page::page(&results)).map_err(|e| Error::io("cannot write the page", &html, e))?;
    output.data(&as_json(&results)?, || words::results(&results))?;
    output.note(format_args!("{} and {} were written", data.display(), html.display()));
    Ok(ExitCode::SUCCESS)
}

pub fn as_json(results: &Results) -> Result<Value> {
    serde_json::to_value(json!(results)).map_err(|e| Error::internal("cannot show the results").because(e))
}

/// A model that can be measured, and where its copy lies.
struct Subject {
    at: usize,
    file: PathBuf,
    jobs: Vec<Job>,
}

/// Measures everything, with copies of models in a folder within `room` for as long as that takes. None if it was
/// stopped. Files of the folder of models that `fetch-models.sh` does not know are measured if `own` are.
pub fn measure(room: &Path, how: &How, own: bool, output: &Output) -> Result<Option<Results>> {
    let stop = stop::on_signal()?;
    let begun = Instant::now();
    let before = Heat::now(&Linux::here());
    let work = tempfile::Builder::new()
        .prefix("models-")
        .tempdir_in(room)
        .map_err(|e| Error::io("cannot make a temporary folder", room, e))?;
    let plan = Plan::new(how.quick);
    let folder = how.models.clone().or_else(|| std::env::var_os("ACCLIMATE_MODELS").map(PathBuf::from));
    let mut found = find(folder.as_deref(), work.path())?;
    found.retain(|f| own || f.model.source != Source::Own);
    let mut subjects = vec![];
    for (at, found) in found.iter_mut().enumerate() {
        match look(found, work.path(), &plan, stop) {
            Ended::Done(Some((file, jobs))) => subjects.push(Subject { at, file, jobs }),
            Ended::Done(None) => {}
            Ended::Failed(failure) => fail(&mut found.model, None, failure),
            Ended::Stopped => return Ok(None),
        }
    }
    let mut models: Vec<Model> = found.into_iter().map(|f| f.model).collect();
    let all: usize = subjects.iter().map(|s| s.jobs.len()).sum();
    let bar = output.bar((plan.rounds * all) as u64);
    let mut figures = vec![];
    // Rounds go around all models, so that what slows the machine down for a while is in one round of many lines
    // rather than in all rounds of a few.
    for round in 0..plan.rounds {
        for Subject { at, file, jobs } in &mut subjects {
            let model = &mut models[*at];
            let mut failed = vec![];
            for job in jobs.iter() {
                bar.set_message(format!("round {} of {}: {}, {}", round + 1, plan.rounds, model.name, job.words()));
                match in_child::<Parted>(file, &plan.arguments(job), plan.longest, stop) {
                    Ended::Done(parted) => keep(&mut figures, &model.name, job, parted),
                    Ended::Failed(failure) => {
                        fail(model, Some(job), failure);
                        failed.push(job.clone());
                    }
                    Ended::Stopped => return Ok(None),
                }
                bar.inc(1);
            }
            // What failed once is not tried again.
            jobs.retain(|job| !failed.contains(job));
        }
    }
    bar.finish_and_clear();
    for model in &mut models {
        let is_measured = figures.iter().any(|l: &Line| l.key.model == model.name);
        if model.state == State::Partly && !is_measured {
            model.state = State::Failed;
        }
    }
    let mut results = Results {
        kind: KIND.into(),
        format: FORMAT,
        at: now(),
        quick: plan.quick,
        rounds: plan.rounds,
        seconds: begun.elapsed().as_secs_f64(),
        program: program(),
        machine: Machine::of(&Linux::here()),
        before,
        after: Heat::now(&Linux::here()),
        models,
        figures,
        targets: vec![],
    };
    results.targets = targets::of(&results);
    stop::at_rest();
    Ok(Some(results))
}

/// Looks at a model, writes its copy, and says what to run of it; nothing where it is skipped.
fn look(found: &mut Found, work: &Path, plan: &Plan, stop: &AtomicBool) -> Ended<Option<(PathBuf, Vec<Job>)>> {
    let Some(file) = &found.file else { return Ended::Done(None) };
    let model = &mut found.model;
    if let Some(memory) = machine_memory().filter(|memory| model.file_bytes > *memory) {
        model.state = State::Skipped;
        model.reason = Some(format!(
            "its file has {}, and this machine has {} of memory for it",
            bytes(model.file_bytes),
            bytes(memory)
        ));
        return Ended::Done(None);
    }
    let copy = work.join(format!("{}.onnx", model.name));
    let arguments = ["look".to_string(), "--laid-out".to_string(), copy.to_string_lossy().into_owned()];
    match in_child::<Look>(file, &arguments, plan.longest, stop) {
        Ended::Done(look) => {
            model.shapes = Some(look.kind);
            model.fingerprint = Some(look.fingerprint);
            model.weight_bytes = look.weight_bytes;
            Ended::Done(Some((copy, plan.jobs(look.kind))))
        }
        Ended::Failed(failure) => Ended::Failed(failure),
        Ended::Stopped => Ended::Stopped,
    }
}

fn fail(model: &mut Model, job: Option<&Job>, failure: Failure) {
    let reason = match job {
        Some(job) => format!("{}: {}", job.words(), failure.reason),
        None => failure.reason,
    };
    model.state = if job.is_some() { State::Partly } else { State::Failed };
    model.reason = Some(match model.reason.take() {
        Some(before) => format!("{before}; {reason}"),
        None => reason,
    });
    model.next = model.next.take().or(failure.next);
}

/// Puts what one process measured to what is known of the same.
fn keep(figures: &mut Vec<Line>, model: &str, job: &Job, parted: Parted) {
    for figure in parted.figures {
        let key = Key {
            model: model.into(),
            batch: job.batch,
            sequence: parted.sequence,
            threads: job.threads,
            measure: figure.measure,
        };
        let at = figures.iter().position(|l| l.key == key).unwrap_or_else(|| {
            figures.push(Line::new(key, &figure.unit));
            figures.len() - 1
        });
        figures[at].add(figure.runs);
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    instant(since.as_millis() as u64)
}

fn program() -> Program {
    let environment = match () {
        () if cfg!(target_env = "gnu") => "gnu",
        () if cfg!(target_env = "musl") => "musl",
        () => "unknown",
    };
    let file = std::env::current_exe().and_then(std::fs::metadata);
    Program {
        version: env!("CARGO_PKG_VERSION").into(),
        commit: option_env!("ACCLIMATE_COMMIT").map(Into::into),
        target: format!("{}-{}-{environment}", std::env::consts::ARCH, std::env::consts::OS),
        libc: libc_version(environment),
        file_bytes: file.map_or(0, |m| m.len()),
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn libc_version(_environment: &str) -> String {
    // SAFETY: it takes nothing, and returns a string that lives as long as the program and is never written.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

/// Other C libraries do not tell.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn libc_version(environment: &str) -> String {
    environment.to_string()
}

/// For the report, which stops as a suite does.
pub fn stopped() -> ExitCode {
    ExitCode::from(STOPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_which_a_part_failed_says_which() {
        let mut model = Model::new("m", Source::Own, 1);
        let job = Job { what: "times", batch: 8, sequence: 64, threads: 2 };
        fail(&mut model, Some(&job), Failure { reason: "no gradient".into(), next: None });
        let job = Job { what: "beside", batch: 1, sequence: 0, threads: 1 };
        fail(&mut model, Some(&job), Failure { reason: "too slow".into(), next: Some("wait".into()) });
        let reason = model.reason.unwrap();
        assert_eq!(reason, "times of 8×64, 2 threads: no gradient; beside of 1, 1 thread: too slow");
        assert_eq!((model.state, model.next.as_deref()), (State::Partly, Some("wait")));
    }

    #[test]
    fn the_program_says_what_it_is() {
        let program = program();
        assert!(program.target.starts_with(std::env::consts::ARCH) && program.file_bytes > 0, "{program:?}");
        if cfg!(target_env = "gnu") {
            assert!(program.libc.starts_with("glibc 2."), "{program:?}");
        }
    }
}
