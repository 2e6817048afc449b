//! Runs parts of a suite in processes of their own, so that peaks of memory are theirs and a failure is.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How often it is looked whether a child has ended.
const LOOK: Duration = Duration::from_millis(5);
const KILLED: i32 = 9;

/// Why there is no result: what happened, without the place where a file lies, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub next: Option<String>,
}

/// What became of a child.
pub enum Ended<T> {
    Done(T),
    Failed(Failure),
    /// The suite was asked to stop.
    Stopped,
}

fn failed<T>(reason: impl Into<String>) -> Ended<T> {
    Ended::Failed(Failure { reason: reason.into(), next: None })
}

/// Runs `bench-part MODEL WHAT ARGUMENT...` for at most `longest`.
pub fn run<T: DeserializeOwned>(model: &Path, arguments: &[String], longest: Duration, stop: &AtomicBool) -> Ended<T> {
    let program = std::env::current_exe().unwrap_or_else(|_| "acclimate".into());
    let child = Command::new(program)
        .args(["bench-part", "--json"])
        .arg(model)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return failed(format!("no process could be started: {e}")),
    };
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + longest;
    let mut why = None;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(e) => return failed(format!("the process could not be watched: {e}")),
        }
        if why.is_none() && (stop.load(Ordering::SeqCst) || Instant::now() > deadline) {
            why = Some(if stop.load(Ordering::SeqCst) { Ended::Stopped } else { too_long(longest) });
            // It may have ended by itself meanwhile.
            let _ = child.kill();
        }
        std::thread::sleep(LOOK);
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    match why {
        _ if stop.load(Ordering::SeqCst) => Ended::Stopped,
        Some(why) => why,
        None => told(status, &out, &err, model),
    }
}

fn too_long<T>(longest: Duration) -> Ended<T> {
    failed(format!("it took more than {} seconds", longest.as_secs()))
}

/// Reads what a pipe gives, to its end.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(mut pipe) = pipe {
            // What cannot be read is not there.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn told<T: DeserializeOwned>(status: ExitStatus, out: &str, err: &str, model: &Path) -> Ended<T> {
    if status.success() {
        return match serde_json::from_str(out) {
            Ok(found) => Ended::Done(found),
            Err(e) => failed(format!("the process gave no result: {e}")),
        };
    }
    match status.signal() {
        Some(KILLED) => Ended::Failed(Failure {
            reason: "the system ended the process, probably for want of memory".into(),
            next: Some("leave it out, or give the machine more memory or swap".into()),
        }),
        Some(signal) => failed(format!("the process was ended by signal {signal}")),
        None => Ended::Failed(said(err, model)),
    }
}

/// The error that a child printed, without where the model lies.
fn said(err: &str, model: &Path) -> Failure {
    let last = err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let error: Value = serde_json::from_str(last).unwrap_or(Value::Null);
    let text = |key: &str| error[key].as_str().map(|t| without_place(t, model));
    let reason = match (text("error"), text("because")) {
        (Some(what), Some(why)) => format!("{what}: {why}"),
        (Some(what), None) => what,
        (None, _) => without_place(last, model),
    };
    Failure { reason, next: text("next") }
}

fn without_place(text: &str, model: &Path) -> String {
    let text = text.replace(&*model.to_string_lossy(), "the model");
    match model.parent().filter(|p| !p.as_os_str().is_empty() && *p != Path::new("/")) {
        Some(folder) => text.replace(&*folder.to_string_lossy(), "its folder"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_says_is_told_without_paths() {
        let model = Path::new("/home/ada/private/m.onnx");
        let line = serde_json::json!({
            "error": "cannot read /home/ada/private/m.onnx",
            "at": "/home/ada/private/m.onnx",
            "because": "/home/ada/private/w.bin is not there",
            "next": "fetch it",
        });
        let failure = said(&format!("a warning\n{line}\n"), model);
        assert_eq!(failure.reason, "cannot read the model: its folder/w.bin is not there");
        assert_eq!(failure.next.as_deref(), Some("fetch it"));
        assert_eq!(said("", model).reason, "it said nothing");
        assert_eq!(
            said("Illegal instruction at /home/ada/private/m.onnx", model).reason,
            "Illegal instruction at the model"
        );
    }

    #[test]
    fn a_signal_says_what_it_means() {
        let end = |raw| match told::<Value>(ExitStatus::from_raw(raw), "", "", Path::new("m.onnx")) {
            Ended::Failed(failure) => failure.reason,
            _ => panic!("not a failure"),
        };
        assert!(end(KILLED).contains("want of memory"));
        assert!(end(4).contains("signal 4"));
        assert!(end(0).contains("gave no result"));
    }
}
