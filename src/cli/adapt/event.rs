//! What `adapt` says: a line an event, for people or as a JSON object.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use acclimate::Error;
use acclimate::guest::{Change, Crossed, Reason};
use acclimate::runtime::TrainReport;
use serde_json::{Map, Value, json};

use crate::cli::output::{Output, bytes, instant, printable};

/// The profile that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub home: &'a Path,
    pub profile: Option<&'a str>,
}

/// Something that happened.
pub enum Event<'a> {
    Priority {
        refused: Vec<String>,
    },
    Idle,
    Due {
        waiting: usize,
    },
    /// Today the profiles of the home wrote as much as it allows.
    Written {
        bytes: u64,
        budget: u64,
    },
    Started,
    Changed(Change),
    Trained(&'a TrainReport),
    Killed {
        times: u32,
        memory: Option<u64>,
    },
    Left {
        reason: &'a str,
    },
    Busy(&'a Error),
    Failed(&'a Error),
    Stopping,
}

/// What to do about a profile that is left alone.
const AFTER_LEFT: &str = "`acclimate doctor` on the home says what makes its training fit: a smaller `--memory`, fewer \
                          layers, a swap file; new feedback is a new try";

fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |v| json!((v * 100.0).round() / 100.0))
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Event::Priority { .. } => "priority",
            Event::Idle => "idle",
            Event::Due { .. } => "due",
            Event::Written { .. } => "waiting",
            Event::Started => "started",
            Event::Changed(Change::Paused(_)) => "paused",
            Event::Changed(Change::GaveUp(_)) => "checkpointed",
            Event::Changed(Change::Resumed { .. }) => "resumed",
            Event::Trained(report) if report.promoted => "promoted",
            Event::Trained(_) => "kept",
            Event::Killed { .. } => "killed",
            Event::Left { .. } => "left",
            Event::Busy(_) => "busy",
            Event::Failed(_) => "failed",
            Event::Stopping => "stopping",
        }
    }

    fn fields(&self) -> Value {
        match self {
            Event::Priority { refused } => json!({ "refused": refused }),
            Event::Idle | Event::Started | Event::Stopping => json!({}),
            Event::Due { waiting } => json!({ "waiting": waiting }),
            Event::Written { bytes, budget } => json!({ "reason": "write-budget", "value": bytes, "limit": budget }),
            Event::Changed(Change::Paused(c)) => {
                json!({ "reason": c.reason.name(), "value": number(c.value), "limit": number(c.limit) })
            }
            Event::Changed(Change::GaveUp(c)) => json!({ "reason": c.reason.name() }),
            Event::Changed(Change::Resumed { last, reasons, paused }) => json!({
                "reason": last.name(),
                "reasons": reasons.all().map(Reason::name).collect::<Vec<_>>(),
                "seconds": number(Some(paused.as_secs_f64())),
            }),
            Event::Trained(report) => json!({
                "generation": report.generation,
                "reason": report.verdict.reason,
                "steps": report.steps,
                "resumed_steps": report.resumed_steps,
                "seconds": report.seconds,
            }),
            Event::Killed { times, memory } => json!({ "times": times, "memory": memory }),
            Event::Left { reason } => json!({ "reason": reason, "next": AFTER_LEFT }),
            Event::Busy(e) => json!({ "error": e.to_string() }),
            Event::Failed(e) => json!({ "error": e.to_string(), "next": e.next_step() }),
        }
    }

    fn words(&self) -> String {
        match self {
            Event::Priority { refused } => format!("the system refused {}", refused.join("; ")),
            Event::Idle => "nothing to train now".into(),
            Event::Due { waiting } => format!("{waiting} pieces of feedback wait"),
            Event::Started => "training".into(),
            Event::Written { bytes: written, budget } => {
                format!("waits until tomorrow: {} were written today, limit {}", bytes(*written), bytes(*budget))
            }
            Event::Changed(Change::Paused(c)) => format!("paused: {}", crossed(c)),
            Event::Changed(Change::GaveUp(_)) => "a long pause: the training is kept on disk".into(),
            Event::Changed(Change::Resumed { last: _, reasons, paused }) => {
                let reasons: Vec<&str> = reasons.all().map(Reason::name).collect();
                format!("goes on after {:.0} s ({})", paused.as_secs_f64(), reasons.join(", "))
            }
            Event::Trained(report) if report.promoted => {
                format!("generation {} serves: {}", report.generation, report.verdict.reason)
            }
            Event::Trained(report) => {
                format!("generation {} goes on serving: {}", report.generation, report.verdict.reason)
            }
            Event::Killed { times, memory } => {
                let often = if *times == 1 { "once".to_string() } else { format!("{times} times") };
                let goes_on = match memory {
                    Some(most) => format!("it is now trained with at most {}", bytes(*most)),
                    None => "it goes on from what it kept".into(),
                };
                format!("this training was cut off {often}: the process was killed, or its disk went; {goes_on}")
            }
            Event::Left { reason } => format!("left alone: {reason}; {AFTER_LEFT}"),
            Event::Busy(e) => format!("busy: {e}"),
            Event::Failed(e) => {
                let next = e.next_step().map(|next| format!("; {next}")).unwrap_or_default();
                format!("failed: {e}{next}")
            }
            Event::Stopping => "stopping".into(),
        }
    }
}

fn crossed(c: &Crossed) -> String {
    let value = c.value.map(|value| format!(" {value:.1}")).unwrap_or_default();
    let limit = c.limit.map(|limit| format!(", limit {limit:.1}")).unwrap_or_default();
    format!("{}{value}{limit}", c.reason.name())
}

/// Says it. Standard output that is closed or full is no reason to stop learning; a reader that does not read is waited
/// for.
pub fn say(output: &Output, about: Option<About<'_>>, event: &Event<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut line = Map::from_iter([("event".to_string(), event.name().into()), ("at".into(), instant(now).into())]);
    if let Some(About { home, profile }) = about {
        line.insert("home".into(), home.display().to_string().into());
        line.extend(profile.map(|profile| ("profile".to_string(), profile.into())));
    }
    if let Value::Object(fields) = event.fields() {
        line.extend(fields);
    }
    let of = about.map_or(String::new(), |a| match a.profile {
        Some(profile) => format!("{} ({profile}): ", a.home.display()),
        None => format!("{}: ", a.home.display()),
    });
    let _ = output.data(&Value::Object(line), || printable(&format!("{of}{}", event.words())));
}
