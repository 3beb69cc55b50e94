//! NVIDIA's command: for static binaries, which cannot load the library, and where the library is missing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::Driver;
use super::probe::{Bus, Card, Failed, Instance, Memory, Probe, User, drain};
use crate::id::Backend;
use crate::limits;
use crate::sys::timespec;

const MIB: u64 = 1 << 20;

const CARDS: &str = "--query-gpu=pci.bus_id,uuid,memory.total,memory.free,temperature.gpu,utilization.gpu,\
                     mig.mode.current,name";
const USERS: &str = "--query-compute-apps=gpu_uuid,pid,used_memory";
const FORMAT: &str = "--format=csv,noheader,nounits";

/// Runs the command: twice a look, and twice more where a card is in MIG mode.
#[derive(Debug)]
pub(super) struct SmiProbe {
    program: PathBuf,
    /// A run that was killed and is not dead yet.
    killed: Option<Child>,
}

impl SmiProbe {
    pub fn new(program: PathBuf) -> Self {
        Self { program, killed: None }
    }

    /// What the command prints, and how it ends, if it does before `until`.
    fn run(&mut self, args: &[&str], until: Instant) -> Result<(String, ExitStatus), Failed> {
        if let Some(killed) = &mut self.killed
            && matches!(killed.try_wait(), Ok(None))
        {
            return Err(Failed::broken("an earlier run hangs in the kernel"));
        }
        self.killed = None;
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Failed::absent(e),
            _ => Failed::broken(e),
        })?;
        match output(&mut child, until) {
            Ok(done) => Ok(done),
            Err(e) => {
                // An error says that it is dead already.
                let _ = child.kill();
                self.killed = Some(child);
                Err(Failed::broken(e))
            }
        }
    }
}

impl Probe for SmiProbe {
    type Facts = Vec<Card>;

    fn name(&self) -> &'static str {
        "nvidia-smi"
    }

    fn look(&mut self) -> Result<Vec<Card>, Failed> {
        let until = Instant::now() + limits::NVIDIA_SMI_TIMEOUT;
        // Who uses them is read before what is free.
        let users = match self.run(&[USERS, FORMAT], until) {
            Ok((text, status)) => status.success().then(|| users(&text)),
            Err(failed) => return Err(failed),
        };
        let (text, status) = self.run(&[CARDS, FORMAT], until)?;
        let mut cards = cards(&text, users.as_ref());
        if cards.is_empty() && !status.success() {
            return match status.code() {
                // NVML's codes: the driver is not loaded; its library is not found.
                Some(9 | 12) => Err(Failed::absent(status)),
                // No device is found.
                Some(6) => Ok(cards),
                _ => Err(Failed::broken(status)),
            };
        }
        if cards.iter().any(|card| card.instances.is_some()) {
            let (names, _) = self.run(&["-L"], until)?;
            let (figures, _) = self.run(&["-q", "-x"], until)?;
            instances(&mut cards, &names, &figures);
        }
        Ok(cards)
    }
}

/// All that it prints until it has ended, and its status.
fn output(child: &mut Child, until: Instant) -> io::Result<(String, ExitStatus)> {
    let mut stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    rustix::fs::fcntl_setfl(&stdout, rustix::fs::OFlags::NONBLOCK)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut text, mut open) = (Vec::new(), true);
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(open.then(|| PollFd::new(&stdout, PollFlags::IN)));
        let left = until.saturating_duration_since(Instant::now());
        match rustix::event::poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        let ended = !fds[0].revents().is_empty();
        open = open && drain(&mut stdout, &mut text, limits::NVIDIA_SMI_BYTES_MAX)?;
        if ended {
            return Ok((String::from_utf8_lossy(&text).into_owned(), child.wait()?));
        }
    }
}

/// A figure, as the command prints one without its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Is(u64),
    /// There is no such thing here: `[N/A]`, `[Not Supported]`.
    None,
    /// It cannot be told: `[Unknown Error]`, `ERR!`, `[GPU is lost]`, `[GPU requires reset]`.
    Lost,
}

impl Field {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.strip_suffix(" MiB").unwrap_or(text).parse() {
            Ok(number) => Self::Is(number),
            Err(_)
                if ["N/A", "Not Supported", "Insufficient Permissions"]
                    .iter()
                    .any(|no| text.contains(no)) =>
            {
                Self::None
            }
            Err(_) => Self::Lost,
        }
    }

    fn number(self) -> Option<u64> {
        if let Self::Is(number) = self { Some(number) } else { None }
    }

    fn mib(self) -> Option<u64> {
        self.number()?.checked_mul(MIB)
    }

    fn small(self) -> Option<u32> {
        self.number()?.try_into().ok()
    }
}

/// Processes that compute, by the card's UUID.
fn users(text: &str) -> BTreeMap<String, Vec<User>> {
    let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(", ");
        let (Some(card), Some(pid), Some(bytes)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(pid) = pid.trim().parse() else { continue };
        let users = users.entry(card.trim().to_owned()).or_default();
        if users.len() < limits::GPU_USERS_MAX {
            users.push(User { pid, bytes: Field::parse(bytes).mib() });
        }
    }
    users
}

fn cards(text: &str, users: Option<&BTreeMap<String, Vec<User>>>) -> Vec<Card> {
    text.lines().filter_map(|line| card(line, users)).take(limits::GPUS_MAX).collect()
}

fn card(line: &str, users: Option<&BTreeMap<String, Vec<User>>>) -> Option<Card> {
    let fields: Vec<&str> = line.splitn(8, ", ").map(str::trim).collect();
    let [bus, uuid, total, free, temperature, utilization, mig, name] = fields.try_into().ok()?;
    let bus: Bus = bus.parse().ok()?;
    let uuid = Some(uuid).filter(|uuid| uuid.starts_with("GPU-")).map(str::to_owned);
    let told = |text: &str| Field::parse(text).small();
    let (total, free) = (Field::parse(total), Field::parse(free));
    let memory = total.mib().zip(free.mib()).map(|(total, free)| Memory { total, free });
    let lost = total == Field::Lost || free == Field::Lost;
    let users =
        users.map(|users| uuid.as_ref().and_then(|uuid| users.get(uuid)).cloned().unwrap_or_default());
    Some(Card {
        bus,
        name: Some(name.to_owned()).filter(|name| !name.is_empty() && !name.starts_with('[')),
        uuid,
        backend: Backend::Cuda,
        driver: Driver::NvidiaSmi,
        memory,
        shares_memory: memory.is_none() && !lost,
        temperature_c: told(temperature),
        utilization_percent: told(utilization),
        lost,
        users,
        instances: (mig == "Enabled").then(Vec::new),
    })
}

/// Fills in the instances of the cards in MIG mode: names and UUIDs as `-L` lists them, the rest as `-q -x`
/// prints it.
fn instances(cards: &mut [Card], names: &str, figures: &str) {
    let names = names_of_instances(names);
    let mut rest = figures;
    while let Some((gpu, after)) = element(rest, "gpu") {
        rest = after;
        // `<gpu id="00000000:07:00.0">`
        let Some(bus) = gpu.attributes.split('"').nth(1).and_then(|bus| bus.parse::<Bus>().ok()) else {
            continue;
        };
        let Some(card) = cards.iter_mut().find(|card| card.bus == bus) else { continue };
        let Some(instances) = &mut card.instances else { continue };
        let users = users_of_instances(gpu.text);
        let mut parts = element(gpu.text, "mig_devices").map_or("", |(parts, _)| parts.text);
        while let Some((part, after)) = element(parts, "mig_device") {
            parts = after;
            let number = |name| element(part.text, name)?.0.text.trim().parse::<u16>().ok();
            let memory = element(part.text, "fb_memory_usage").and_then(|(memory, _)| {
                let mib = |name| Field::parse(element(memory.text, name)?.0.text).mib();
                Some(Memory { total: mib("total")?, free: mib("free")? })
            });
            let (Some(id), Some(memory)) = (number("gpu_instance_id"), memory) else { continue };
            // One that is divided further is named by its first part: all of these share its memory.
            if instances.iter().any(|known| known.id == id) || instances.len() >= limits::GPUS_MAX {
                continue;
            }
            let name = number("index").and_then(|index| names.get(&(card.uuid.clone()?, index)));
            instances.push(Instance {
                id,
                uuid: name.map(|(_, uuid)| uuid.clone()),
                name: name.map(|(profile, _)| {
                    let product = card.name.as_deref().unwrap_or("NVIDIA GPU");
                    format!("{product} MIG {profile}")
                }),
                memory,
                users: Some(users.get(&id).cloned().unwrap_or_default()),
            });
        }
    }
}

/// Profile and UUID of each instance, by its card's UUID and its index:
/// `GPU 0: NVIDIA A100 (UUID: GPU-…)`, `  MIG 3g.20gb     Device  0: (UUID: MIG-…)`.
fn names_of_instances(text: &str) -> BTreeMap<(String, u16), (String, String)> {
    let mut names = BTreeMap::new();
    let mut card = String::new();
    for line in text.lines() {
        let Some((_, uuid)) = line.split_once("(UUID: ") else { continue };
        let uuid = uuid.trim_end().trim_end_matches(')');
        if !line.starts_with(' ') {
            uuid.clone_into(&mut card);
            continue;
        }
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(profile), Some("Device"), Some(index)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if let Ok(index) = index.trim_end_matches(':').parse() {
            names.insert((card.clone(), index), (profile.to_owned(), uuid.to_owned()));
        }
    }
    names
}

/// Processes by the instance that they run on.
fn users_of_instances(gpu: &str) -> BTreeMap<u16, Vec<User>> {
    let mut users: BTreeMap<u16, Vec<User>> = BTreeMap::new();
    let mut processes = element(gpu, "processes").map_or("", |(processes, _)| processes.text);
    while let Some((process, after)) = element(processes, "process_info") {
        processes = after;
        let text = |name| Some(element(process.text, name)?.0.text.trim());
        let (Some(instance), Some(pid)) = (
            text("gpu_instance_id").and_then(|id| id.parse().ok()),
            text("pid").and_then(|pid| pid.parse().ok()),
        ) else {
            continue;
        };
        let users = users.entry(instance).or_default();
        if users.len() < limits::GPU_USERS_MAX {
            users.push(User { pid, bytes: text("used_memory").and_then(|bytes| Field::parse(bytes).mib()) });
        }
    }
    users
}

/// An element of the command's XML, which it prints without comments, sections or empty-element tags.
#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    attributes: &'a str,
    text: &'a str,
}

/// The first element called `name`, and what follows it.
fn element<'a>(xml: &'a str, name: &str) -> Option<(Element<'a>, &'a str)> {
    let open = format!("<{name}");
    let mut rest = xml;
    loop {
        rest = &rest[rest.find(&open)? + open.len()..];
        // Not a longer name.
        if rest.starts_with(['>', ' ']) {
            break;
        }
    }
    let (attributes, rest) = rest.split_once('>')?;
    let (text, after) = rest.split_once(&format!("</{name}>"))?;
    Some((Element { attributes, text }, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_may_hold_what_parts_fields() {
        let line = "00000000:01:00.0, GPU-1, 100, 60, [N/A], 5, [N/A], A card, with a comma";
        let card = card(line, None).unwrap();
        assert_eq!(card.name.as_deref(), Some("A card, with a comma"));
        assert_eq!(card.memory, Some(Memory { total: 100 * MIB, free: 60 * MIB }));
        assert_eq!((card.temperature_c, card.utilization_percent, card.users), (None, Some(5), None));
    }

    #[test]
    fn a_process_without_a_figure_is_listed_without_one() {
        let users = users("GPU-1, 42, [N/A]\nGPU-1, 43, 7\nNo running processes found\nGPU-1, x, 1\n");
        let expected = vec![User { pid: 42, bytes: None }, User { pid: 43, bytes: Some(7 * MIB) }];
        assert_eq!(users, BTreeMap::from([("GPU-1".to_owned(), expected)]));
    }

    #[test]
    fn an_element_is_found_by_its_whole_name() {
        let (found, rest) = element("<gpus>x</gpus><gpu id=\"1\">y<a>z</a></gpu>!", "gpu").unwrap();
        assert_eq!((found.attributes, found.text, rest), (" id=\"1\"", "y<a>z</a>", "!"));
        assert!(element("<gpu>", "gpu").is_none() && element("</gpu><gpus>", "gpu").is_none());
    }

    proptest! {
        #[test]
        fn whatever_it_prints_is_read_without_a_panic(
            text in "([0-9A-Fa-f:., \n]|GPU-|MIG|\\[N/A\\]|Enabled|</?(gpu|mig_devices?|processes|pid)>|Device|.){0,80}",
        ) {
            let users = users(&text);
            let line = format!("0000:01:00.0, GPU-1, 1, 1, 1, 1, Enabled, {text}");
            let mut cards = cards(&format!("{text}\n{line}"), Some(&users));
            instances(&mut cards, &text, &format!("<gpu id=\"0000:01:00.0\">{text}</gpu>"));
        }
    }
}
