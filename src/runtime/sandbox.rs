//! The first load of a model that nobody knows to be good, in a child process under limits: a model that makes the runtime
//! allocate without bound or compute without end then costs a child, and gives an error that names the model and the limit.
//!
//! The child is the `acclimate` program, with a subcommand of its own; [`answer`] is what it runs. A program that embeds this
//! crate names that program in [`Vetting::program`].

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::adapter::{Fingerprint, Pooling};
use crate::base::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Engine, Variant, survey};

/// The subcommand that the child is started with.
pub const SUBCOMMAND: &str = "vet-model";
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

    /// Loads `model` in a child process, compiles it and lets it answer once; its hash.
    ///
    /// # Errors
    /// `UnsupportedModel` naming the limit and the model if it does not keep to a limit, or ends the child; what loading it
    /// says; `Io` if the child cannot be started.
    pub fn check(&self, model: &Path) -> Result<Fingerprint> {
        let meta = std::fs::metadata(model).map_err(|e| Error::io("cannot open the model", model, e))?;
        let limits = self.limits.unwrap_or_else(|| Limits::for_bytes(meta.len()));
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .arg(model)
            .args(["--memory", &limits.memory.to_string(), "--seconds", &limits.seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::io("cannot start the process that tries the model", &self.program, e))?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        // Time that passes without work counts, too: in the end, and generously.
        let deadline = Instant::now() + Duration::from_secs(limits.seconds.saturating_mul(4).saturating_add(60));
        let status = wait(&mut child, deadline)
            .map_err(|e| Error::io("cannot wait for the process that tries the model", model, e))?;
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        match postcard::from_bytes(&out) {
            Ok(Told::Good(fingerprint)) if status.success() => Ok(fingerprint),
            Ok(Told::Starved) => Err(starved(&limits).at(model.display())),
            Ok(Told::Bad { exit, what, place, because, hint }) => Err(told(exit, what, place, because, hint)),
            _ => Err(ended(model, &limits, status, &String::from_utf8_lossy(&err))),
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

fn told(exit: u8, what: String, place: Option<String>, because: Option<String>, hint: Option<String>) -> Error {
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
fn ended(model: &Path, limits: &Limits, status: ExitStatus, said: &str) -> Error {
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

/// What the child does: keeps to the limits from now on, tries the model, and says on `out` how that went.
///
/// # Errors
/// `Io` if a limit cannot be set, or `out` takes nothing.
pub fn answer(model: &Path, limits: &Limits, out: &mut dyn Write) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |what, n: u64, hard: u64| {
        setrlimit(what, Rlimit { current: Some(n), maximum: Some(hard) })
            .map_err(|e| Error::io("cannot set a limit", model, e.into()))
    };
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Cpu, limits.seconds, limits.seconds.saturating_add(1))?;
    limit(Resource::As, limits.memory, limits.memory)?;
    let told = match attempt(model) {
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
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Error::io("cannot say how it went", model, e))
}

/// Loads, compiles, and answers a made-up input, where one can be made up.
fn attempt(model: &Path) -> Result<Fingerprint> {
    let base = Arc::new(Base::open(model)?);
    let fingerprint = base.fingerprint();
    let Ok(task) = base.guess_task() else { return Ok(fingerprint) };
    let bucket = base.bucket(1, LENGTH);
    let seen = survey(&base, task, &bucket)?;
    if let Ok(examples) = base.random_examples(&bucket, 0)
        && let Some(example) = examples.first()
    {
        let pooling = if seen.sequence { Pooling::Mean } else { Pooling::None };
        match Engine::new(base, task, pooling).one(&Variant::Base, example) {
            Err(e) if tells_of_starving(&e.to_string()) => return Err(e),
            // What it answers, and whether it likes what was made up, says nothing about it.
            _ => {}
        }
    }
    Ok(fingerprint)
}
