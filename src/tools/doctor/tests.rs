//! The checks of recorded boards (`tests/boards`), and of the machine that runs this.

use std::path::Path;

use super::*;
use crate::device::Linux;

fn board(name: &str) -> Linux {
    Linux::under(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards").join(name))
}

fn of(name: &str, path: &str) -> Vec<Check> {
    device(&board(name), Path::new(path))
}

/// The check of that name, of which there is one.
#[track_caller]
fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    let mut of_name = checks.iter().filter(|check| check.name == name);
    let check = of_name.next().unwrap_or_else(|| panic!("no check {name}"));
    assert!(of_name.next().is_none(), "{name} twice");
    check
}

/// Names of the checks that are not ok; each says what to do.
fn wrong(checks: &[Check]) -> Vec<(&'static str, State)> {
    for check in checks {
        assert_eq!(check.next.is_some(), check.state != State::Ok, "{check:?}");
        assert!(!check.value.is_empty(), "{check:?}");
    }
    checks.iter().filter(|check| check.state != State::Ok).map(|check| (check.name, check.state)).collect()
}

#[test]
fn a_healthy_pi_has_nothing_wrong() {
    let checks = of("pi-zero-2-w", "/home/pi/home");
    assert_eq!(wrong(&checks), []);
    assert_eq!(worst(&checks), State::Ok);
    assert_eq!(named(&checks, "disk").value, "SD card (mmcblk0)");
    assert_eq!(named(&checks, "temperature").value, "48 °C (cpu-thermal), off at 90 °C");
    assert_eq!(named(&checks, "kernels").value, "NEON, without dot products, without 16-bit floats");
    assert_eq!(named(&checks, "memory").value, "216 MiB free of 428 MiB");
    assert!(named(&checks, "pressure").value.starts_with("not known"));
}

#[test]
fn a_hot_pi_on_a_weak_supply_says_so() {
    let checks = of("pi-4-throttled", "/boot/firmware");
    let expected = [("file system", State::Warn), ("temperature", State::Warn), ("throttling", State::Warn)];
    assert_eq!(wrong(&checks), [&expected[..], &[("voltage", State::Fail)]].concat());
    assert!(named(&checks, "throttling").value.contains("now: clock held down, slowed down, at its soft"));
    assert!(named(&checks, "file system").value.contains("vfat"));
}

#[test]
fn five_degrees_from_the_critical_trip_point_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let zone = folder.path().join("sys/class/thermal/thermal_zone0");
    std::fs::create_dir_all(&zone).unwrap();
    for (file, text) in [("type", "cpu-thermal"), ("trip_point_0_type", "critical"), ("trip_point_0_temp", "90000")] {
        std::fs::write(zone.join(file), text).unwrap();
    }
    let at = |thousandths: &str| {
        std::fs::write(zone.join("temp"), thousandths).unwrap();
        named(&device(&Linux::under(folder.path()), Path::new("/")), "temperature").state
    };
    let states = ["74999", "75000", "84999", "85000", "90001"].map(at);
    assert_eq!(states, [State::Ok, State::Warn, State::Warn, State::Fail, State::Fail]);
}

#[test]
fn what_was_and_is_over_is_a_warning() {
    let pi = of("pi-5", "/var/lib/acclimate");
    assert_eq!(wrong(&pi), [("voltage", State::Warn)]);
    assert_eq!(named(&pi, "limits").value, "1.5 GiB of memory, 1.4 GiB left; 3.00 cores of time");
    assert_eq!(named(&pi, "swap").value, "2.0 GiB free of 2.0 GiB, compressed memory");
    let jetson = of("orin-nano", "/home");
    assert_eq!(wrong(&jetson), [("throttling", State::Warn)]);
    assert_eq!(named(&jetson, "power").value, "power mode 25W, one of 15W, 25W, MAXN_SUPER, 7W");
    assert_eq!(named(&jetson, "processor").value, "Cortex-A78AE, 64-bit ARM");
}

#[test]
fn every_file_system_says_what_it_means() {
    let state = |path: &str| named(&of("desktop", path), "file system").state;
    assert_eq!(["/home", "/tmp/home"].map(state), [State::Ok, State::Warn]);
    assert_eq!(["/media/ada/big disk/home", "/mnt/nas/home"].map(state), [State::Warn, State::Fail]);
    assert!(named(&of("desktop", "/mnt/nas/home"), "file system").value.contains("read-only"));
    let checks = of("desktop", "/home/ada");
    assert_eq!(wrong(&checks), []);
    assert_eq!(named(&checks, "kernels").value, "AVX2");
    assert_eq!(named(&checks, "processor").value, "12th Gen Intel(R) Core(TM) i3-12100T, x86-64 level 3");
}

#[test]
fn a_container_is_not_blamed_for_what_it_cannot_see() {
    let checks = of("container", "/data");
    assert_eq!(wrong(&checks), [("file system", State::Warn)]);
    for name in ["temperature", "throttling", "voltage", "power", "space"] {
        assert_eq!(named(&checks, name).value, "not known", "{name}");
    }
    assert_eq!(named(&checks, "limits").value, "512 MiB of memory, 492 MiB left; 1.50 cores of time");
    assert_eq!(memory::free(&board("container")), Some(492 << 20));
    assert_eq!(memory::free(&board("broken")), None);
}

#[test]
fn garbage_is_not_known() {
    let checks = of("broken", "/");
    assert_eq!(wrong(&checks), []);
    for name in ["processor", "kernels", "cores", "memory", "swap", "temperature", "throttling", "voltage"] {
        assert_eq!(named(&checks, name).value, "not known", "{name}");
    }
}

#[test]
fn a_32_bit_system_on_a_64_bit_board_and_a_processor_without_avx2_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("proc")).unwrap();
    let with = |cpuinfo: &str| {
        std::fs::write(folder.path().join("proc/cpuinfo"), cpuinfo).unwrap();
        device(&Linux::under(folder.path()), Path::new("/"))
    };
    let arm =
        "processor\t: 0\nFeatures\t: half thumb fastmult vfp neon\nCPU implementer\t: 0x41\nCPU architecture: 7\n";
    let pi_4 = with(&format!("{arm}CPU part\t: 0xd08\n"));
    assert!(named(&pi_4, "processor").next.as_deref().is_some_and(|next| next.contains("64-bit system")));
    let pi_2 = with(&format!("{arm}CPU part\t: 0xc07\n"));
    assert!(named(&pi_2, "processor").value.contains("32-bit ARM"), "{:?}", named(&pi_2, "processor"));
    let old = with("processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: lm sse2 pni cx16\n");
    assert_eq!(named(&old, "kernels").state, State::Warn);
    assert!(named(&old, "kernels").next.as_deref().is_some_and(|next| next.contains("pass the host's processor")));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_warns_and_this_machine_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let checks = device(&Linux::here(), folder.path());
    wrong(&checks);
    assert!(named(&checks, "space").value.contains(" free of "));
    assert!(named(&checks, "memory").value.contains(" free of "));
}

#[cfg(feature = "train")]
#[test]
fn a_home_is_measured() {
    use crate::runtime::{Home, InitOptions};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("home");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
    Home::init(&path, &InitOptions::new(model)).unwrap();
    let (checks, figures) = home(&Linux::here(), &path, "nobody");
    // A busy disk may be slow.
    assert!(wrong(&checks).iter().all(|(name, state)| *name == "writing" && *state == State::Warn), "{checks:?}");
    let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names, ["writing", "home", "predictions", "training memory", "training time"]);
    assert!(!path.join("profiles/nobody").exists(), "nothing is made");
    assert_eq!((figures.answers, figures.answers_are_assumed), (50, true));
    let (step, all) = (figures.step_seconds.unwrap(), figures.train_seconds.unwrap());
    assert!(step > 0.0 && all > 10.0 * step, "{figures:?}");
    let need = figures.train_memory_bytes.unwrap();
    assert!(need > 16 << 20, "{figures:?}");
    // A board with a little less than that is told what to do.
    let small = folder.path().join("board/proc");
    std::fs::create_dir_all(&small).unwrap();
    let free = (need >> 10) - 1024;
    std::fs::write(small.join("meminfo"), format!("MemTotal: {free} kB\nMemAvailable: {free} kB\n")).unwrap();
    let (checks, figures) = home(&Linux::under(folder.path().join("board")), &path, "nobody");
    let memory = named(&checks, "training memory");
    assert_eq!(memory.state, State::Fail, "{memory:?}");
    assert!(memory.next.as_deref().is_some_and(|next| next.contains("a swap file of 64 MiB")), "{memory:?}");
    assert_eq!(figures.step_seconds, None, "what does not fit is not tried");
    assert!(named(&checks, "training time").value.contains("not measured"));
}

#[test]
fn people_read_sizes_and_times() {
    assert_eq!([0, 2048, 5 << 20, 3 << 30].map(bytes), ["0 B", "2 KiB", "5 MiB", "3.0 GiB"]);
    let times = [0.0001, 0.25, 12.4, 600.0, 7200.0, 400_000.0].map(duration);
    assert_eq!(times, ["1 ms", "250 ms", "12 s", "10 minutes", "2.0 hours", "5 days"]);
}
