//! What is looked at, one by one. Nothing here changes anything.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rustix::fs::Access;
use ureq::{Agent, Proxy};

use super::Finding;
use crate::cli::table::{gib, span};
use crate::client::{ClientError, HiveClient};
use crate::config::Config;
use crate::devices::{self, Picture};
use crate::id::Backend;
use crate::kinds::find_program;
use crate::limits::{DISK_NEARLY_FULL_BYTES, DISK_NEARLY_FULL_PERCENT, DOCTOR_WAIT};
use crate::process::lock::LockWatch;
use crate::sys;

/// All of them, in the order in which a hive would meet with them.
pub(super) fn all(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("settings", format!("hive {} at {}", config.hive_id, config.bind))];
    let (hive, is_there) = hive(config);
    findings.push(hive);
    findings.push(data_dir(&config.data_dir));
    findings.push(model_dir(&config.model_dir));
    findings.extend(disks(config));
    findings.extend(tokens(config));
    findings.extend(ports(config, is_there));
    findings.extend(devices(config));
    findings.push(kinds(config));
    findings.extend(limits());
    findings.extend(queen(config));
    findings.push(hub(config));
    findings
}

/// Whether one runs here already.
fn hive(config: &Config) -> (Finding, bool) {
    let is_held = LockWatch::open(&config.data_dir).is_ok_and(|lock| lock.is_held());
    let client = HiveClient::new(&format!("http://{}", reachable(config.bind)));
    match client.and_then(|client| client.with_timeout(DOCTOR_WAIT).health()) {
        Ok(health) => {
            let version = format!("one runs, version {}", health.version);
            let finding = match health.reasons.first() {
                None => Finding::ok("hive", version),
                Some(reason) => {
                    let what = format!("{version}, and says: {}", reason.message);
                    Finding::warning("hive", what, "`rbee-hive status` tells more")
                }
            };
            (finding, true)
        }
        Err(ClientError::Unreachable(_)) if is_held => {
            let what = format!("one runs on this data directory, but not at {}", config.bind);
            let hint = "tell the commands where it is with --url or RBEE_HIVE_URL";
            (Finding::warning("hive", what, hint), true)
        }
        Err(ClientError::Unreachable(_)) => (Finding::ok("hive", "none runs yet"), false),
        Err(error) => {
            let what = format!("{} is taken by somebody else: {error}", config.bind);
            let hint = "choose another --bind, or end that program (`ss -ltnp` tells which it is)";
            (Finding::failure("hive", what, hint), false)
        }
    }
}

/// Where a hive that listens there is reached from its own machine.
fn reachable(bind: SocketAddr) -> SocketAddr {
    match bind.ip() {
        ip if !ip.is_unspecified() => bind,
        ip if ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], bind.port())),
        _ => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, bind.port())),
    }
}

/// Whether this user may write in `dir`, or make it.
fn is_writable(dir: &Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.exists());
    there.is_some_and(|dir| rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

fn data_dir(dir: &Path) -> Finding {
    let name = dir.display();
    if !is_writable(dir) {
        let hint = "give it to this user (chown), or choose another --data-dir";
        return Finding::failure("data", format!("{name} cannot be written by this user"), hint);
    }
    match fs::metadata(dir) {
        Ok(is) if is.permissions().mode() & 0o022 != 0 => Finding::warning(
            "data",
            format!("{name} can be written by others, who can then have the hive run what they like"),
            format!("chmod go-w {name}"),
        ),
        Ok(is) if is.uid() != rustix::process::geteuid().as_raw() => Finding::warning(
            "data",
            format!("{name} belongs to another user"),
            "run the hive always as the same user",
        ),
        Ok(_) => Finding::ok("data", format!("{name} can be written")),
        Err(_) => Finding::ok("data", format!("{name} will be made")),
    }
}

fn model_dir(dir: &Path) -> Finding {
    let name = dir.display();
    match is_writable(dir) {
        true => Finding::ok("models", format!("{name} can be written")),
        false => Finding::warning(
            "models",
            format!("{name} cannot be written: models that are not there cannot be fetched"),
            "give it to this user, or choose another --model-dir",
        ),
    }
}

fn disks(config: &Config) -> Vec<Finding> {
    let look = |dir: &Path, what: &str| {
        let disk = devices::disk(dir)?;
        let (free, total) = (disk.available_bytes, disk.total_bytes);
        let is_low = free < DISK_NEARLY_FULL_BYTES.min(total / 100 * DISK_NEARLY_FULL_PERCENT);
        let said = format!("{} of {} are free for {what}", gib(free), gib(total));
        Some(match is_low {
            true => {
                Finding::failure("disk", said, "make room: `rbee-hive models` lists, `rbee-hive rm` deletes")
            }
            false => Finding::ok("disk", said),
        })
    };
    let device = |dir: &Path| dir.ancestors().find_map(|dir| fs::metadata(dir).ok()).map(|is| is.dev());
    if device(&config.data_dir) == device(&config.model_dir) {
        return look(&config.model_dir, "models and logs").into_iter().collect();
    }
    look(&config.model_dir, "models").into_iter().chain(look(&config.data_dir, "logs and kinds")).collect()
}

fn tokens(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match (&config.token, config.bind.ip().to_canonical().is_loopback()) {
        (None, _) => {
            findings.push(Finding::ok("token", "none: open to every user of this machine, and to no other"))
        }
        (Some(_), true) => findings.push(Finding::ok("token", "set")),
        (Some(_), false) => {
            findings.push(Finding::ok("token", "set; the API is for whoever reaches this machine"))
        }
    }
    if let Some(file) = &config.sources.token_file
        && fs::metadata(file).is_ok_and(|is| is.permissions().mode() & 0o007 != 0)
    {
        let name = file.display();
        let what = format!("{name} is open to every user");
        findings.push(Finding::warning("token", what, format!("chmod o= {name}")));
    }
    findings
}

/// Ports of a range that are tried at most.
const TRIED: usize = 256;

/// `is_there`: a hive runs, and its workers may have them.
fn ports(config: &Config, is_there: bool) -> Vec<Finding> {
    let range = &config.worker_ports;
    let (first, last) = (range.start(), range.end());
    let is_free = |port: &u16| TcpListener::bind((config.worker_host.as_str(), *port)).is_ok();
    let tried: Vec<u16> = range.clone().take(TRIED).collect();
    let free = tried.iter().filter(|port| is_free(port)).count();
    let mut findings = vec![match free {
        0 if is_there => {
            Finding::ok("ports", format!("all of {first}-{last} are taken, as far as they were tried"))
        }
        0 => Finding::failure(
            "ports",
            format!("no port of {first}-{last} can be bound on {}", config.worker_host),
            "choose others with --worker-ports, or check --worker-host",
        ),
        _ => {
            Finding::ok("ports", format!("{free} of {} worker ports ({first}-{last}) are free", tried.len()))
        }
    }];
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = ephemeral.split_ascii_whitespace().filter_map(|text| text.parse::<u16>().ok());
    if let (Some(low), Some(high)) = (bounds.next(), bounds.next())
        && low <= *last
        && *first <= high
    {
        let what =
            format!("worker ports {first}-{last} overlap with {low}-{high}, which outgoing connections take");
        findings.push(Finding::warning("ports", what, format!("choose --worker-ports below {low}")));
    }
    findings
}

fn devices(config: &Config) -> Vec<Finding> {
    let picture = sys::close_inherited_on_exec()
        .and_then(|()| devices::start(config.probe.clone(), Vec::new, |_| {}))
        .map(|(_thread, devices)| devices.look());
    match picture {
        Ok(picture) => seen(&picture),
        Err(error) => {
            vec![Finding::failure(
                "devices",
                format!("this machine cannot be looked at: {error}"),
                "is /proc mounted?",
            )]
        }
    }
}

fn seen(picture: &Picture) -> Vec<Finding> {
    let cpu = &picture.cpu;
    let mut findings = vec![Finding::ok(
        "memory",
        format!("{} of {} are free, {} cores", gib(cpu.available_bytes), gib(cpu.total_bytes), cpu.cores),
    )];
    for gpu in &picture.gpus {
        findings.push(match gpu.lost {
            true => Finding::failure(
                "gpu",
                format!("{} is lost: its driver does not answer for it", gpu.device),
                "`dmesg | grep -i xid` tells why; mostly only a restart of the machine helps",
            ),
            false => Finding::ok("gpu", format!("{} {}, by {}", gpu.device, gpu.name, gpu.driver.as_str())),
        });
    }
    for (vendor, name, backend, nodes, hint) in CARDS {
        let cards = cards_of(vendor);
        let found = picture.gpus.iter().any(|gpu| gpu.backend == backend);
        if cards == 0 {
            continue;
        }
        let closed: Vec<&str> =
            nodes.iter().copied().filter(|node| Path::new(node).exists() && !is_open(node)).collect();
        if let Some(node) = closed.first() {
            let what = format!("{node} cannot be opened by this user");
            findings.push(Finding::failure("gpu", what, "add the user to the groups video and render"));
        } else if !found {
            findings.push(Finding::failure(
                "driver",
                format!("{cards} {name} card(s) that no driver answers for"),
                hint,
            ));
        }
    }
    if picture.gpus.is_empty() && CARDS.iter().all(|(vendor, ..)| cards_of(vendor) == 0) {
        findings.push(Finding::ok("gpu", "there is none: workers run on the processor"));
    }
    findings
}

/// PCI vendors, with their names, what computes on their cards, what is to be opened for that, and what to do where no
/// driver answers.
const CARDS: [(&str, &str, Backend, &[&str], &str); 2] = [
    (
        "0x10de",
        "NVIDIA",
        Backend::Cuda,
        &["/dev/nvidiactl", "/dev/nvidia0"],
        "`nvidia-smi` must work: install NVIDIA's driver with libnvidia-ml.so.1; in a container, run it with GPUs",
    ),
    (
        "0x1002",
        "AMD",
        Backend::Rocm,
        &["/dev/kfd"],
        "load the amdgpu module; in a container, pass /dev/kfd and /dev/dri",
    ),
];

/// Display controllers (PCI class 03) of a vendor.
fn cards_of(vendor: &str) -> usize {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let says = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let is_card = |dir: &Path| says(dir, "vendor").trim() == vendor && says(dir, "class").starts_with("0x03");
    devices.filter(|device| is_card(&device.path())).count()
}

fn is_open(node: &str) -> bool {
    rustix::fs::access(node, Access::READ_OK | Access::WRITE_OK).is_ok()
}

fn kinds(config: &Config) -> Finding {
    let found: Vec<&str> = config
        .kinds
        .iter()
        .filter(|entry| find_program(&entry.kind).is_some())
        .map(|entry| entry.kind.name.as_str())
        .collect();
    match found.is_empty() {
        false => Finding::ok("kinds", format!("{} can be launched", found.join(", "))),
        true => Finding::warning(
            "kinds",
            "no engine is on PATH or named by --worker",
            "install llama-server, name it with --worker, or give --artifact-url for `rbee-hive provision`",
        ),
    }
}

/// Descriptors below which a hive with many connections and workers is short of them.
const DESCRIPTORS: u64 = 4096;
/// Processes below which engines of many threads are not started.
const TASKS: u64 = 4096;

fn limits() -> Vec<Finding> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let mut findings = vec![match descriptors.is_some_and(|most| most < DESCRIPTORS) {
        true => Finding::warning(
            "limits",
            format!("at most {} open files: fewer connections", descriptors.unwrap_or_default()),
            "raise it: `ulimit -n`, or LimitNOFILE= in the unit",
        ),
        false => Finding::ok("limits", "enough open files"),
    }];
    if let Some(most) = devices::tasks_max().filter(|most| *most < TASKS) {
        let what = format!("a cgroup allows {most} processes and threads: engines start hundreds");
        findings.push(Finding::warning(
            "limits",
            what,
            "raise it: TasksMax= in the unit, --pids-limit of a container",
        ));
    }
    findings
}

/// Seconds by which clocks may differ before times in logs mislead.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

fn queen(config: &Config) -> Vec<Finding> {
    let Some(queen) = &config.queen else {
        return vec![Finding::ok("queen", "none is set"), clock(None)];
    };
    match get(&queen.url) {
        Ok(date) => vec![Finding::ok("queen", "she answers"), clock(date)],
        Err(error) => {
            let hint = "check --queen-url, the network between, and that she runs";
            vec![Finding::warning("queen", format!("she does not answer: {error}"), hint), clock(None)]
        }
    }
}

/// Compares with what a server says, to the second.
fn clock(theirs: Option<Timestamp>) -> Finding {
    let now = Timestamp::now();
    let Some(theirs) = theirs else {
        return Finding::ok("clock", format!("{now:.0}; there is nobody to compare it with"));
    };
    let apart = Duration::try_from((now - theirs).abs()).unwrap_or_default();
    match apart > CLOCKS_DIFFER {
        true => Finding::warning(
            "clock",
            format!("this machine's and the queen's are {} apart", span(apart)),
            "let both be set by NTP (`timedatectl set-ntp true`)",
        ),
        false => Finding::ok("clock", "it agrees with the queen's"),
    }
}

fn hub(config: &Config) -> Finding {
    let Some(address) = config.hub.address() else {
        return Finding::ok("hub", "not asked: HF_HUB_OFFLINE is set");
    };
    match get(&address) {
        Ok(_) => Finding::ok("hub", format!("{address} answers")),
        Err(error) => Finding::warning(
            "hub",
            format!("{address} does not answer: {error}"),
            "models that are not here cannot be fetched; check HTTPS_PROXY and HF_ENDPOINT",
        ),
    }
}

/// Asks, and gives the `Date` of whatever is answered.
fn get(url: &str) -> Result<Option<Timestamp>, String> {
    // As the relay does: what is plain HTTP is a neighbour.
    let proxy = url.starts_with("https:").then(Proxy::try_from_env).flatten();
    let config =
        Agent::config_builder().http_status_as_error(false).timeout_global(Some(DOCTOR_WAIT)).proxy(proxy);
    let agent: Agent = config.max_redirects(0).max_redirects_will_error(false).build().into();
    let answer = agent.get(url).call().map_err(|error| match error {
        ureq::Error::Io(error) => error.kind().to_string(),
        ureq::Error::Timeout(_) => io::ErrorKind::TimedOut.to_string(),
        other => other.to_string(),
    })?;
    let status = answer.status();
    if status.is_server_error() || status.as_u16() == 407 {
        return Err(format!("status {status}"));
    }
    let date = answer.headers().get("Date").and_then(|date| date.to_str().ok());
    Ok(date.and_then(|date| rfc2822::parse(date).ok()).map(|zoned| zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        let asked = |bind: &str| reachable(bind.parse().unwrap()).to_string();
        assert_eq!(
            ["0.0.0.0:8600", "[::]:1", "10.0.0.1:2"].map(asked),
            ["127.0.0.1:8600", "[::1]:1", "10.0.0.1:2"]
        );
    }

    #[test]
    fn a_clock_that_is_wrong_is_seen() {
        let ahead = Timestamp::now() + Duration::from_secs(3600);
        assert!(clock(Some(ahead)).message.contains("apart"));
        assert_eq!(clock(Some(Timestamp::now())).hint, None);
    }

    #[test]
    fn a_folder_for_others_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(data_dir(folder.path()).hint, None);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(data_dir(folder.path()).hint.is_some_and(|hint| hint.starts_with("chmod go-w")));
        assert_eq!(data_dir(&folder.path().join("not/yet")).verdict, super::super::Verdict::Ok);
    }
}
