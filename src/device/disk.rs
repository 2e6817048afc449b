//! The disk under a path: what it is, how it is mounted, and what is free.

use std::path::{Path, PathBuf};

use super::files::{Files, word};

/// What holds the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    SdCard,
    /// Flash that is soldered on.
    Emmc,
    Usb,
    Nvme,
    /// Another disk without moving parts.
    Ssd,
    Spinning,
    /// A disk of a virtual machine.
    Virtual,
    /// A file that is mounted as a disk.
    Loop,
    /// Gone when the power is.
    Ram,
    Network,
    Unknown,
}

/// A mounted file system and the disk under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub mount_point: PathBuf,
    pub file_system: String,
    /// Of the mount and of the file system.
    pub options: Vec<String>,
    pub is_read_only: bool,
    /// The whole disk (`mmcblk0`), where there is one.
    pub device: Option<String>,
    pub medium: Medium,
}

/// Free and whole space, as those have it who are not root. None for inodes where the file system does not count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub free_inodes: Option<u64>,
    pub total_inodes: Option<u64>,
}

/// The disk that holds `path`, which need not be there yet.
pub(super) fn disk(files: &Files, path: &Path) -> Option<Disk> {
    let path = if files.are_live() { real_path(path) } else { path.to_path_buf() };
    let mounts = files.text("proc/self/mountinfo")?;
    // Of two at one place the later one lies on top.
    let mount = mounts.lines().filter_map(mount).filter(|m| path.starts_with(&m.point));
    let mount = mount.max_by_key(|m| m.point.components().count())?;
    let device = block_device(files, &mount.numbers);
    let medium = match &device {
        Some(device) => medium(files, device),
        None => without_device(&mount.file_system),
    };
    let is_read_only = mount.options.iter().any(|option| option == "ro");
    Some(Disk {
        mount_point: mount.point,
        file_system: mount.file_system,
        options: mount.options,
        is_read_only,
        device,
        medium,
    })
}

/// What is free where `path` is or will be. Only of the running system.
pub(super) fn space(files: &Files, path: &Path) -> std::io::Result<Option<Space>> {
    if !files.are_live() {
        return Ok(None);
    }
    of_system(&real_path(path))
}

#[cfg(unix)]
fn of_system(path: &Path) -> std::io::Result<Option<Space>> {
    let of = rustix::fs::statvfs(path)?;
    let inodes = |n: u64| (of.f_files > 0).then_some(n);
    Ok(Some(Space {
        free_bytes: of.f_bavail.saturating_mul(of.f_frsize),
        total_bytes: of.f_blocks.saturating_mul(of.f_frsize),
        free_inodes: inodes(of.f_favail),
        total_inodes: inodes(of.f_files),
    }))
}

#[cfg(not(unix))]
fn of_system(_: &Path) -> std::io::Result<Option<Space>> {
    Ok(None)
}

/// The path without links, or that of the folder above which is there.
fn real_path(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let there = whole.ancestors().find_map(|above| std::fs::canonicalize(above).ok());
    there.unwrap_or(whole)
}

struct Mount {
    numbers: String,
    point: PathBuf,
    file_system: String,
    options: Vec<String>,
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut behind = behind.split(' ');
    let file_system = word(behind.next()?)?;
    let of_file_system = behind.nth(1).unwrap_or_default();
    let options = before.get(5)?.split(',').chain(of_file_system.split(','));
    Some(Mount {
        numbers: before.get(2)?.to_string(),
        point: PathBuf::from(unescaped(before.get(4)?)).strip_prefix("/").ok().map(|p| Path::new("/").join(p))?,
        file_system,
        options: options.filter_map(word).collect(),
    })
}

/// Spaces and the like are octal in the kernel's tables: `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain += &part[3..];
            }
            None => {
                plain.push('\\');
                plain += part;
            }
        }
    }
    plain
}

/// The whole disk behind a device number: of the partition, or of what an encrypted or logical volume lies on.
fn block_device(files: &Files, numbers: &str) -> Option<String> {
    let about = files.text(&format!("sys/dev/block/{numbers}/uevent"))?;
    let name = about.lines().find_map(|l| l.strip_prefix("DEVNAME="))?;
    let mut disk = whole_disk(files, &word(name)?);
    // A volume on a volume on a disk; no deeper, whatever the files say.
    for _ in 0..4 {
        match files.names(&format!("sys/block/{disk}/slaves")).first() {
            Some(below) => disk = whole_disk(files, below),
            None => break,
        }
    }
    Some(disk)
}

/// `mmcblk0p2` is of `mmcblk0`, `sda1` of `sda`.
fn whole_disk(files: &Files, name: &str) -> String {
    let is_disk = |name: &str| !name.is_empty() && files.has(&format!("sys/block/{name}"));
    let short = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let shorter = short.strip_suffix('p').unwrap_or(short);
    let disk = [name, shorter, short].into_iter().find(|name| is_disk(name));
    disk.unwrap_or(name).to_string()
}

fn medium(files: &Files, device: &str) -> Medium {
    let read = |what: &str| files.word(&format!("sys/block/{device}/{what}"));
    let on_usb = || {
        let place = std::fs::canonicalize(files.path(&format!("sys/block/{device}")));
        place.is_ok_and(|place| place.components().any(|c| c.as_os_str().to_string_lossy().starts_with("usb")))
    };
    match device {
        _ if device.starts_with("mmcblk") => match read("device/type").as_deref() {
            Some("MMC") => Medium::Emmc,
            Some("SD" | "SDcombo") => Medium::SdCard,
            _ => Medium::Unknown,
        },
        _ if device.starts_with("nvme") => Medium::Nvme,
        _ if device.starts_with("loop") => Medium::Loop,
        _ if device.starts_with("vd") || device.starts_with("xvd") => Medium::Virtual,
        _ if device.starts_with("ram") || device.starts_with("zram") => Medium::Ram,
        _ if device.starts_with("nbd") || device.starts_with("rbd") => Medium::Network,
        _ if on_usb() => Medium::Usb,
        _ => match read("queue/rotational").as_deref() {
            Some("0") => Medium::Ssd,
            Some("1") => Medium::Spinning,
            _ => Medium::Unknown,
        },
    }
}

/// What file systems without a disk of this machine are.
fn without_device(file_system: &str) -> Medium {
    match file_system {
        "tmpfs" | "ramfs" | "devtmpfs" => Medium::Ram,
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" | "glusterfs" | "fuse.sshfs" => Medium::Network,
        _ => Medium::Unknown,
    }
}
