//! `/proc`, as far as the hive reads it. A process may end between any two reads: what cannot be read is
//! skipped or `None`, never an error.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::id::Pgid;
use crate::limits;

/// `/proc/PID/stat` is shorter: 52 numbers and a name of at most 64 bytes.
const STAT_BYTES_MAX: usize = 2048;

/// One process, as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// No thread of it runs any more: it only waits to be reaped.
    pub(crate) dead: bool,
    /// When it was started, in clock ticks since the machine was: with its number, what no other process has.
    pub(crate) started: u64,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        // The name may hold anything, parentheses too.
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // Threads are the 20th field. A leader that ended before its threads is shown as a zombie too.
        let threads: u32 = rest.split_ascii_whitespace().nth(17)?.parse().ok()?;
        let dead = matches!(state, "Z" | "X" | "x") && threads <= 1;
        let started = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid: pid.parse().ok()?, parent, group, session, dead, started })
    }

    /// The process that has the number `pid` now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::read(&file(pid, "stat"), &mut [0; STAT_BYTES_MAX])
    }

    fn read(path: &Path, stat: &mut [u8; STAT_BYTES_MAX]) -> Option<Self> {
        // The kernel gives all of it in one read: with hundreds of processes each call counts.
        let length = fs::File::open(path).ok()?.read(stat).ok()?;
        Self::parse(&String::from_utf8_lossy(&stat[..length]))
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up = Duration::new(up.tv_sec.unsigned_abs(), u32::try_from(up.tv_nsec).unwrap_or(0));
        up.saturating_sub(Duration::from_secs_f64(self.started as f64 / TICKS_PER_SECOND))
    }
}

/// `USER_HZ`, in which the kernel counts for programs: 100 on every architecture that Rust's Linux targets have.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// Which start of the machine this is.
pub(crate) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// The program that a process runs.
pub(crate) fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(file(pid, "exe")).ok()
}

/// All processes at about this moment.
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut stat = [0; STAT_BYTES_MAX];
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().as_bytes().first().filter(|first| first.is_ascii_digit())?;
            Process::read(&entry.path().join("stat"), &mut stat)
        })
        .collect()
}

/// The processes of the group and all their descendants that live.
pub(crate) fn tree(group: Pgid, all: &[Process]) -> BTreeSet<u32> {
    let mut tree: BTreeSet<u32> =
        all.iter().filter(|p| p.group == group.0 && !p.dead).map(|p| p.pid).collect();
    loop {
        let before = tree.len();
        tree.extend(
            all.iter().filter(|p| !p.dead && tree.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>(),
        );
        if tree.len() == before {
            return tree;
        }
    }
}

fn file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Resident memory.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(file(pid, "statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// Resident memory that cannot be displaced: anonymous and shared, not that of mapped files.
pub(crate) fn taken_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(file(pid, "status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    kib("RssAnon:")?.checked_add(kib("RssShmem:")?)?.checked_mul(1024)
}

/// Bytes that it has asked to read so far, from disk or cache.
pub(super) fn read_bytes(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(file(pid, "io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("rchar: "))?.trim().parse().ok()
}

/// What the environment of a process says of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// Its value.
    Is(Vec<u8>),
    /// It is not set, or the environment may not be read.
    Absent,
    /// The environment is empty: the process is in the middle of an exec or of its end, or
    /// has none.
    Unclear,
}

/// Looks for a variable in the environment that a process was started with.
pub(crate) fn variable(pid: u32, name: &str) -> Variable {
    let mut environ = Vec::with_capacity(4096);
    let read = fs::File::open(file(pid, "environ"))
        .and_then(|file| file.take(limits::ENVIRON_BYTES_MAX).read_to_end(&mut environ));
    match read {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Variable::Absent,
        Ok(0) | Err(_) => return Variable::Unclear,
        Ok(_) => {}
    }
    let mut entries = environ.split(|b| *b == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    value.map_or(Variable::Absent, |value| Variable::Is(value.to_owned()))
}

/// Whether a socket that listens on `port` of `host` belongs to one of `pids`. `None` where that cannot be
/// told: no such socket is shown here, or some process does not show its descriptors.
pub(super) fn listens(pids: &BTreeSet<u32>, host: IpAddr, port: u16) -> Option<bool> {
    let inodes = listeners(host, port);
    if inodes.is_empty() {
        return None;
    }
    let links: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut hidden = false;
    for pid in pids {
        match fs::read_dir(file(*pid, "fd")) {
            Ok(fds) => {
                let mut targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
                if targets.any(|target| target.to_str().is_some_and(|target| links.contains(target))) {
                    return Some(true);
                }
            }
            Err(e) => hidden |= e.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    (!hidden).then_some(false)
}

/// Inodes of the sockets that would be given a connection to `host` and `port`.
fn listeners(host: IpAddr, port: u16) -> Vec<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let found: Vec<Listener> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1).filter_map(Listener::parse))
        .filter(|l| l.port == port && (l.host == host || l.host.is_unspecified()))
        .collect();
    // A socket on the very address comes before one on all addresses.
    let exact = found.iter().any(|l| l.host == host);
    found.iter().filter(|l| !exact || l.host == host).map(|l| l.inode).collect()
}

struct Listener {
    host: IpAddr,
    port: u16,
    inode: u64,
}

impl Listener {
    /// A line of `/proc/net/tcp` or `tcp6`, if its socket listens.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (host, port) = fields.nth(1)?.split_once(':')?;
        let listens = fields.nth(1)? == "0A";
        let inode = fields.nth(5)?.parse().ok()?;
        listens.then_some(Self { host: address(host)?, port: u16::from_str_radix(port, 16).ok()?, inode })
    }
}

/// An address as the kernel prints it: words of 32 bits in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(8 * i)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "42 (a) R (b) S 7 42 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 99 1 1";
        let expected = Process { pid: 42, parent: 7, group: 42, session: 9, dead: false, started: 99 };
        assert_eq!(Process::parse(stat), Some(expected));
        assert_eq!(Process::parse("42 (cut"), None);
    }

    #[test]
    fn a_zombie_whose_threads_still_run_is_not_dead() {
        let stat = |threads| format!("42 (x) Z 7 42 9 0 -1 0 1 2 3 4 5 6 7 8 20 0 {threads} 0 99 1 1");
        assert!(!Process::parse(&stat(2)).unwrap().dead);
        assert!(Process::parse(&stat(1)).unwrap().dead);
    }

    #[test]
    fn the_tree_holds_descendants_that_left_the_group() {
        let p = |pid, parent, group| Process { pid, parent, group, session: 1, dead: false, started: 1 };
        let all = [
            p(30, 20, 30),
            p(10, 1, 10),
            p(20, 10, 10),
            p(40, 1, 40),
            Process { dead: true, ..p(11, 10, 10) },
        ];
        assert_eq!(tree(Pgid(10), &all), BTreeSet::from([10, 20, 30]));
    }

    #[test]
    fn this_process_is_seen_with_its_memory_and_its_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, port) = (listener.local_addr().unwrap().ip(), listener.local_addr().unwrap().port());
        let me = std::process::id();
        assert!(processes().iter().any(|p| p.pid == me && !p.dead));
        assert!(resident_bytes(me).unwrap() > 100_000);
        assert!((10_000..=resident_bytes(me).unwrap()).contains(&taken_bytes(me).unwrap()));
        assert!(read_bytes(me).is_some());
        assert_eq!(listens(&BTreeSet::from([me]), host, port), Some(true));
        assert_eq!(listens(&BTreeSet::new(), host, port), Some(false));
        drop(listener);
    }

    #[test]
    fn addresses_are_read_in_the_order_of_the_machine() {
        let hex = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        assert_eq!(address(&hex([127, 0, 0, 1])), Some("127.0.0.1".parse().unwrap()));
        let v6 = [[0; 4], [0; 4], [0, 0, 0xff, 0xff], [127, 0, 0, 1]].map(hex).concat();
        assert_eq!(address(&v6), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(address("0"), None);
    }
}
