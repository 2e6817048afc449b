//! Gives a file or a folder a name that nothing has, in one step where the file system can do that.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{DIR_MODE, FILE_MODE};

/// Renames `from` to `to`, which must not exist.
///
/// # Errors
/// `AlreadyExists` if it does; nothing has changed then.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match flagged(from, to) {
        Err(e) if lacks_flag(&e) => in_two_steps(from, to),
        done => done,
    }
}

/// `renameat2` with `RENAME_NOREPLACE`: atomic.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn flagged(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn flagged(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the kernel, a filter of system calls, or the file system (NFS, most of FUSE) does not know the flag.
fn lacks_flag(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let lacking = [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::PERM];
    e.kind() == io::ErrorKind::Unsupported || Errno::from_io_error(e).is_some_and(|errno| lacking.contains(&errno))
}

/// A second name, then the first one goes: a process that is killed in between leaves both.
fn in_two_steps(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from)?.is_dir() {
        return claim(from, to, || DirBuilder::new().mode(DIR_MODE).create(to), || fs::remove_dir(to));
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).inspect_err(|_| drop(fs::remove_file(to))),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        // No hard links either: exFAT, and some of FUSE.
        Err(_) => claim_file(from, to),
    }
}

fn claim_file(from: &Path, to: &Path) -> io::Result<()> {
    let make = || OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(to).map(drop);
    claim(from, to, make, || fs::remove_file(to))
}

/// Whoever makes something empty of that name may replace it: a process that is killed in between leaves it.
fn claim(
    from: &Path,
    to: &Path,
    make: impl Fn() -> io::Result<()>,
    undo: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    make()?;
    fs::rename(from, to).inspect_err(|_| drop(undo()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_refuses_a_name_that_something_has_and_gives_one_that_is_free() {
        type Way = fn(&Path, &Path) -> io::Result<()>;
        for (way, rename) in [("any", rename as Way), ("two steps", in_two_steps), ("claimed", claim_file)] {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            fs::write(at("new"), "new").unwrap();
            fs::write(at("old"), "old").unwrap();
            std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
            for taken in ["old", "dangling"] {
                let e = rename(&at("new"), &at(taken)).unwrap_err();
                assert_eq!(e.kind(), io::ErrorKind::AlreadyExists, "{way}, {taken}");
            }
            assert_eq!(fs::read_to_string(at("old")).unwrap(), "old", "{way}");
            rename(&at("new"), &at("free")).unwrap();
            assert_eq!(fs::read_to_string(at("free")).unwrap(), "new", "{way}");
            assert!(!at("new").exists(), "{way}");
        }
    }

    #[test]
    fn a_folder_takes_no_name_that_something_has() {
        for rename in [rename as fn(&Path, &Path) -> io::Result<()>, in_two_steps] {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for folder in ["new", "full", "empty"] {
                fs::create_dir(at(folder)).unwrap();
            }
            fs::write(at("new/inside"), "new").unwrap();
            fs::write(at("full/inside"), "old").unwrap();
            for taken in ["full", "empty"] {
                assert_eq!(rename(&at("new"), &at(taken)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            }
            rename(&at("new"), &at("free")).unwrap();
            assert_eq!(fs::read_to_string(at("free/inside")).unwrap(), "new");
            assert_eq!(fs::read_to_string(at("full/inside")).unwrap(), "old");
            assert!(!at("new").exists());
        }
    }

    /// Many threads want one name: one of them gets it.
    #[test]
    fn one_of_many_gets_the_name() {
        for rename in [rename as fn(&Path, &Path) -> io::Result<()>, in_two_steps, claim_file] {
            let dir = tempfile::tempdir().unwrap();
            let won: Vec<usize> = std::thread::scope(|scope| {
                let dir = &dir;
                let try_it = move |n: usize| {
                    let from = dir.path().join(n.to_string());
                    fs::write(&from, n.to_string()).unwrap();
                    rename(&from, &dir.path().join("name")).is_ok().then_some(n)
                };
                let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || try_it(n))).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            let [winner] = won[..] else { panic!("{won:?}") };
            assert_eq!(fs::read_to_string(dir.path().join("name")).unwrap(), winner.to_string());
        }
    }
}
