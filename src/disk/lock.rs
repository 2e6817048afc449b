//! Locks between processes: the operating system's, on files that also say who holds them and what for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::{Disk, LockFile};
use crate::error::{Error, ErrorKind, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A held lock; released when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct WriterLock {
    file: Box<dyn LockFile>,
    path: PathBuf,
}

impl WriterLock {
    /// Takes the lock at `path`, waiting at most `wait`. `purpose` is what others are told, such as "training".
    ///
    /// # Errors
    /// `Busy`, naming the holder; `Io`.
    pub fn acquire(disk: &dyn Disk, path: &Path, wait: Duration, purpose: &str) -> Result<WriterLock> {
        let io = |e| Error::io("cannot lock", path, e);
        let file = disk.open_lock(path).map_err(io)?;
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        while !file.try_lock().map_err(io)? {
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(busy(path, &file.note().unwrap_or_default()));
            }
            std::thread::sleep(pause.min(left));
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        // The note informs; the lock holds without it, also on a full disk.
        let _ = file.set_note(&format!("process {} ({purpose})\n", std::process::id()));
        Ok(WriterLock { file, path: path.to_owned() })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        let _ = self.file.set_note("");
    }
}

fn busy(path: &Path, holder: &str) -> Error {
    let holder: String = holder.chars().filter(|c| !c.is_control()).collect();
    let holder = if holder.is_empty() { "another process" } else { &holder };
    Error::new(ErrorKind::Busy, format!("in use by {holder}"))
        .at(path.display())
        .hint("try again when it has finished, or stop it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn the_second_handle_waits_then_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.lock");
        let held = WriterLock::acquire(&RealDisk, &path, Duration::ZERO, "training").unwrap();
        let start = Instant::now();
        let e = WriterLock::acquire(&RealDisk, &path, Duration::from_millis(30), "rolling back").unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert_eq!(e.kind(), ErrorKind::Busy);
        assert!(e.to_string().contains(&format!("process {} (training)", std::process::id())), "{e}");
        drop(held);
        WriterLock::acquire(&RealDisk, &path, Duration::ZERO, "rolling back").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "a released lock names nobody");
    }

    #[test]
    fn a_waiting_one_gets_it_when_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.lock");
        let held = WriterLock::acquire(&RealDisk, &path, Duration::ZERO, "training").unwrap();
        std::thread::scope(|s| {
            let waiting = s.spawn(|| WriterLock::acquire(&RealDisk, &path, Duration::from_secs(20), "next").map(drop));
            std::thread::sleep(Duration::from_millis(20));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }

    const CHILD: &str = "ACCLIMATE_TEST_LOCK";

    /// Not a test of its own: the other process of the next one.
    #[test]
    #[ignore = "run by another_process_is_named_and_its_death_releases"]
    fn child_that_holds_a_lock() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let _held = WriterLock::acquire(&RealDisk, Path::new(&path), Duration::ZERO, "training elsewhere").unwrap();
        println!("\nheld");
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn another_process_is_named_and_its_death_releases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.lock");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::lock::tests::child_that_holds_a_lock", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(std::result::Result::ok).any(|line| line == "held"));
        let e = WriterLock::acquire(&RealDisk, &path, Duration::ZERO, "here").unwrap_err();
        assert!(e.to_string().contains(&format!("process {} (training elsewhere)", child.id())), "{e}");
        child.kill().unwrap();
        child.wait().unwrap();
        WriterLock::acquire(&RealDisk, &path, Duration::from_secs(5), "here").unwrap();
    }
}
