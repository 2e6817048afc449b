//! Boards of `tests/boards`, and files that say anything.

use super::*;
use proptest::prelude::*;

fn board(name: &str) -> Linux {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards").join(name);
    assert!(folder.is_dir(), "{} is not there", folder.display());
    Linux::under(folder)
}

fn all_of(noticed: Noticed) -> (Option<bool>, Option<bool>) {
    (noticed.now, noticed.since_boot)
}

const NO: (Option<bool>, Option<bool>) = (Some(false), Some(false));
const YES: (Option<bool>, Option<bool>) = (Some(true), Some(true));
const UNKNOWN: (Option<bool>, Option<bool>) = (None, None);

#[test]
fn a_pi_zero_2_is_cool_and_small() {
    let pi = board("pi-zero-2-w");
    assert_eq!(pi.board().model.as_deref(), Some("Raspberry Pi Zero 2 W Rev 1.0"));
    assert_eq!(pi.board().kernel.as_deref(), Some("6.12.25+rpt-rpi-v8"));
    let zones = pi.temperatures();
    assert_eq!(zones.len(), 1, "the chip of the zone's name is not told a second time: {zones:?}");
    let hottest = processor(&zones).unwrap();
    assert_eq!((hottest.celsius, hottest.passive, hottest.critical), (48.312, None, Some(90.0)));
    assert_eq!(all_of(pi.throttling().under_voltage), NO);
    let cpu = pi.cpu();
    assert_eq!(cpu.architecture, Some(Architecture::Arm64));
    assert_eq!(cpu.clusters, [("Cortex-A53".to_string(), 4)]);
    assert_eq!(cpu.online, Some(4));
    assert!(cpu.has("asimd") && !cpu.has("asimddp") && cpu.x86_level().is_none());
    let memory = pi.memory();
    assert_eq!((memory.total, memory.swap_total, memory.zram), (Some(437_804 << 10), Some(102_396 << 10), Some(0)));
    assert_eq!(pi.pressure(), Pressures::default());
    assert_eq!(pi.group(), Group::default(), "its kernel has no memory groups, and `max` is no limit");
    let disk = pi.disk(Path::new("/home/pi/home")).unwrap();
    assert_eq!((disk.medium, disk.device.as_deref()), (Medium::SdCard, Some("mmcblk0")));
    assert_eq!((disk.file_system.as_str(), disk.is_read_only), ("ext4", false));
    let boot = pi.disk(Path::new("/boot/firmware/home")).unwrap();
    assert_eq!((boot.file_system.as_str(), boot.medium), ("vfat", Medium::SdCard));
    assert_eq!(pi.power(), Power::default());
    assert_eq!(pi.clock().synchronised, Some(true));
    assert_eq!(pi.load(), Some([0.08, 0.03, 0.01]));
    assert!(pi.space(Path::new("/")).unwrap().is_none(), "a recorded board says nothing about space");
}

#[test]
fn a_pi_4_says_what_slows_it_down() {
    let pi = board("pi-4-throttled");
    let throttling = pi.throttling();
    let all =
        [throttling.under_voltage, throttling.frequency_capped, throttling.throttled, throttling.temperature_limit];
    assert_eq!(all.map(all_of), [YES, YES, YES, (Some(true), Some(false))]);
    let zones = pi.temperatures();
    assert_eq!(processor(&zones).map(|zone| zone.celsius), Some(84.209));
    let frequencies = pi.frequencies();
    assert_eq!(frequencies.len(), 4);
    assert_eq!((frequencies[3].now, frequencies[3].most), (Some(1_000_000), Some(1_800_000)));
    assert_eq!(frequencies[3].governor.as_deref(), Some("ondemand"));
    assert_eq!(pi.cpu().clusters, [("Cortex-A72".to_string(), 4)]);
    assert_eq!(pi.group().cores, Some(3.0));
    assert_eq!(pi.clock().synchronised, Some(false));
}

#[test]
fn a_pi_5_has_limits_and_pressure() {
    let pi = board("pi-5");
    assert!(pi.cpu().has("asimddp") && pi.cpu().has("fphp"));
    assert_eq!(all_of(pi.throttling().under_voltage), (Some(false), Some(true)));
    let group = pi.group();
    assert_eq!((group.memory_max, group.memory_high), (Some(2 << 30), Some(1536 << 20)));
    assert_eq!((group.memory_current, group.cores), (Some(80 << 20), Some(3.0)), "the kernel can drop its files");
    assert_eq!(group.memory_left(), Some(1456 << 20));
    let pressure = pi.pressure();
    assert_eq!(pressure.cpu.map(|p| (p.some10, p.some60, p.full10)), Some((1.20, 0.84, Some(1.20))));
    assert_eq!(pressure.io.and_then(|p| p.full60), Some(0.22));
    let memory = pi.memory();
    assert_eq!(memory.zram, memory.swap_total);
    assert_eq!(pi.disk(Path::new("/var/lib/acclimate")).unwrap().medium, Medium::Nvme);
    let trips = pi.temperatures();
    assert_eq!((trips[0].passive, trips[0].critical), (None, Some(110.0)), "active trips turn a fan");
}

#[test]
fn a_jetson_says_its_power_mode_and_its_junction() {
    let jetson = board("orin-nano");
    let zones = jetson.temperatures();
    assert_eq!(zones.len(), 6, "zones that cannot be read are left out: {zones:?}");
    let hottest = processor(&zones).unwrap();
    assert_eq!((hottest.celsius, hottest.passive, hottest.critical), (53.187, Some(99.0), Some(104.5)));
    let gpu = zones.iter().find(|zone| zone.name == "gpu-thermal").unwrap();
    assert!(!gpu.is_processor);
    let mode = jetson.power().mode.unwrap();
    assert_eq!((mode.id, mode.name.as_deref()), (1, Some("25W")));
    assert_eq!(mode.all, ["15W", "25W", "MAXN_SUPER", "7W"]);
    assert_eq!(all_of(jetson.throttling().throttled), (None, Some(true)));
    assert_eq!(all_of(jetson.throttling().under_voltage), UNKNOWN);
    assert_eq!(jetson.cpu().clusters, [("Cortex-A78AE".to_string(), 6)]);
    assert_eq!(jetson.memory().zram, Some((6 * 650_128) << 10));
    assert_eq!(jetson.power().supply, Supply::Unknown, "a USB port that gives power is no supply");
    assert_eq!(jetson.pressure().cpu.map(|p| p.full10), Some(None));
}

#[test]
fn a_desktop_has_several_disks() {
    let desktop = board("desktop");
    assert_eq!(desktop.board().model.as_deref(), Some("LENOVO 11T5S00A00"));
    let zones = desktop.temperatures();
    let hottest = processor(&zones).unwrap();
    assert_eq!((hottest.name.as_str(), hottest.celsius), ("x86_pkg_temp", 46.0));
    assert_eq!(hottest.passive, None, "a trip point at 0 is switched off");
    assert_eq!(desktop.cpu().x86_level(), Some(3));
    let at = |path: &str| desktop.disk(Path::new(path)).unwrap();
    assert_eq!((at("/home/ada").medium, at("/home/ada").device.as_deref()), (Medium::Ssd, Some("sda")));
    assert_eq!((at("/tmp/home").medium, at("/tmp/home").file_system.as_str()), (Medium::Ram, "tmpfs"));
    assert_eq!(at("/tmpfs").mount_point, Path::new("/"), "a name that begins like a mount is not below it");
    let usb = at("/media/ada/big disk/home");
    assert_eq!((usb.file_system.as_str(), usb.device.as_deref()), ("exfat", Some("sdb")));
    let nas = at("/mnt/nas/home");
    assert_eq!((nas.medium, nas.is_read_only, nas.device), (Medium::Network, true, None));
    assert_eq!(desktop.power().supply, Supply::Unknown, "the battery of a mouse is not the machine's");
}

#[test]
fn chips_stand_in_for_zones() {
    let folder = tempfile::tempdir().unwrap();
    let chip = folder.path().join("sys/class/hwmon/hwmon2");
    std::fs::create_dir_all(&chip).unwrap();
    for (file, text) in [
        ("name", "coretemp"),
        ("temp1_label", "Package id 0"),
        ("temp1_input", "46000"),
        ("temp1_max", "80000"),
        ("temp1_crit", "100000"),
    ] {
        std::fs::write(chip.join(file), format!("{text}\n")).unwrap();
    }
    let zones = Linux::under(folder.path()).temperatures();
    let package = Zone {
        name: "coretemp Package id 0".into(),
        celsius: 46.0,
        passive: Some(80.0),
        critical: Some(100.0),
        is_processor: true,
    };
    assert_eq!(zones, [package]);
}

#[test]
fn a_container_knows_its_limits_and_no_temperature() {
    let container = board("container");
    assert!(container.temperatures().is_empty());
    assert!(container.frequencies().is_empty());
    assert_eq!(container.pressure(), Pressures::default());
    let group = container.group();
    assert_eq!((group.memory_max, group.memory_current, group.cores), (Some(512 << 20), Some(20 << 20), Some(1.5)));
    let disk = container.disk(Path::new("/data")).unwrap();
    assert_eq!((disk.file_system.as_str(), disk.medium), ("overlay", Medium::Unknown));
}

#[test]
fn groups_of_version_1_limit_too() {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    put("proc/self/cgroup", "9:name=systemd:/\n4:memory:/jobs/one\n1:cpu,cpuacct:/jobs\n0::/\n");
    put("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes", "1048576\n");
    put("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "8388608\n");
    put("sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "3145728\n");
    put("sys/fs/cgroup/memory/jobs/memory.stat", "inactive_file 7\ntotal_inactive_file 1048576\ntotal_active_file 0\n");
    put("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "50000\n");
    put("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n");
    let group = Linux::under(folder.path()).group();
    assert_eq!((group.memory_max, group.cores), (Some(8 << 20), Some(0.5)));
    assert_eq!(group.memory_current, Some(2 << 20), "what the limited group uses, not the one below it");
    assert_eq!(group.memory_left(), Some(6 << 20));
}

#[test]
fn what_makes_no_sense_is_not_known() {
    let broken = board("broken");
    assert!(broken.temperatures().is_empty(), "{:?}", broken.temperatures());
    assert_eq!(broken.throttling(), Throttling::default());
    assert!(broken.frequencies().is_empty());
    assert_eq!(broken.pressure(), Pressures::default());
    assert_eq!(broken.group(), Group::default());
    assert_eq!(broken.memory(), Memory { zram: Some(0), ..Memory::default() });
    assert_eq!(broken.power(), Power { supply: Supply::Battery { percent: None }, mode: None });
    assert_eq!(broken.board().model.as_deref(), Some("]0;ownedBoard"), "nothing in it moves the cursor");
    assert_eq!(broken.load(), None);
    assert_eq!((broken.cpu().features.len(), broken.cpu().online), (0, None));
    let disk = broken.disk(Path::new("/")).unwrap();
    assert_eq!((disk.device, disk.medium), (None, Medium::Unknown));
}

#[test]
fn a_clock_before_this_program_is_not_set() {
    use std::time::{Duration, UNIX_EPOCH};
    assert!(!Clock::showing(UNIX_EPOCH, None).is_plausible);
    assert!(!Clock::showing(UNIX_EPOCH - Duration::from_secs(1), None).is_plausible);
    assert!(Clock::showing(UNIX_EPOCH + Duration::from_secs(4_000_000_000), None).is_plausible);
    let here = Linux::here().clock();
    assert_eq!(here.is_plausible, Clock::showing(here.now, None).is_plausible);
}

#[cfg(target_os = "linux")]
#[test]
fn the_running_system_answers() {
    let here: Box<dyn Sensors> = Box::new(Linux::here());
    let folder = tempfile::tempdir().unwrap();
    let memory = here.memory();
    assert_eq!(memory.total, Some(crate::process::status_bytes("/proc/meminfo", "MemTotal:")));
    assert!(here.cpu().online.is_some_and(|cores| cores >= crate::process::available_cores()));
    assert!(here.load().is_some());
    let disk = here.disk(&folder.path().join("not/there/yet")).unwrap();
    assert!(folder.path().canonicalize().unwrap().starts_with(&disk.mount_point), "{disk:?}");
    let space = here.space(&folder.path().join("not/there/yet")).unwrap().unwrap();
    assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0, "{space:?}");
    // What this program has long used for its own limit.
    let least = memory.total.into_iter().chain(here.group().memory_max).min();
    assert_eq!(least, crate::process::machine_memory());
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_waits_for_a_pipe_and_nothing_leaves_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("proc")).unwrap();
    std::fs::write(folder.path().join("secret"), "1").unwrap();
    let pipe = root.join("proc/loadavg");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(Linux::under(&root).load(), None);
    let files = Files::below(&root);
    assert!(!files.has("../secret") && files.text("proc/../../secret").is_none());
    std::fs::write(root.join("proc/meminfo"), vec![b' '; 3 << 20]).unwrap();
    assert_eq!(files.text("proc/meminfo").map(|text| text.len()), Some(1 << 20), "a file is read so far");
}

/// Asks for everything.
fn ask(sensors: &dyn Sensors) {
    let path = Path::new("/home/pi");
    let answers = (sensors.temperatures(), sensors.throttling(), sensors.frequencies(), sensors.pressure());
    let more = (sensors.group(), sensors.memory(), sensors.power(), sensors.board(), sensors.load());
    let rest = (sensors.cpu(), sensors.clock(), sensors.disk(path), sensors.space(path).is_ok());
    std::hint::black_box((answers, more, rest, sensors.cpu().x86_level(), sensors.group().memory_left()));
}

/// Files that are read, of all boards.
fn files_of_boards() -> Vec<PathBuf> {
    let boards = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards");
    let mut folders = vec![(boards, 0)];
    let mut files = vec![];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push((path, depth + 1)),
                path if depth > 0 => files.push(path),
                _ => {}
            }
        }
    }
    let short = |path: PathBuf| {
        let parts = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards")).unwrap().components();
        parts.skip(1).collect::<PathBuf>()
    };
    let mut files: Vec<PathBuf> = files.into_iter().map(short).collect();
    files.sort();
    files.dedup();
    files
}

/// Something like what such files hold: words and numbers of them, and any bytes.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "-1",
        "0",
        "99999999999999999999",
        "0x",
        "0x41",
        "0xd03",
        "7000f",
        "max",
        "some avg10=",
        "full avg10=1e308",
        "0::/",
        "4:memory:/..",
        " - ext4 /dev/root rw",
        "1 1 179:2 / / rw",
        "\\040",
        "\\777",
        "<",
        "POWER_MODEL ID=1",
        "NAME=é",
        "pmode:",
        "Features\t:",
        "flags\t:",
        "CPU part\t: ",
        "MemTotal: ",
        " kB",
        "/dev/zram0 p 1",
        "0-",
        ",",
        "é",
        "\n",
        " ",
        "critical",
        "passive",
        "cpu-thermal",
        "rpi_volt",
        "DEVNAME=",
        "mmcblk0p2",
        "..",
        "Battery",
        "Discharging",
    ]);
    let words = prop::collection::vec(word, 0..12).prop_map(|words| words.concat().into_bytes());
    prop_oneof![3 => words, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn no_content_makes_it_panic(contents in prop::collection::vec(contents(), 40)) {
        let folder = tempfile::tempdir().unwrap();
        for (file, at) in files_of_boards().iter().zip(0..) {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, &contents[at % contents.len()]).unwrap();
        }
        let sensors = Linux::under(folder.path());
        ask(&sensors);
        let zones = sensors.temperatures();
        let words = zones.into_iter().map(|zone| zone.name).chain(sensors.board().model);
        let words: String = words.chain(sensors.disk(Path::new("/")).map(|disk| disk.file_system)).collect();
        prop_assert!(!words.chars().any(char::is_control), "{:?}", words);
    }
}
