//! What this process's control group may take: version 2, or 1 where the controller is still there.

use super::files::Files;
use std::path::Path;

const MOUNT: &str = "sys/fs/cgroup";
/// Bytes from which a limit of version 1 means that there is none.
const UNLIMITED: u64 = 1 << 60;

/// Limits of the control group and of those above it, the narrowest each; None where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Group {
    /// Most memory: what goes beyond it is killed.
    pub memory_max: Option<u64>,
    /// Memory beyond which the kernel slows the group down to take some back.
    pub memory_high: Option<u64>,
    /// What the group with `memory_max` (else this process's own group) uses, less what it holds of files: the kernel
    /// can take that back.
    pub memory_current: Option<u64>,
    /// Cores' worth of time: `cpu.max`.
    pub cores: Option<f64>,
}

impl Group {
    /// Memory that the group may still take before it is held back or killed.
    pub fn memory_left(&self) -> Option<u64> {
        let most = [self.memory_max, self.memory_high].into_iter().flatten().min()?;
        Some(most.saturating_sub(self.memory_current.unwrap_or(0)))
    }
}

pub(super) fn group(files: &Files) -> Group {
    let groups = files.text("proc/self/cgroup").unwrap_or_default();
    let second = unified(files, &groups);
    let first = legacy(files, &groups);
    Group {
        memory_max: second.memory_max.or(first.memory_max),
        memory_high: second.memory_high,
        memory_current: second.memory_current.or(first.memory_current),
        cores: second.cores.or(first.cores),
    }
}

/// The folders of a group and of those above it. In a container its own group may be the root.
fn above(own: &str) -> impl Iterator<Item = String> {
    Path::new(own).ancestors().take(64).map(|group| group.display().to_string().trim_end_matches('/').to_string())
}

fn unified(files: &Files, groups: &str) -> Group {
    let own = groups.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    let mut group = Group::default();
    for folder in above(own) {
        let at = |what: &str| format!("{MOUNT}{folder}/{what}");
        let max = files.number::<u64>(&at("memory.max"));
        let narrower = max.is_some_and(|max| group.memory_max.is_none_or(|known| max < known));
        if narrower || group.memory_current.is_none() {
            group.memory_current = used(files, &at, ["memory.current", ""]).or(group.memory_current);
        }
        group.memory_max = least(group.memory_max, max);
        group.memory_high = least(group.memory_high, files.number(&at("memory.high")));
        // `max 100000` where there is no limit, else the quota and the period.
        let quota = files.text(&at("cpu.max")).and_then(|text| {
            let mut fields = text.split_whitespace().map(|f| f.parse::<f64>().ok());
            share(fields.next()??, fields.next()??)
        });
        group.cores = narrower_share(group.cores, quota);
    }
    group
}

fn legacy(files: &Files, groups: &str) -> Group {
    let mut group = Group::default();
    for folder in above(controller(groups, "memory").unwrap_or("/")) {
        let at = |what: &str| format!("{MOUNT}/memory{folder}/{what}");
        let max = files.number::<u64>(&at("memory.limit_in_bytes")).filter(|bytes| *bytes < UNLIMITED);
        let narrower = max.is_some_and(|max| group.memory_max.is_none_or(|known| max < known));
        if narrower || group.memory_current.is_none() {
            group.memory_current = used(files, &at, ["memory.usage_in_bytes", "total_"]).or(group.memory_current);
        }
        group.memory_max = least(group.memory_max, max);
    }
    for folder in above(controller(groups, "cpu").unwrap_or("/")) {
        for mount in ["cpu", "cpu,cpuacct"] {
            let at = |what: &str| format!("{MOUNT}/{mount}{folder}/cpu.cfs_{what}_us");
            let quota = || share(files.number(&at("quota"))?, files.number(&at("period"))?);
            group.cores = narrower_share(group.cores, quota());
        }
    }
    group
}

/// Memory of the group whose files are `at`, without its pages of files; of version 1 those of the groups below count
/// with the names that begin so.
fn used(files: &Files, at: &dyn Fn(&str) -> String, [usage, prefix]: [&str; 2]) -> Option<u64> {
    let usage = files.number::<u64>(&at(usage))?;
    let statistics = files.text(&at("memory.stat")).unwrap_or_default();
    let of = |key: &str| {
        let line = statistics.lines().find_map(|l| l.strip_prefix(prefix)?.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Some(usage.saturating_sub(of("inactive_file")).saturating_sub(of("active_file")))
}

/// The path of this process's group in the hierarchy of a controller: `4:memory:/user.slice`.
fn controller<'a>(groups: &'a str, name: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has = fields.next()?.split(',').any(|controller| controller == name);
        fields.next().filter(|_| has)
    })
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

/// Cores' worth of a quota; a negative one is none.
fn share(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then(|| quota / period).filter(|cores| cores.is_finite())
}

fn narrower_share(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).min_by(f64::total_cmp)
}
