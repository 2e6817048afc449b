//! The first load of a model that nobody knows to be good, in a child process under limits: a model that makes the runtime
//! allocate without bound or compute without end then costs a child, and gives an error that names the model and the limit.
//!
//! The child is the `acclimate` program, with a subcommand of its own; [`answer`] is what it runs. A program that embeds this
//! crate names that program in [`Vetting::program`].
//!
//! Where no child can be started (no `/proc`, a file system mounted `noexec`, a sandbox, an emulator), that is said, and the model is loaded
//! in this process under the same limits.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::adapter::{Fingerprint, Pooling};
use crate::base::{Base, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Engine, Variant, survey};

/// The subcommand that the child is started with.
pub const SUBCOMMAND: &str = "vet-model";
/// The first that a child says: it keeps to the limits, and has not looked at the model yet. Whatever ends it before is not the model's fault.
const READY: u8 = b'+';
/// Longest that a child may say.
const LONGEST_ANSWER: u64 = 1 << 20;
/// How often it is looked whether the child has ended.
const LOOK: Duration = Duration::from_millis(2);
/// Length at which a model with sequences is tried.
const LENGTH: usize = 16;

const MIB: u64 = 1 << 20;

/// What the first load of a model may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, bytes.
    pub memory: u64,
    /// Processor time, seconds.
    pub seconds: u64,
}

impl Limits {
    /// For a model file of this size: 2 GiB and 16 times its size, 60 seconds and one more for each MiB. A sound model needs a
    /// tenth of it.
    pub fn for_bytes(file: u64) -> Limits {
        Limits { memory: (2048 * MIB).saturating_add(file.saturating_mul(16)), seconds: 60 + file / MIB }
    }
}

/// How a model is loaded for the first time.
#[derive(Debug, Clone)]
pub struct Vetting {
    /// The `acclimate` program, of this version.
    pub program: PathBuf,
    /// What it may use; [`Limits::for_bytes`] of the model when not given.
    pub limits: Option<Limits>,
}

/// What of a model is tried: what the command goes on to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trial {
    /// Name of the output that answers; the one that looks like it when not given.
    pub output: Option<String>,
    /// Number of classes of a list of labels, by which an output may be found.
    pub classes: Option<usize>,
    /// What the output answers; read off it when not given.
    pub task: Option<Task>,
}

impl Trial {
    /// The choice as options of the subcommand.
    fn arguments(&self) -> impl Iterator<Item = String> {
        let option = |name: &str, value: Option<String>| value.map(|value| format!("--{name}={value}"));
        let output = option("model-output", self.output.clone());
        let classes = option("classes", self.classes.map(|n| n.to_string()));
        let task = option("task", self.task.map(|task| task.name().to_owned()));
        [output, classes, task].into_iter().flatten()
    }
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Good(Fingerprint),
    /// The runtime was refused memory, and lived to tell.
    Starved,
    Bad {
        exit: u8,
        what: String,
        place: Option<String>,
        because: Option<String>,
        hint: Option<String>,
    },
}

impl Vetting {
    /// With this program, and limits by the size of the model.
    pub fn new(program: impl Into<PathBuf>) -> Vetting {
        Vetting { program: program.into(), limits: None }
    }

    /// Loads `model` in a child process, compiles what `trial` says and lets it answer once; its hash. Where no child can
    /// be started, that is logged as a warning, and it is loaded in this process: a model that does not keep to the
    /// limits ends it.
    ///
    /// # Errors
    /// `UnsupportedModel` naming the limit and the model if it does not keep to a limit, or ends the child; what loading
    /// it says; `Usage` if it has no output of the name that `trial` gives.
    pub fn check(&self, model: &Path, trial: &Trial) -> Result<Fingerprint> {
        let meta = std::fs::metadata(model).map_err(|e| Error::io("cannot open the model", model, e))?;
        let limits = self.limits.unwrap_or_else(|| Limits::for_bytes(meta.len()));
        let ended = match self.child(model, trial, &limits) {
            Ok(ended) => ended,
            Err(e) => return self.without_child(model, trial, &limits, &e.to_string()),
        };
        let Some((&READY, told)) = ended.out.split_first() else {
            return self.without_child(model, trial, &limits, &why_not_ready(&ended));
        };
        match postcard::from_bytes(told) {
            Ok(Told::Good(fingerprint)) if ended.status.success() => Ok(fingerprint),
            Ok(Told::Starved) => Err(starved(&limits).at(model.display())),
            Ok(Told::Bad { exit, what, place, because, hint }) => Err(told_of(exit, what, place, because, hint)),
            _ => Err(ended_by(model, &limits, ended.status, &ended.err)),
        }
    }

    /// Runs a child to its end.
    fn child(&self, model: &Path, trial: &Trial, limits: &Limits) -> std::io::Result<Ended> {
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .arg(model)
            .args(["--memory", &limits.memory.to_string(), "--seconds", &limits.seconds.to_string()])
            .args(trial.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        // Time that passes without work counts, too: in the end, and generously.
        let deadline = Instant::now() + Duration::from_secs(limits.seconds.saturating_mul(4).saturating_add(60));
        let status = wait(&mut child, deadline)?;
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        Ok(Ended { status, out, err: String::from_utf8_lossy(&err).into_owned() })
    }

    /// Says that no child tried the model, and why, and loads it here.
    fn without_child(&self, model: &Path, trial: &Trial, limits: &Limits, why: &str) -> Result<Fingerprint> {
        let program = self.program.display();
        tracing::warn!(%program, why, "no process of its own can try the model: it is loaded in this one, under the same limits");
        let _held = Held::to(limits);
        attempt(model, trial)
            .map_err(|e| if tells_of_starving(&e.to_string()) { starved(limits).at(model.display()) } else { e })
    }
}

/// What became of a child.
struct Ended {
    status: ExitStatus,
    out: Vec<u8>,
    err: String,
}

/// Why a child never came to the model.
fn why_not_ready(ended: &Ended) -> String {
    let how = match ended.status.signal() {
        Some(signal) => format!("it was ended by signal {signal} before it looked at the model"),
        None => format!("it ended with {} before it looked at the model", ended.status.code().unwrap_or(-1)),
    };
    format!("{how}: {}", first_line(&ended.err))
}

/// Limits of this process, lowered for as long as this lives. Where they cannot be set it goes on without.
struct Held(Vec<(Resource, Rlimit)>);

impl Held {
    fn to(limits: &Limits) -> Held {
        // What is used already counts, too. Without /proc nobody knows what that is: time is not limited then.
        let used = used_seconds().map(|used| (Resource::Cpu, used.saturating_add(limits.seconds)));
        let mapped = mapped_bytes().unwrap_or(1024 * MIB);
        let wanted = used.into_iter().chain([(Resource::As, mapped.saturating_add(limits.memory))]);
        let mut before = vec![];
        for (what, most) in wanted {
            let old = getrlimit(what);
            let most = old.maximum.map_or(most, |hard| most.min(hard));
            let lowered = Rlimit { current: Some(old.current.map_or(most, |now| most.min(now))), maximum: old.maximum };
            match setrlimit(what, lowered) {
                Ok(()) => before.push((what, old)),
                Err(e) => tracing::warn!(error = %e, "a limit of the model's first load cannot be set"),
            }
        }
        Held(before)
    }
}

/// Processor time of this process so far.
fn used_seconds() -> Option<u64> {
    /// As Linux shows times to programs, whatever its own clock.
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()?.saturating_add(ticks()?) / TICKS_A_SECOND)
}

/// Address space of this process.
fn mapped_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?.split_whitespace().next()?;
    Some(kib.parse::<u64>().ok()?.saturating_mul(1024))
}

impl Drop for Held {
    fn drop(&mut self) {
        for (what, old) in self.0.drain(..) {
            // A soft limit can always be raised to what it was.
            let _ = setrlimit(what, old);
        }
    }
}

/// Reads what a pipe gives, to its end.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(pipe) = pipe {
            // What cannot be read is not there.
            let _ = pipe.take(LONGEST_ANSWER).read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(LOOK);
    }
}

fn told_of(exit: u8, what: String, place: Option<String>, because: Option<String>, hint: Option<String>) -> Error {
    let kinds = [ErrorKind::Usage, ErrorKind::BadData, ErrorKind::UnsupportedModel, ErrorKind::Io];
    let kind = kinds.into_iter().find(|k| k.exit_code() == exit).unwrap_or(ErrorKind::Internal);
    let mut error = Error::new(kind, what);
    if let Some(place) = place {
        error = error.at(place);
    }
    if let Some(because) = because {
        error = error.because(because);
    }
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Why a child ended without a word.
fn ended_by(model: &Path, limits: &Limits, status: ExitStatus, said: &str) -> Error {
    // As Linux numbers them, and the BSDs.
    const ABORT: i32 = 6;
    const KILL: i32 = 9;
    const CPU: i32 = 24;
    let error = match status.signal() {
        _ if tells_of_starving(said) => starved(limits),
        Some(CPU | KILL) => Error::unsupported(format!(
            "the model needs more than the {} seconds of processor time that its first load may use",
            limits.seconds
        ))
        .hint("if it is from somebody you trust, raise --load-seconds"),
        Some(ABORT) | None => Error::unsupported("the model ends the process that loads it").because(first_line(said)),
        Some(signal) => Error::unsupported(format!("the model ends the process that loads it, by signal {signal}"))
            .because(first_line(said)),
    };
    error.at(model.display())
}

/// Whether something says that memory was refused: Rust's own words before it aborts, or tract's.
fn tells_of_starving(said: &str) -> bool {
    ["memory allocation of", "failed to allocate", "out of memory"].iter().any(|words| said.contains(words))
}

fn starved(limits: &Limits) -> Error {
    let most = limits.memory / MIB;
    Error::unsupported(format!("the model needs more than the {most} MiB of memory that its first load may use"))
        .hint("if it is from somebody you trust, raise --load-memory-mib")
}

fn first_line(said: &str) -> String {
    said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

/// What the child does: keeps to the limits from now on, tries `trial` of the model, and says on `out` how that went.
///
/// # Errors
/// `Io` if a limit cannot be set, or `out` takes nothing.
pub fn answer(model: &Path, trial: &Trial, limits: &Limits, out: &mut dyn Write) -> Result<()> {
    let limit = |what, n: u64, hard: u64| {
        setrlimit(what, Rlimit { current: Some(n), maximum: Some(hard) })
            .map_err(|e| Error::io("cannot set a limit", model, e.into()))
    };
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Cpu, limits.seconds, limits.seconds.saturating_add(1))?;
    limit(Resource::As, limits.memory, limits.memory)?;
    let say = |e| Error::io("cannot say how it went", model, e);
    out.write_all(&[READY]).and_then(|()| out.flush()).map_err(say)?;
    let told = match attempt(model, trial) {
        Ok(fingerprint) => Told::Good(fingerprint),
        Err(e) if tells_of_starving(&e.to_string()) => Told::Starved,
        Err(e) => Told::Bad {
            exit: e.kind().exit_code(),
            what: e.what().to_owned(),
            place: e.place().map(str::to_owned),
            because: std::error::Error::source(&e).map(|s| s.to_string()),
            hint: e.next_step().map(str::to_owned),
        },
    };
    let bytes = postcard::to_stdvec(&told).map_err(|e| Error::internal("cannot say how it went").because(e))?;
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(say)
}

/// Loads, compiles, and answers a synthetic input, where one can be generated.
fn attempt(model: &Path, trial: &Trial) -> Result<Fingerprint> {
    let base = Arc::new(Base::open(model)?.answering(trial.output.as_deref(), trial.classes)?);
    let fingerprint = base.fingerprint();
    let Ok(task) = base.task(trial.task) else { return Ok(fingerprint) };
    let bucket = base.bucket(1, LENGTH);
    let seen = survey(&base, task, &bucket)?;
    if let Ok(examples) = base.random_examples(&bucket, 0)
        && let Some(example) = examples.first()
    {
        let pooling = if seen.sequence { Pooling::Mean } else { Pooling::None };
        match Engine::new(base, task, pooling).one(&Variant::Base, example) {
            Err(e) if tells_of_starving(&e.to_string()) => return Err(e),
            // What it answers, and whether it likes a synthetic input, says nothing about it.
            _ => {}
        }
    }
    Ok(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn model() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx")
    }

    /// A program of these lines, in a folder of its own.
    fn program(lines: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, lines).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_child_that_cannot_be_started_is_not_the_models_fault() {
        let whole = Fingerprint::of(&std::fs::read(model()).unwrap());
        let soft = || [Resource::As, Resource::Cpu].map(|what| getrlimit(what).current);
        let before = soft();
        // Not there; not executable; of no format that is known; ends at once, with and without success; killed as by seccomp.
        let programs = [
            program("#!/bin/sh\n", 0o644),
            program("no program", 0o755),
            program("#!/bin/sh\nexit 0\n", 0o755),
            program("#!/bin/sh\necho cannot load shared libraries >&2\nexit 127\n", 0o755),
            program("#!/bin/sh\nkill -SYS $$\n", 0o755),
        ];
        let paths = programs.iter().map(|(_, path)| path.clone()).chain([PathBuf::from("/nowhere/acclimate")]);
        for path in paths {
            assert_eq!(Vetting::new(&path).check(&model(), &Trial::default()).unwrap(), whole, "{}", path.display());
            // What the model itself is refused for is still said.
            let (_folder, text) = program("this is text", 0o644);
            let e = Vetting::new(&path).check(&text, &Trial::default()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData, "{e}");
        }
        assert_eq!(soft(), before, "the limits are as they were");
    }

    #[test]
    fn what_ends_a_child_that_was_ready_is_the_models_fault() {
        let (_folder, path) = program("#!/bin/sh\nprintf +\nkill -SEGV $$\n", 0o755);
        let e = Vetting::new(&path).check(&model(), &Trial::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnsupportedModel);
        assert!(e.to_string().contains("signal 11"), "{e}");
    }

    #[test]
    fn the_child_is_told_which_output_answers() {
        // It ends with what it was told as its last words.
        let (_folder, path) = program("#!/bin/sh\nprintf +\necho \"$@\" >&2\nexit 1\n", 0o755);
        let trial = Trial { output: Some("-p q".into()), classes: Some(3), task: Some(Task::Encoder) };
        let e = Vetting::new(&path).check(&model(), &trial).unwrap_err();
        let said = std::error::Error::source(&e).unwrap().to_string();
        assert!(said.ends_with("--model-output=-p q --classes=3 --task=encoder"), "{said}");
        let e = attempt(&model(), &Trial { output: Some("nothing".into()), ..Trial::default() }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
    }
}
