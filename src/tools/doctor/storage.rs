//! The disk under a home: its kind, its file system, what is free, and whether it takes writes.

use std::io;
use std::path::Path;
use std::time::Instant;

use super::{Check, bytes, duration};
use crate::device::{Disk as Mounted, Medium, Sensors, Space};
use crate::disk::{Disk, StagedFile};
use crate::error::{Error, LOST_DISK, Result};

/// Free space below which a home soon takes no feedback, and a training has no room.
const FULL: u64 = 16 << 20;
const LITTLE: u64 = 256 << 20;
/// The same of inodes: a home adds a few files a training.
const FEW_INODES: u64 = 1000;
const NO_INODES: u64 = 16;
/// A flush that takes longer makes every feedback wait.
const SLOW: f64 = 0.5;
const PIECE: usize = 4096;

pub(super) fn checks(sensors: &dyn Sensors, path: &Path) -> Vec<Check> {
    let disk = sensors.disk(path);
    let mut checks = vec![kind(disk.as_ref()), file_system(disk.as_ref())];
    checks.extend(space(sensors.space(path)));
    checks
}

fn kind(disk: Option<&Mounted>) -> Check {
    const NAME: &str = "disk";
    let Some(disk) = disk else { return Check::unknown(NAME) };
    let kind = match disk.medium {
        Medium::SdCard => "SD card",
        Medium::Emmc => "eMMC",
        Medium::Usb => "USB disk",
        Medium::Nvme => "NVMe",
        Medium::Ssd => "SSD",
        Medium::Spinning => "hard disk",
        Medium::Virtual => "disk of a virtual machine",
        Medium::Loop => "file that is mounted as a disk",
        Medium::Ram => "memory: it is empty after a restart",
        Medium::Network => "network",
        Medium::Unknown => "kind not known",
    };
    let device = disk.device.as_ref().map(|device| format!(" ({device})")).unwrap_or_default();
    Check::ok(NAME, format!("{kind}{device}"))
}

fn file_system(disk: Option<&Mounted>) -> Check {
    const NAME: &str = "file system";
    let Some(disk) = disk else { return Check::unknown(NAME) };
    let at = disk.mount_point.display();
    let value = |about: &str| format!("{} at {at}{about}", disk.file_system);
    if disk.is_read_only {
        let next = "mount it for writing or put the home elsewhere: it answers from here, and takes no feedback";
        return Check::fail(NAME, value(", read-only"), next);
    }
    match disk.file_system.as_str() {
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" => Check::warn(
            NAME,
            value(", which knows no owners and may lose files at a power cut"),
            "put the home on ext4, or another file system with a journal",
        ),
        "tmpfs" | "ramfs" => Check::warn(
            NAME,
            value(", which is gone after a restart"),
            "put the home on a disk: what is learned here does not last",
        ),
        "overlay" | "aufs" => Check::warn(
            NAME,
            value(", which may be gone with the container or after a restart"),
            "put the home on a volume, or on a partition that is not overlaid",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "fuse.sshfs" | "ceph" | "glusterfs" => Check::warn(
            NAME,
            value(", on another machine: locks and durability are up to that"),
            "put the home on a disk of this machine, and use it from one machine only",
        ),
        _ if disk.options.iter().any(|o| matches!(o.as_str(), "nobarrier" | "barrier=0" | "data=writeback")) => {
            Check::warn(
                NAME,
                value(", mounted so that a power cut may lose what was flushed"),
                "take nobarrier and data=writeback out of /etc/fstab",
            )
        }
        _ => Check::ok(NAME, value("")),
    }
}

fn space(told: io::Result<Option<Space>>) -> [Check; 2] {
    const NAMES: [&str; 2] = ["space", "inodes"];
    let space = match told {
        Ok(Some(space)) => space,
        Ok(None) => return NAMES.map(Check::unknown),
        Err(e) => {
            return [
                Check::fail(NAMES[0], format!("the disk does not answer: {e}"), LOST_DISK),
                Check::unknown(NAMES[1]),
            ];
        }
    };
    let value = format!("{} free of {}", bytes(space.free_bytes), bytes(space.total_bytes));
    let free = match space.free_bytes {
        0..FULL => Check::fail(NAMES[0], value, "make room on this disk: feedback is refused where it cannot be kept"),
        FULL..LITTLE => Check::warn(NAMES[0], value, "make room on this disk: journals and adapters grow with use"),
        _ => Check::ok(NAMES[0], value),
    };
    let inodes = match (space.free_inodes, space.total_inodes) {
        (Some(free), Some(total)) => {
            let value = format!("{free} free of {total}");
            let next = "remove small files that nobody needs: a new file needs an inode, however much space is left";
            match free {
                0..NO_INODES => Check::fail(NAMES[1], value, next),
                NO_INODES..FEW_INODES => Check::warn(NAMES[1], value, next),
                _ => Check::ok(NAMES[1], value),
            }
        }
        _ => Check::ok(NAMES[1], "not counted by this file system"),
    };
    [free, inodes]
}

/// Writes a small file in `folder`, flushes it and takes it away again.
pub(super) fn writing(disk: &dyn Disk, folder: &Path) -> Check {
    const NAME: &str = "writing";
    let started = Instant::now();
    let tried = || -> Result<()> { StagedFile::write(disk, folder, &[0; PIECE])?.sync() };
    match tried() {
        Ok(()) => {
            let seconds = started.elapsed().as_secs_f64();
            let value = format!("{} were flushed in {}", bytes(PIECE as u64), duration(seconds));
            match seconds > SLOW {
                true => Check::warn(NAME, value, "try another card or disk: each feedback waits that long"),
                false => Check::ok(NAME, value),
            }
        }
        Err(e) => Check::fail(NAME, e.to_string(), next_of(&e)),
    }
}

/// What to do about an error of the disk.
fn next_of(e: &Error) -> String {
    e.next_step().unwrap_or("look at the system's log (`dmesg`) for what is wrong with the disk").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::faulty::{Fault, FaultyDisk};
    use crate::tools::doctor::State;

    #[test]
    fn a_disk_that_is_full_or_pulled_out_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writing(&RealDisk, folder.path()).state, State::Ok);
        let (mut full, mut gone) = (0, 0);
        for at in 0..4 {
            let check = writing(&FaultyDisk::new(at, Fault::Full), folder.path());
            full +=
                usize::from(check.state == State::Fail && check.next.is_some_and(|n| n.contains("free some space")));
            let check = writing(&FaultyDisk::new(at, Fault::Dead), folder.path());
            gone += usize::from(check.state == State::Fail && check.next.is_some_and(|n| n.contains("pulled out")));
        }
        assert!(full > 0 && gone > 1, "{full}, {gone}");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert!(left < 8, "only a disk that allows no removal keeps the file: {left}");
    }

    #[test]
    fn little_room_warns_and_none_fails() {
        let of = |free_bytes: u64, free_inodes: u64| {
            let total =
                Space { free_bytes, total_bytes: 8 << 30, free_inodes: Some(free_inodes), total_inodes: Some(9999) };
            space(Ok(Some(total))).map(|check| check.state)
        };
        assert_eq!(of(1 << 30, 5000), [State::Ok, State::Ok]);
        assert_eq!(of(LITTLE - 1, FEW_INODES - 1), [State::Warn, State::Warn]);
        assert_eq!(of(FULL - 1, 0), [State::Fail, State::Fail]);
        let gone = space(Err(io::Error::from_raw_os_error(5)));
        assert_eq!(gone[0].state, State::Fail);
        assert!(
            gone[0].value.contains("does not answer")
                && gone[0].next.as_deref().is_some_and(|n| n.contains("connect it again"))
        );
        let fat = Space { free_bytes: 1 << 30, total_bytes: 8 << 30, free_inodes: None, total_inodes: None };
        assert_eq!(space(Ok(Some(fat)))[1].value, "not counted by this file system");
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let check = writing(&RealDisk, &folder.path().join("none"));
        assert_eq!((check.state, check.next.as_deref()), (State::Fail, Some("check the path")));
    }
}
