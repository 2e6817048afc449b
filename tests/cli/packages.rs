//! The install script of the static archive, on a machine that its program is not for.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn an_archive_for_another_machine_says_so_and_installs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, system) = (folder.path().join("archive"), folder.path().join("system"));
    std::fs::create_dir_all(archive.join("bin")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/tarball/install.sh");
    std::fs::copy(script, archive.join("install.sh")).unwrap();
    // A program for a machine that the tests do not run on: the field `e_machine` of elf(5).
    const RISC_V: u16 = 243;
    let mut program = std::fs::read(assert_cmd::cargo::cargo_bin("acclimate")).unwrap();
    program.truncate(64);
    program[18..20].copy_from_slice(&RISC_V.to_le_bytes());
    let file = archive.join("bin/acclimate");
    std::fs::write(&file, program).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let started = Command::new(&file).arg("--version").output();
    assert!(started.is_err(), "the kernel refuses it: {started:?}");
    let install = Command::new("sh").arg(archive.join("install.sh")).env("DESTDIR", &system).output().unwrap();
    let text = String::from_utf8_lossy(&install.stderr).into_owned();
    assert_eq!(install.status.code(), Some(1), "{text}");
    assert!(text.contains("does not run here") && text.contains("hint: is this the archive for"), "{text}");
    assert!(!system.exists(), "nothing is installed");
}
