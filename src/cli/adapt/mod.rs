//! `adapt`: trains what is due, in the background.

mod event;
mod look;
mod priority;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use acclimate::device::{Linux, Sensors};
use acclimate::guest::{Guest, Limits, Rhythm};
use acclimate::process::{TrainLimits, machine_memory, status_bytes};
use acclimate::runtime::{AfterDeaths, Checkpoints, TrainOptions, excuse_training};
use acclimate::{Error, ErrorKind, Home, Result};
use clap::Args;

use super::limits::LimitsArg;
use super::lost_file;
use super::output::{Output, duration};
use super::{DeviceArg, stop};
use event::{About, Event, say};
use look::{Found, Looks};

/// Time that an orderly end has before the process is cut off. With what a start of the end takes it stays below 2 s.
const LEAVE_WITHIN: Duration = Duration::from_millis(1500);
/// Shortest time between looks.
const MOST_OFTEN: Duration = Duration::from_millis(50);
/// Exit code of a `--watch` that was told to stop, and of other work.
const ENDED: i32 = 0;
const STOPPED: i32 = 130;

/// Train the profiles that have enough new feedback, as a good guest of the device: at idle priority, with pauses
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate adapt home --watch --max-temperature 70")]
pub struct Adapt {
    /// Homes; each profile in them is looked at
    #[arg(required = true)]
    homes: Vec<PathBuf>,
    /// Go on until SIGTERM or SIGINT
    #[arg(long)]
    watch: bool,
    /// Seconds between looks with --watch, at least 0.05
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    every: f64,
    /// New pieces of feedback that make a profile due; 8 or a twentieth of all its feedback when not given
    // Given twice by a unit and its administrator: the last one counts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), overrides_with = "after")]
    after: Option<u32>,
    /// Training pauses while the processor is hotter, degrees Celsius
    #[arg(long, value_name = "C", default_value_t = Limits::default().celsius, value_parser = number)]
    max_temperature: f64,
    /// Training pauses while tasks wait for memory in more of the time, percent
    #[arg(long, value_name = "P", default_value_t = Limits::default().memory_pressure, value_parser = percent)]
    max_memory_pressure: f64,
    /// Training pauses while tasks wait for a core in more of the time, percent
    #[arg(long, value_name = "P", default_value_t = Limits::default().cpu_pressure, value_parser = percent)]
    max_cpu_pressure: f64,
    /// Training pauses while a battery discharges and has less left, percent
    #[arg(long, value_name = "P", default_value_t = Limits::default().battery, value_parser = percent)]
    min_battery: f64,
    /// Training pauses while the device runs on its battery
    #[arg(long)]
    on_mains: bool,
    #[command(flatten)]
    limits: LimitsArg,
    /// Time between checkpoints, from which a training that is cut off goes on; 0 for none
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    checkpoint_seconds: f64,
    /// Threads; those of the home, or all cores but one when not given
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    device: DeviceArg,
    /// Files of the sensors lie below this folder
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    sensors_root: PathBuf,
    /// Seconds between looks at sensors in a pause, and longest pause in memory
    #[arg(long, value_name = "S", default_value_t = 5.0, hide = true)]
    pause_every: f64,
    #[arg(long, value_name = "S", default_value_t = 600.0, hide = true)]
    patience: f64,
}

/// What one round over all homes came to.
#[derive(Default)]
struct Round {
    trained: bool,
    /// Exit code of the first failure.
    failed: Option<u8>,
}

/// A run of the command.
struct Run<'a> {
    asked: &'a Adapt,
    output: &'a Output,
    stop: &'static AtomicBool,
    sensors: &'a dyn Sensors,
    checkpoints: Checkpoints,
    rhythm: Rhythm,
    looks: Looks,
    /// A home of which a file was lost before this process was started anew.
    lost: Option<PathBuf>,
}

impl Adapt {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let checkpoints = match self.checkpoint_seconds {
            0.0 => Checkpoints::Never,
            s => Checkpoints::Every(duration(s, "between checkpoints")?),
        };
        let every = duration(self.every, "between looks")?;
        let paused = duration(self.pause_every, "between looks at sensors")?;
        if every.min(paused) < MOST_OFTEN {
            return Err(Error::usage("looks so close together would take a core").hint("give --every at least 0.05"));
        }
        let working = paused.min(Rhythm::default().working);
        // Without checkpoints a long pause would throw the training away.
        let patience = match checkpoints {
            Checkpoints::Never => Duration::MAX,
            _ => duration(self.patience, "of a pause")?,
        };
        let rhythm = Rhythm { working, paused, patience };
        let code = if self.watch { ENDED } else { STOPPED };
        let told = *output;
        // Before the priority falls: the thread that hears signals keeps its own.
        let stop = stop::on_signal_within(LEAVE_WITHIN, code, move || {
            // First: what reads the events may be slow.
            excuse_training();
            say(&told, None, &Event::Stopping);
        })?;
        let refused = priority::be_idle();
        if !refused.is_empty() {
            let refused = refused.into_iter().map(|(what, e)| format!("{what}: {e}")).collect();
            say(output, None, &Event::Priority { refused });
        }
        crate::cli::allocator::return_freed();
        let sensors = Linux::under(&self.sensors_root);
        let looks = Looks::new(self.after.map(|n| n as usize));
        let mut run = Run { asked: &self, output, stop, sensors: &sensors, checkpoints, rhythm, looks, lost: None };
        let mut was_idle = false;
        if self.watch {
            lost_file::start_anew(output.json, &self.homes);
            run.lost(lost_file::lost_before());
        }
        loop {
            let round = run.round();
            if run.is_stopped() {
                stop::until_told();
                return Ok(ExitCode::from(code as u8));
            }
            if round.trained {
                was_idle = false;
            } else if !was_idle && round.failed.is_none() {
                say(output, None, &Event::Idle);
                was_idle = true;
            }
            if !self.watch {
                return Ok(round.failed.map_or(ExitCode::SUCCESS, ExitCode::from));
            }
            if stop::sleep(every) {
                stop::until_told();
                return Ok(ExitCode::from(code as u8));
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            celsius: self.max_temperature,
            memory_pressure: self.max_memory_pressure,
            cpu_pressure: self.max_cpu_pressure,
            battery: self.min_battery,
            on_mains: self.on_mains,
        }
    }
}

impl Run<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Says that a file was lost, and leaves its home alone for a while.
    fn lost(&mut self, file: Option<PathBuf>) {
        let Some(file) = file else { return };
        let of = |home: &&PathBuf| lost_file::whole(home).is_some_and(|home| file.starts_with(home));
        self.lost = self.asked.homes.iter().find(of).cloned();
        let e = Error::new(ErrorKind::Io, "a file in use could not be read any more").at(file.display());
        let e = e.hint(lost_file::NEXT);
        match self.lost.clone() {
            Some(home) => self.failed(&home, None, &e, &mut Round::default()),
            None => say(self.output, None, &Event::Failed(&e)),
        }
    }

    /// Looks at all homes once, and trains what is due.
    fn round(&mut self) -> Round {
        let mut round = Round::default();
        let asked = self.asked;
        for home in &asked.homes {
            if self.lost.as_ref() == Some(home) && self.looks.rests(home) {
                continue;
            }
            let marks = match Home::journal_marks(home) {
                Ok(marks) => marks,
                Err(e) => {
                    self.failed(home, None, &e, &mut round);
                    continue;
                }
            };
            self.looks.is_there(home);
            // Read again after a training alone: it takes all journals of the home.
            let mut over_budget = None;
            for (profile, mark) in marks {
                if self.is_stopped() {
                    return round;
                }
                match self.looks.look(home, &profile, mark) {
                    Found::Nothing => {}
                    Found::Failed(e) => self.failed(home, Some(&profile), &e, &mut round),
                    Found::Due(standing) => {
                        let about = About { home, profile: Some(&profile) };
                        match may_begin(home, &profile, &mut over_budget) {
                            Ok(None) => {}
                            Ok(Some((bytes, budget))) => {
                                if self.looks.waits(home, &profile) {
                                    say(self.output, Some(about), &Event::Written { bytes, budget });
                                }
                                continue;
                            }
                            Err(e) => {
                                self.failed(home, Some(&profile), &e, &mut round);
                                continue;
                            }
                        }
                        over_budget = None;
                        say(self.output, Some(about), &Event::Due { waiting: standing.waiting });
                        match self.train(about) {
                            Ok(()) => {
                                round.trained = true;
                                self.looks.went_well(home, Some(&profile));
                            }
                            Err(_) if self.is_stopped() => return round,
                            Err(e) if e.what() == LEFT => {
                                say(self.output, Some(about), &Event::Left { reason: LEFT });
                                self.looks.left(home, &profile, mark, standing.feedback);
                            }
                            Err(e) => self.failed(home, Some(&profile), &e, &mut round),
                        }
                    }
                }
            }
        }
        round
    }

    fn failed(&mut self, home: &Path, profile: Option<&str>, e: &Error, round: &mut Round) {
        let about = Some(About { home, profile });
        if e.kind() == ErrorKind::Busy {
            if self.looks.busy(home, profile) {
                say(self.output, about, &Event::Busy(e));
            }
            return;
        }
        round.failed = round.failed.or(Some(e.kind().exit_code()));
        if self.looks.failed(home, profile, &e.to_string()) {
            say(self.output, about, &Event::Failed(e));
        }
    }

    /// Trains one profile to the end, whatever pauses that takes.
    fn train(&self, about: About<'_>) -> Result<()> {
        let tell = |change| say(self.output, Some(about), &Event::Changed(change));
        let guest = Guest {
            sensors: self.sensors,
            limits: self.asked.limits(),
            rhythm: self.rhythm,
            sleep: &stop::sleep,
            tell: &tell,
            state: Mutex::default(),
        };
        loop {
            if !guest.wait() {
                return Err(stopped());
            }
            say(self.output, Some(about), &Event::Started);
            match self.train_once(about, &guest) {
                Err(e) if e.kind() == ErrorKind::Interrupted && guest.gave_up() && !self.is_stopped() => {}
                other => return other,
            }
        }
    }

    /// What a training may cost, of which earlier processes died.
    fn careful(&self, about: About<'_>, limits: TrainLimits, deaths: AfterDeaths) -> Result<TrainLimits> {
        match deaths {
            AfterDeaths::AsUsual => Ok(limits),
            AfterDeaths::Again { times } => {
                say(self.output, Some(about), &Event::Killed { times, memory: None });
                Ok(limits)
            }
            AfterDeaths::Halved { times, level, memory: kept } => {
                let halved = |bytes: u64| bytes >> level.min(63);
                let asked = limits.memory_bytes.map(halved);
                let memory = asked.or(kept).or_else(|| self.memory_for_all().map(halved));
                say(self.output, Some(about), &Event::Killed { times, memory });
                Ok(memory.map_or(limits, |bytes| limits.memory_bytes(bytes)))
            }
            AfterDeaths::LeaveAlone => Err(Error::new(ErrorKind::Interrupted, LEFT)),
        }
    }

    /// What this process may take as a whole, as far as is known.
    fn memory_for_all(&self) -> Option<u64> {
        let (memory, group) = (self.sensors.memory(), self.sensors.group());
        let free = [memory.available, group.memory_left()].into_iter().flatten().min();
        let held = status_bytes("/proc/self/status", "VmRSS:");
        free.map(|bytes| bytes.saturating_add(held)).or_else(machine_memory)
    }

    fn train_once(&self, about: About<'_>, guest: &Guest<'_>) -> Result<()> {
        let home = self.asked.device.open(about.home, self.output)?;
        let session = home.session(about.profile.unwrap_or_default())?;
        let mut settings = session.settings();
        settings.threads = self.asked.threads.map_or(settings.threads, usize::from);
        let limits = self.asked.limits.or(session.home().config().limits);
        let careful = |deaths| self.careful(about, limits, deaths);
        let options = TrainOptions::default()
            .settings(settings)
            .limits(limits)
            .stop(self.stop)
            .checkpoints(self.checkpoints)
            .pacer(guest)
            .careful(&careful);
        let report = session.train(&options)?;
        say(self.output, Some(about), &Event::Trained(&report));
        Ok(())
    }
}

/// How much a home wrote today, and what it may, where that is enough.
type OverBudget = Option<(u64, u64)>;

/// Whether a training may begin now, or the home wrote enough today. `known` is what was found for this home.
fn may_begin(home: &Path, profile: &str, known: &mut Option<OverBudget>) -> Result<OverBudget> {
    Home::training_may_begin(home, profile)?;
    if known.is_none() {
        *known = Some(Home::over_write_budget(home)?);
    }
    Ok(known.flatten())
}

/// Why a profile is left alone.
const LEFT: &str = "the process was killed in the middle of this training however little memory it took";

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "training was stopped")
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is not a number")),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    number(text).and_then(|number| match (0.0..=100.0).contains(&number) {
        true => Ok(number),
        false => Err(format!("{text} is no percentage from 0 to 100")),
    })
}
