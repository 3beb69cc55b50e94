//! Devices as the hive sees them: the real probe child beside drivers that are well, sick, or not there.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rbee_hive::devices::{self, Devices, Gpu, Picture, ProbeConfig};
use rbee_hive::id::{Device, Pgid};
use rbee_hive::limits;
use rbee_hive::thread::Joined;
use support::PATIENCE;
use support::nvml::Nvml;

const MIB: u64 = 1 << 20;
const TWO: &str = "gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n\
                   gpu 00000000:01:00.0 GPU-a 12288 11000 NVIDIA GeForce RTX 3060\n";

/// A machine whose drivers a test makes up.
struct Machine {
    config: ProbeConfig,
    groups: Vec<Pgid>,
    _dir: tempfile::TempDir,
}

impl Machine {
    /// Without any driver.
    fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = |name: &str| dir.path().join("nowhere").join(name);
        let config = ProbeConfig {
            nvml: nowhere("libnvidia-ml.so.1"),
            nvidia_smi: nowhere("nvidia-smi"),
            sysfs: nowhere("sys"),
            procfs: "/proc".into(),
            program: env!("CARGO_BIN_EXE_rbee-hive").into(),
        };
        Self { config, groups: Vec::new(), _dir: dir }
    }

    fn nvml(mut self, nvml: &Nvml) -> Self {
        self.config.nvml = nvml.library();
        self
    }

    /// With a command that is this script; `$PRINTED` are the fixtures of its output.
    fn nvidia_smi(mut self, script: &str) -> Self {
        let path = self._dir.path().join("nvidia-smi");
        let printed = fixture("nvidia-smi");
        let script = format!("#!/bin/sh\nPRINTED={}\n{script}", printed.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.config.nvidia_smi = path;
        self
    }

    fn sysfs(mut self, name: &str) -> Self {
        self.config.sysfs = fixture(name).join("sys");
        self
    }

    fn procfs(mut self, name: &str) -> Self {
        self.config.procfs = fixture(name).join("proc");
        self
    }

    /// With workers that lead these groups.
    fn workers(mut self, groups: &[u32]) -> Self {
        self.groups = groups.iter().copied().map(Pgid).collect();
        self
    }

    fn start(self) -> Watched {
        let (tell, told) = mpsc::channel();
        let groups = self.groups.clone();
        let (joined, devices) = devices::start(
            self.config.clone(),
            move || groups.clone(),
            move |picture| drop(tell.send(picture)),
        )
        .unwrap();
        Watched { devices, _joined: joined, told, _machine: self }
    }

    /// The GPUs at first sight.
    fn gpus(self) -> Vec<Gpu> {
        self.start().devices.look().gpus.clone()
    }
}

/// A thread that looks at a machine.
struct Watched {
    devices: Devices,
    _joined: Joined,
    told: mpsc::Receiver<Arc<Picture>>,
    _machine: Machine,
}

impl Watched {
    /// Asks for pictures until one is as wanted.
    fn until(&self, wanted: impl Fn(&Picture) -> bool) -> Arc<Picture> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.devices.refresh();
            let picture = self.told.recv_timeout(PATIENCE).unwrap();
            if wanted(&picture) {
                return picture;
            }
            assert!(Instant::now() < deadline, "{picture:?}");
        }
    }

    /// A picture whose figures are all newer than this call.
    fn next(&self) -> Arc<Picture> {
        let now = Instant::now();
        self.until(|picture| picture.gpus_taken_at >= now)
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn ids(gpus: &[Gpu]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.device.to_string()).collect()
}

fn lost(gpus: &[Gpu]) -> Vec<bool> {
    gpus.iter().map(|gpu| gpu.lost).collect()
}

/// Whether a process lives or waits to be reaped.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A process that leads a group, as a worker does; ended with the test.
struct Worker(Child);

impl Worker {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").process_group(0).spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn gpus_are_numbered_in_the_order_of_the_bus() {
    let nvml = Nvml::new(TWO);
    let gpus = Machine::bare().nvml(&nvml).gpus();
    let expected = Gpu {
        device: Device::Gpu(0),
        name: "NVIDIA GeForce RTX 3060".into(),
        uuid: Some("GPU-a".into()),
        backend: rbee_hive::id::Backend::Cuda,
        total_bytes: 12288 * MIB,
        free_bytes: 11000 * MIB,
        temperature_c: Some(41),
        utilization_percent: Some(3),
        driver: devices::Driver::Nvml,
        lost: false,
        shares_memory: false,
        used_by: BTreeMap::new(),
        knows_users: true,
    };
    assert_eq!(gpus[0], expected);
    assert_eq!((ids(&gpus), gpus[1].uuid.as_deref()), (vec!["gpu0".into(), "gpu1".into()], Some("GPU-b")));
}

#[test]
fn eight_gpus_are_eight_devices() {
    let conf: String = (0..8)
        .map(|n| format!("gpu 00000000:{:02X}:00.0 GPU-{n} 81920 81000 H100\n", 0x90 - n * 16))
        .collect();
    let gpus = Machine::bare().nvml(&Nvml::new(&conf)).gpus();
    let uuids: Vec<_> = gpus.iter().map(|gpu| gpu.uuid.as_deref().unwrap()).collect();
    assert_eq!(uuids, ["GPU-7", "GPU-6", "GPU-5", "GPU-4", "GPU-3", "GPU-2", "GPU-1", "GPU-0"]);
    assert_eq!(gpus[7].device, Device::Gpu(7));
}

#[test]
fn a_lost_gpu_stays_listed_and_keeps_its_number() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).start();
    assert_eq!(lost(&watched.devices.look().gpus), [false, false]);

    let a = "gpu 00000000:01:00.0 GPU-a 12288 11000 NVIDIA GeForce RTX 3060\n";
    let b = "gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";
    for sick in [format!("{a}lost\n{b}"), format!("{a}gone\n{b}"), b.to_owned()] {
        nvml.set(&sick);
        let gpus = watched.next().gpus.clone();
        assert_eq!(
            (ids(&gpus), lost(&gpus)),
            (vec!["gpu0".into(), "gpu1".into()], vec![true, false]),
            "{sick}"
        );
        assert_eq!(
            (gpus[0].uuid.as_deref(), gpus[0].total_bytes, gpus[0].free_bytes),
            (Some("GPU-a"), 12288 * MIB, 0)
        );
    }
    // Another card in the place of the lost one is another device, and comes last.
    nvml.set(&format!(
        "{b}gpu 00000000:01:00.0 GPU-c 8192 8000 NVIDIA T4\ngpu 00000000:00:1E.0 GPU-d 8192 8000 NVIDIA T4\n"
    ));
    let gpus = watched.next().gpus.clone();
    let names: BTreeMap<_, _> =
        gpus.iter().map(|gpu| (gpu.device.to_string(), (gpu.uuid.as_deref().unwrap(), gpu.lost))).collect();
    let expected = [
        ("gpu0", ("GPU-a", true)),
        ("gpu1", ("GPU-b", false)),
        ("gpu2", ("GPU-d", false)),
        ("gpu3", ("GPU-c", false)),
    ];
    assert_eq!(names, expected.map(|(id, gpu)| (id.to_owned(), gpu)).into());
    // It comes back: the library is opened again, and finds it.
    nvml.set(TWO);
    let gpus = watched.next().gpus.clone();
    assert_eq!(
        lost(&gpus.iter().filter(|gpu| gpu.device <= Device::Gpu(1)).cloned().collect::<Vec<_>>()),
        [false, false]
    );
}

#[test]
fn a_gpu_that_is_lost_at_first_sight_is_listed_as_lost() {
    let nvml = Nvml::new(&TWO.replace("3090\n", "3090\nlost\n"));
    let gpus = Machine::bare().nvml(&nvml).gpus();
    assert_eq!((ids(&gpus), lost(&gpus)), (vec!["gpu0".into(), "gpu1".into()], vec![false, true]));
    assert_eq!((gpus[1].total_bytes, gpus[1].uuid.as_deref()), (0, Some("GPU-b")));
}

#[test]
fn mig_instances_take_the_place_of_their_gpu() {
    let parts =
        "mig\ninstance 1 MIG-1 20000 19000\ninstance 1 MIG-1b 20000 19000\ninstance 2 MIG-2 10000 500\n";
    let nvml = Nvml::new(&format!("{TWO}{parts}"));
    let watched = Machine::bare().nvml(&nvml).start();
    let gpus = watched.devices.look().gpus.clone();
    assert_eq!(ids(&gpus), ["gpu0:1", "gpu0:2", "gpu1"]);
    let part = &gpus[1];
    assert_eq!(
        (part.uuid.as_deref(), part.total_bytes, part.free_bytes),
        (Some("MIG-2"), 10000 * MIB, 500 * MIB)
    );
    // They are no longer there because the mode was left: nothing is lost.
    nvml.set(TWO);
    let gpus = watched.next().gpus.clone();
    assert_eq!((ids(&gpus), lost(&gpus)), (vec!["gpu0".into(), "gpu1".into()], vec![false, false]));
}

#[test]
fn what_workers_hold_is_told_apart_from_what_others_hold() {
    let worker = Worker::start();
    let (pid, me) = (worker.0.id(), std::process::id());
    let conf = format!("gpu 00000000:01:00.0 GPU-a 24576 3000 RTX\nprocess {me} 20000\nprocess {pid} 1000\n");
    let nvml = Nvml::new(&conf);
    let watched = Machine::bare().nvml(&nvml).workers(&[pid]).start();
    let picture = watched.devices.look();
    assert_eq!(picture.gpus[0].used_by, BTreeMap::from([(Pgid(pid), 1000 * MIB)]));
    assert!(picture.gpus[0].knows_users);
    let memory = picture.cpu.used_by[&Pgid(pid)];
    assert!((1..64 * MIB).contains(&memory), "{memory}");
}

#[test]
fn a_foreign_process_that_can_be_seen_from_here_hides_nobody() {
    let worker = Worker::start();
    let conf = format!("gpu 00000000:01:00.0 GPU-a 24576 4000 RTX\nprocess {} 20480\n", std::process::id());
    let gpus = Machine::bare().nvml(&Nvml::new(&conf)).workers(&[worker.0.id()]).gpus();
    assert_eq!((gpus[0].free_bytes, gpus[0].knows_users, gpus[0].used_by.len()), (4000 * MIB, true, 0));
}

#[test]
fn process_ids_of_another_namespace_are_not_believed() {
    let worker = Worker::start();
    let gpu = "gpu 00000000:01:00.0 GPU-a 24576";
    let far = u32::MAX; // no process here has this number
    for (conf, knows) in [
        (format!("{gpu} 4000 RTX\nprocess {far} 20480\n"), false),
        (format!("{gpu} 4000 RTX\n"), false),
        (format!("{gpu} 24000 RTX\n"), true),
        (format!("{gpu} 4000 RTX\nprocess {} -1\n", worker.0.id()), false),
    ] {
        let nvml = Nvml::new(&conf);
        assert_eq!(
            Machine::bare().nvml(&nvml).workers(&[worker.0.id()]).gpus()[0].knows_users,
            knows,
            "{conf}"
        );
        assert!(
            Machine::bare().nvml(&nvml).gpus()[0].knows_users,
            "without workers there is nothing to know: {conf}"
        );
    }
}

#[test]
fn memory_that_is_the_processors_is_said_to_be() {
    let nvml = Nvml::new("gpu 0000000F:01:00.0 GPU-g 0 0 NVIDIA GB10\nshared\n");
    let watched = Machine::bare().nvml(&nvml).start();
    let picture = watched.devices.look();
    let gpu = &picture.gpus[0];
    assert!(gpu.shares_memory && !gpu.lost);
    assert_eq!((gpu.total_bytes, gpu.free_bytes), (picture.cpu.total_bytes, picture.cpu.available_bytes));
}

#[test]
fn two_hundred_who_ask_at_once_cost_one_probe() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).start();
    let first = watched.devices.look();
    let asked = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| assert_eq!(watched.devices.look().gpus.len(), 2));
        }
    });
    // On a machine that is busy for longer than a second, one for each second.
    let seconds = asked.duration_since(first.taken_at) + asked.elapsed();
    let allowed = 1 + seconds.as_secs() as usize;
    assert!((1..=allowed).contains(&nvml.looks().len()), "{:?} in {seconds:?}", nvml.looks());
}

#[test]
fn many_wishes_for_a_newer_picture_are_followed_five_times_a_second() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).start();
    let begun = watched.devices.look().taken_at;
    for _ in 0..1000 {
        watched.devices.refresh();
    }
    let wished = Instant::now();
    let picture = watched.until(|picture| picture.taken_at >= begun + limits::DEVICES_REFRESH);
    let at_most = 2 + wished.duration_since(begun).as_millis() / limits::DEVICES_REFRESH.as_millis();
    assert!(nvml.looks().len() as u128 <= at_most + 1, "{:?}", nvml.looks());
    assert!(picture.taken_at > begun);
}

#[test]
fn a_driver_that_hangs_leaves_the_last_picture_and_no_process() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).start();
    let seen = watched.devices.look();
    nvml.set(&format!("hang\n{TWO}"));
    let picture = watched.until(|picture| picture.gpus_taken_at < picture.taken_at);
    assert_eq!((&picture.gpus, picture.gpus_taken_at), (&seen.gpus, seen.gpus_taken_at));
    assert!(picture.stale_for(Instant::now()).is_some_and(|age| age > limits::DEVICES_STALE_AFTER));
    let wire = devices::wire(&picture, &BTreeSet::new(), |_| 0, 0, 0, None, Instant::now());
    assert!(wire.stale && wire.age_s >= Some(2) && wire.gpus.len() == 2);
    // Nobody waits for it any more, and memory is still looked at.
    let later = watched.until(|later| later.taken_at > picture.taken_at);
    assert_eq!(later.gpus_taken_at, seen.gpus_taken_at);

    // It answers again: a new child is asked.
    nvml.set(TWO);
    let well = watched.until(|picture| picture.gpus_taken_at == picture.taken_at);
    assert_eq!(well.stale_for(Instant::now()), None);

    // The end does not wait for a driver that hangs.
    nvml.set(&format!("hang\n{TWO}"));
    let looks = nvml.looks().len();
    watched.devices.refresh();
    wait_until("the driver hangs", || nvml.looks().len() > looks);
    drop(watched);
    assert!(nvml.looks().iter().all(|pid| !exists(*pid)));
}

#[test]
fn a_probe_ends_with_its_hive_though_its_driver_hangs() {
    let nvml = Nvml::new(&format!("hang\n{TWO}"));
    let mut probe = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    probe.arg("probe-gpus").arg(nvml.library()).args(["/nowhere/nvidia-smi", "/nowhere"]).process_group(0);
    let mut probe = probe.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = probe.stdin.take().unwrap();
    stdin.write_all(b"look\n").unwrap();
    wait_until("the driver hangs", || !nvml.looks().is_empty());
    // As the kernel does for a hive that is killed.
    drop(stdin);
    wait_until("it has ended", || probe.try_wait().unwrap().is_some());
}

#[test]
fn a_driver_that_crashes_takes_only_the_probe_along() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).start();
    let seen = watched.devices.look();
    nvml.set(&format!("crash\n{TWO}"));
    let picture = watched.until(|picture| picture.gpus_taken_at < picture.taken_at);
    assert_eq!(picture.gpus, seen.gpus);
    nvml.set(TWO);
    watched.until(|picture| picture.gpus_taken_at > seen.gpus_taken_at);
    let children: BTreeSet<u32> = nvml.looks().into_iter().collect();
    assert!(children.len() >= 2, "a new child was started");
    drop(watched);
    assert!(!children.into_iter().any(exists));
}

#[test]
fn a_driver_that_crashes_at_first_sight_is_no_reason_to_wait() {
    let nvml = Nvml::new("crash\n");
    let watched = Machine::bare().nvml(&nvml).start();
    let picture = watched.devices.look();
    assert!(picture.gpus.is_empty() && picture.gpus_taken_at < picture.taken_at);
}

#[test]
fn cards_whose_driver_breaks_are_as_they_were_and_not_lost() {
    let nvml = Nvml::new(TWO);
    let watched = Machine::bare().nvml(&nvml).sysfs("amd").start();
    let seen = watched.devices.look();
    // A card is lost so that the library is opened again, and it is of another version than the driver.
    nvml.set(&TWO.replace("3090\n", "3090\nlost\n"));
    watched.next();
    nvml.set("init 18\n");
    let picture = watched.until(|picture| picture.gpus_taken_at < picture.taken_at);
    assert_eq!((ids(&picture.gpus), lost(&picture.gpus)), (ids(&seen.gpus), vec![false, false, true, false]));
}

#[test]
fn a_driver_that_never_worked_does_not_hide_another_makers_cards() {
    let nvml = Nvml::new("init 18\n");
    let watched = Machine::bare().nvml(&nvml).sysfs("amd").start();
    let picture = watched.devices.look();
    assert_eq!((picture.gpus.len(), picture.gpus_taken_at), (2, picture.taken_at));
    let picture = Machine::bare().nvml(&nvml).start().devices.look();
    assert!(picture.gpus.is_empty() && picture.gpus_taken_at < picture.taken_at);
}

#[test]
fn without_a_driver_no_child_is_kept() {
    let watched = Machine::bare().start();
    let picture = watched.devices.look();
    assert_eq!((picture.gpus.len(), picture.stale_for(Instant::now() + Duration::from_secs(60))), (0, None));
    assert!(picture.cpu.cores >= 1);
    let is_probe = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*watched._machine.config.nvml.to_string_lossy())
    };
    let pids =
        || std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    wait_until("the child has ended", || !pids().any(is_probe));
    // And none is started for the next look.
    assert!(watched.next().gpus.is_empty() && !pids().any(is_probe));
}

#[test]
fn without_the_library_the_command_is_asked() {
    let worker = Worker::start();
    let pid = worker.0.id();
    let script = format!(
        "case $1 in\n--query-gpu=*) cat $PRINTED/two.csv;;\n\
         --query-compute-apps=*) sed s/PID/{pid}/ $PRINTED/two.users.csv;;\n*) exit 2;;\nesac\n"
    );
    let gpus = Machine::bare().nvidia_smi(&script).workers(&[pid]).gpus();
    let (first, second) = (&gpus[0], &gpus[1]);
    assert_eq!((first.device, first.name.as_str()), (Device::Gpu(0), "NVIDIA GeForce RTX 3060"));
    assert_eq!((first.total_bytes, first.free_bytes), (12288 * MIB, 2000 * MIB));
    assert_eq!((first.temperature_c, first.utilization_percent), (Some(61), Some(97)));
    assert_eq!(
        (first.driver, first.used_by.clone()),
        (devices::Driver::NvidiaSmi, [(Pgid(pid), 9000 * MIB)].into())
    );
    assert!(first.knows_users && second.used_by.is_empty() && second.free_bytes == 24000 * MIB);
}

/// A command that prints a fixture, and names nobody who uses the cards.
fn prints(name: &str) -> String {
    format!(
        "case $1 in\n--query-gpu=*) cat $PRINTED/{name}.csv;;\n-L) cat $PRINTED/{name}.list;;\n-q) cat $PRINTED/{name}.xml;;\nesac\n"
    )
}

#[test]
fn the_command_tells_of_lost_cards_and_of_shared_memory() {
    let gpus = Machine::bare().nvidia_smi(&prints("lost")).gpus();
    assert_eq!((lost(&gpus), gpus[1].temperature_c), (vec![true, false], None));
    let watched = Machine::bare().nvidia_smi(&prints("gb10")).start();
    let picture = watched.devices.look();
    let gpu = &picture.gpus[0];
    assert!(gpu.shares_memory && !gpu.lost && gpu.total_bytes == picture.cpu.total_bytes);
}

#[test]
fn the_command_tells_of_mig_instances() {
    let gpus = Machine::bare().nvidia_smi(&prints("mig")).gpus();
    assert_eq!(ids(&gpus), ["gpu0:2", "gpu0:9"]);
    assert_eq!(gpus[0].uuid.as_deref(), Some("MIG-11111111-0000-0000-0000-000000000000"));
    assert_eq!(gpus[0].name, "NVIDIA A100-SXM4-40GB MIG 3g.20gb");
    assert_eq!((gpus[1].total_bytes, gpus[1].free_bytes), (4864 * MIB, 4852 * MIB));
}

#[test]
fn a_command_that_hangs_or_floods_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    for misdeed in ["exec sleep 600", "exec yes"] {
        let script = format!("echo $$ >> {}\n{misdeed}\n", pids.display());
        let watched = Machine::bare().nvidia_smi(&script).start();
        assert!(watched.devices.look().gpus.is_empty(), "{misdeed}");
        drop(watched);
    }
    let pids = std::fs::read_to_string(pids).unwrap();
    assert!(pids.lines().count() >= 2);
    wait_until("the commands are dead", || {
        pids.lines().all(|pid| {
            // Who inherited them may not have reaped them yet.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        })
    });
}

#[test]
fn a_command_without_a_driver_is_no_gpu() {
    let watched = Machine::bare().nvidia_smi("echo NVIDIA-SMI has failed; exit 9\n").start();
    let picture = watched.devices.look();
    assert_eq!((picture.gpus.len(), picture.gpus_taken_at), (0, picture.taken_at));
}

#[test]
fn cards_of_amd_are_read_from_sysfs() {
    let watched = Machine::bare().sysfs("amd").start();
    let picture = watched.devices.look();
    let (card, part) = (&picture.gpus[0], &picture.gpus[1]);
    assert_eq!(
        (picture.gpus.len(), card.device, card.name.as_str()),
        (2, Device::Gpu(0), "AMD Radeon RX 7900 XTX")
    );
    assert_eq!((card.total_bytes, card.free_bytes), (25_753_026_560, 24_000_000_000));
    assert_eq!((card.temperature_c, card.utilization_percent), (Some(54), Some(12)));
    assert_eq!(
        (card.uuid.as_deref(), card.backend),
        (Some("GPU-e0a3f7b1c2d3e4f5"), rbee_hive::id::Backend::Rocm)
    );
    assert!(!card.shares_memory && card.driver == devices::Driver::Sysfs);
    // A part of the processor: its memory, and what it may borrow of the processor's.
    assert_eq!((part.name.as_str(), part.total_bytes), ("AMD GPU 1900", 536_870_912 + 8_589_934_592));
    assert!(part.shares_memory && part.free_bytes <= 8_600_000_000);
}

#[test]
fn cards_of_both_makers_are_numbered_together() {
    let nvml = Nvml::new(TWO);
    let gpus = Machine::bare().nvml(&nvml).sysfs("amd").gpus();
    let all: Vec<_> = gpus.iter().map(|gpu| (gpu.device.to_string(), gpu.driver.as_str())).collect();
    let expected = [("gpu0", "nvml"), ("gpu1", "sysfs"), ("gpu2", "nvml"), ("gpu3", "sysfs")];
    assert_eq!(all, expected.map(|(id, driver)| (id.to_owned(), driver)));
}

#[test]
fn a_limit_is_seen_wherever_it_stands() {
    const GIB: u64 = 1 << 30;
    for (name, cores, total, available) in [
        ("container-v2", 2, 4 * GIB, 3328 * MIB),
        ("container-v1", 2, 4 * GIB, 3328 * MIB),
        ("unit", 1, 8 * GIB, 5 * GIB),
    ] {
        let picture = Machine::bare().procfs(name).sysfs(name).start().devices.look();
        let cpu = &picture.cpu;
        assert_eq!((cpu.cores, cpu.total_bytes, cpu.available_bytes), (cores, total, available), "{name}");
    }
}

/// `rbee-hive devices` with these arguments, on a machine with a stub of NVIDIA's library and nothing else.
fn command(nvml: &Nvml, args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_rbee-hive"))
        .arg("devices")
        .args(args)
        .env("RBEE_HIVE_NVML_LIBRARY", nvml.library())
        .env("RBEE_HIVE_NVIDIA_SMI", "/nowhere/nvidia-smi")
        .env("RBEE_HIVE_SYSFS", fixture("container-v2").join("sys"))
        .env("RBEE_HIVE_PROCFS", fixture("container-v2").join("proc"))
        .env("HF_HUB_CACHE", fixture("no-models"))
        .output()
        .unwrap()
}

#[test]
fn a_command_shows_this_machine_without_a_hive() {
    let nvml = Nvml::new(TWO);
    let shown = command(&nvml, &["--local"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && shown.stderr.is_empty(), "{text}");
    for line in [
        "cpu     2 cores            4.0 GiB   3.2 GiB  [##........]     -     -",
        "gpu0    GeForce RTX 3060  12.0 GiB  10.7 GiB  [#.........]  41 C    3%  nvml",
        "gpu1    GeForce RTX 3090  24.0 GiB  23.4 GiB  [..........]  41 C    3%  nvml",
    ] {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(text.lines().any(|shown| words(shown) == words(line)), "{line}\n{text}");
    }
    let shown = command(&nvml, &["--local", "--json"]);
    let devices: rbee_hive::api::Devices = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((devices.cpu.cores, devices.cpu.ram_gb, devices.gpus.len()), (2, 4, 2));
    assert!(!nvml.looks().into_iter().any(exists), "no probe is left");
}

#[test]
fn a_command_says_where_it_found_no_hive() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let shown = command(&Nvml::new(TWO), &["--url", &url]);
    let expected = format!(
        "error: no hive answers at {url}\n\
         hint: is it running? `rbee-hive serve` starts one; --url or RBEE_HIVE_URL says where it is\n"
    );
    assert_eq!((shown.status.code(), String::from_utf8(shown.stderr).unwrap()), (Some(1), expected));
}

/// Waits for something outside that tells nobody when it happens.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
