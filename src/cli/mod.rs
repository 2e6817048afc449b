//! The command line: one file per subcommand, each a struct of arguments with a `run`.

#[cfg(feature = "train")]
mod adapt;
pub mod allocator;
#[cfg(feature = "train")]
mod bench;
#[cfg(feature = "train")]
mod bundled;
mod chat;
mod completions;
mod csv;
#[cfg(feature = "train")]
mod demo;
#[cfg(feature = "train")]
mod demo_chat;
mod doctor;
mod eval;
mod export;
mod feedback;
mod forget;
mod generate;
#[cfg(feature = "train")]
mod gradcheck;
mod history;
mod import;
mod init;
mod inspect;
mod interactions;
#[cfg(feature = "train")]
mod learning;
mod limits;
pub mod lost_file;
mod man;
pub mod output;
mod pin;
#[cfg(feature = "train")]
mod plot;
mod predict;
mod repair;
mod rollback;
#[cfg(feature = "train")]
mod simulate;
mod status;
mod stop;
#[cfg(feature = "train")]
mod train;
#[cfg(not(feature = "train"))]
mod untrained;
mod verify;
mod vet;

#[cfg(feature = "train")]
use train::in_chat as train_in_chat;
#[cfg(not(feature = "train"))]
use untrained::in_chat as train_in_chat;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Once;

use acclimate::base::DeviceChoice;
use acclimate::error::names;
use acclimate::journal::InteractionId;
use acclimate::{Error, Home, InitOptions, Result, Session};
use clap::{Args, Parser, Subcommand};
use output::Output;

/// A frozen ONNX model that learns from the person in front of it, on the device it runs on.
#[derive(Parser)]
#[command(
    name = "acclimate",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "First steps:\n  acclimate demo\n  acclimate init home --model model.onnx\n  acclimate predict home input.npy\n  \
                  acclimate feedback home 7f3a --label cat\n  acclimate train home\n\n\
                  Exit codes: 0 done, 1 doctor found a failure, 2 usage, 65 bad data, 69 model not supported, 70 internal error, 74 I/O, 75 busy, 77 no key, 130 stopped.\n\
                  Data goes to stdout, messages and progress to stderr. ACCLIMATE_LOG sets the log filter."
)]
pub struct Cli {
    /// Print data, and errors, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress and no messages but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    #[cfg(feature = "train")]
    Demo(demo::Demo),
    Inspect(inspect::Inspect),
    Pin(pin::Pin),
    Init(init::Init),
    Predict(predict::Predict),
    Generate(generate::Generate),
    Chat(chat::Chat),
    Feedback(feedback::Feedback),
    #[cfg(feature = "train")]
    #[command(flatten)]
    Learning(learning::Learning),
    Eval(eval::Eval),
    Status(status::Status),
    History(history::History),
    Interactions(interactions::Interactions),
    Rollback(rollback::Rollback),
    Forget(forget::Forget),
    #[cfg(feature = "train")]
    Simulate(simulate::Simulate),
    #[cfg(feature = "train")]
    Gradcheck(gradcheck::Gradcheck),
    #[cfg(feature = "train")]
    #[command(flatten)]
    Bench(bench::Command),
    Export(export::Export),
    #[command(hide = cfg!(not(feature = "bundles")))]
    Import(import::Import),
    Doctor(doctor::Doctor),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
    #[command(hide = true)]
    VetModel(vet::VetModel),
}

impl Command {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        match self {
            #[cfg(feature = "train")]
            Command::Demo(c) => c.run(output),
            Command::Inspect(c) => c.run(output),
            Command::Pin(c) => c.run(output),
            Command::Init(c) => c.run(output),
            Command::Predict(c) => c.run(output),
            Command::Generate(c) => c.run(output),
            Command::Chat(c) => c.run(output),
            Command::Feedback(c) => c.run(output),
            #[cfg(feature = "train")]
            Command::Learning(c) => c.run(output),
            Command::Eval(c) => c.run(output),
            Command::Status(c) => c.run(output),
            Command::History(c) => c.run(output),
            Command::Interactions(c) => c.run(output),
            Command::Rollback(c) => c.run(output),
            Command::Forget(c) => c.run(output),
            #[cfg(feature = "train")]
            Command::Simulate(c) => c.run(output),
            #[cfg(feature = "train")]
            Command::Gradcheck(c) => c.run(output),
            #[cfg(feature = "train")]
            Command::Bench(c) => c.run(output),
            Command::Export(c) => c.run(output),
            Command::Import(c) => c.run(output),
            Command::Doctor(c) => c.run(output),
            Command::Verify(c) => c.run(output),
            Command::Repair(c) => c.run(output),
            Command::Completions(c) => c.run(output),
            Command::Man(c) => c.run(output),
            Command::VetModel(c) => c.run(),
        }
    }
}

/// Profile of a home that has but one user.
const DEFAULT_PROFILE: &str = "default";

#[derive(Args)]
struct ProfileArg {
    /// Whose feedback and adapter: several people can share a home
    #[arg(long, value_name = "P", default_value = DEFAULT_PROFILE)]
    profile: String,
}

/// The ONNX file that is meant by `given`: that of a home, where it is one.
fn model_file(given: &Path) -> Result<PathBuf> {
    match given.join("acclimate.toml").is_file() {
        true => Home::model_file(given),
        false => Ok(given.into()),
    }
}

impl ProfileArg {
    /// What a command about this profile ends with; empty for the default one.
    fn as_flag(&self) -> String {
        if self.profile == DEFAULT_PROFILE { String::new() } else { format!(" --profile {}", self.profile) }
    }

    /// The session, making the profile when it is new.
    fn session(&self, home: &Path, device: &DeviceArg, output: &Output) -> Result<Session> {
        stop::between_tries();
        device.open(home, output)?.session(&self.profile)
    }

    /// The session of a profile that is there already, so that a slip in its name makes no new one.
    fn known_session_on(&self, home: &Path, device: &DeviceArg, output: &Output) -> Result<Session> {
        stop::between_tries();
        self.known(device.open(home, output)?)?.session(&self.profile)
    }

    /// As [`ProfileArg::known_session_on`], for what hardly runs the model: a GPU is not looked for.
    fn known_session(&self, home: &Path) -> Result<Session> {
        stop::between_tries();
        self.known_home(home)?.session(&self.profile)
    }

    /// As [`ProfileArg::known_session`], also when the serving adapter is damaged.
    fn repair_session(&self, home: &Path) -> Result<Session> {
        self.known_home(home)?.session_for_repair(&self.profile)
    }

    fn known_home(&self, home: &Path) -> Result<Home> {
        self.known(Home::open_on_device(home, Some(DeviceChoice::Cpu))?)
    }

    /// `home`, if it has this profile.
    fn known(&self, home: Home) -> Result<Home> {
        let profiles = home.profiles()?;
        if self.profile != DEFAULT_PROFILE && !profiles.contains(&self.profile) {
            let hint = match profiles.is_empty() {
                true => "there is none yet; the first predict makes one".to_string(),
                false => {
                    let known = format!("the profiles are {}", profiles.join(", "));
                    names::or_meant(known, &self.profile, profiles.iter().map(String::as_str))
                }
            };
            return Err(Error::usage(format!("there is no profile {:?}", self.profile))
                .at(home.path().display())
                .hint(hint));
        }
        Ok(home)
    }
}

/// Which of a model's outputs and inputs are meant.
#[derive(Args, Default)]
struct EndsArg {
    /// Output that answers; the one that looks like the answer when not given
    #[arg(long, value_name = "NAME")]
    model_output: Option<String>,
    /// Input that is fed with what is given without a name, where the model has several
    #[arg(long, value_name = "NAME")]
    model_input: Option<String>,
}

impl EndsArg {
    /// The options with what was chosen.
    fn chosen(&self, options: InitOptions) -> InitOptions {
        let options = given(options, self.model_output.as_deref(), InitOptions::model_output);
        given(options, self.model_input.as_deref(), InitOptions::model_input)
    }

    /// The base with what was chosen.
    #[cfg(feature = "train")]
    fn of(&self, base: acclimate::base::Base) -> Result<acclimate::base::Base> {
        base.answering(self.model_output.as_deref(), None)?.reading(self.model_input.as_deref())
    }
}

/// `options` with what was given.
fn given<T>(options: InitOptions, value: Option<T>, set: impl FnOnce(InitOptions, T) -> InitOptions) -> InitOptions {
    match value {
        Some(value) => set(options, value),
        None => options,
    }
}

/// Word that stands for the id of the latest interaction.
const LATEST: &str = "last";

/// The interaction that `given` names: an id, or `last`.
fn interaction(session: &Session, given: &str) -> Result<InteractionId> {
    if given != LATEST {
        return given.parse();
    }
    session.latest()?.ok_or_else(|| {
        Error::usage("there is no interaction yet")
            .at(session.profile())
            .hint("`acclimate predict`, or `generate` and `chat` of a language model, make one")
    })
}

#[derive(Args)]
struct DeviceArg {
    /// What computes: cpu, cuda (an NVIDIA GPU), or auto (that GPU where it works); the home's, or cpu when not given
    #[arg(long, value_name = "DEVICE", value_parser = DeviceChoice::NAMES)]
    device: Option<String>,
}

impl DeviceArg {
    fn choice(&self) -> Result<Option<DeviceChoice>> {
        self.device.as_deref().map(str::parse).transpose()
    }

    /// The home, on what is to compute. Where that is not the GPU that would have been welcome, it is said once.
    fn open(&self, home: &Path, output: &Output) -> Result<Home> {
        static SAID: Once = Once::new();
        let home = Home::open_on_device(home, self.choice()?)?;
        if let Some(why) = home.base().placement().why_not() {
            SAID.call_once(|| output.note(format_args!("the processor computes, no GPU is used: {why}")));
        }
        Ok(home)
    }
}

#[derive(Args)]
struct ThreadsArg {
    /// Threads; when not given, those of the home, or all cores (`train`: but one)
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadsArg {
    fn count(&self) -> usize {
        self.or(acclimate::process::available_cores())
    }
    /// Those that are asked for, else `usual`.
    fn or(&self, usual: usize) -> usize {
        self.threads.map_or(usual, usize::from)
    }
}

/// Labels of a model's tasks, as `--task` takes them.
const TASKS: [&str; 3] = ["classification", "encoder", "causal-lm"];

fn task(given: Option<&str>) -> Result<Option<acclimate::base::Task>> {
    given.map(str::parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_a_summary_and_an_example() {
        let mut root = Cli::command();
        root.clone().debug_assert();
        root.build();
        for command in root.get_subcommands().filter(|c| c.get_name() != "help") {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no summary");
            let example = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            assert!(example.contains(&format!("acclimate {name}")), "{name} has no example");
        }
    }
}
