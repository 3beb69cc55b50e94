//! Processes that a stand-in leaves behind, as engines leave their helpers: this program again, asleep.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use signal_hook::consts::SIGTERM;

use crate::limits;
use crate::mock::fault::Faults;

/// How a leftover makes itself hard to find. By default it stays in its parent's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// It begins a session, and with it a group, of its own.
    pub own_session: bool,
    /// It overwrites the environment that the kernel shows of it.
    pub bare: bool,
}

/// Starts the leftovers that `faults` asks for, and returns when they are as they are to be.
///
/// # Errors
/// If one cannot be started.
pub fn leave(faults: &Faults, listener: &TcpListener) -> io::Result<()> {
    if faults.grandchild {
        start(Manner::default())?;
    }
    if faults.daemon {
        start(Manner { own_session: true, bare: false })?;
    }
    if faults.hold_port {
        // Its standard input is the socket: the one descriptor that is passed on by design.
        start_with(Manner::default(), OwnedFd::from(listener.try_clone()?).into())?;
    }
    Ok(())
}

/// Starts one, and returns when it is as it is to be.
///
/// # Errors
/// If it cannot be started.
pub fn start(manner: Manner) -> io::Result<()> {
    start_with(manner, Stdio::null())
}

fn start_with(manner: Manner, stdin: Stdio) -> io::Result<()> {
    let args = [(manner.own_session, "--own-session"), (manner.bare, "--bare")];
    let args = args.iter().filter(|(wanted, _)| *wanted).map(|(_, arg)| arg);
    let mut child =
        Command::new("/proc/self/exe").arg("sleep").args(args).stdin(stdin).stdout(Stdio::piped()).spawn()?;
    let said = child.stdout.take().map(BufReader::new);
    // It says a line when it is asleep: from then on no SIGTERM ends it.
    let line = said.and_then(|said| said.lines().next()).transpose()?;
    line.map(drop).ok_or_else(|| io::Error::other("a leftover did not start"))
}

/// The leftover itself: stays on SIGTERM, and ends by itself after [`limits::MOCK_LEFTOVER_LIFE`].
///
/// # Errors
/// If it cannot leave its session, overwrite its environment or catch the signal.
pub fn sleep(manner: Manner) -> io::Result<()> {
    if manner.own_session {
        rustix::process::setsid()?;
    }
    if manner.bare {
        set_environment_aside()?;
    }
    signal_hook::flag::register(SIGTERM, Arc::default())?;
    writeln!(io::stdout(), "asleep pid={}", std::process::id())?;
    // Its work is to be there.
    std::thread::sleep(limits::MOCK_LEFTOVER_LIFE);
    Ok(())
}

/// Overwrites the environment that the kernel shows of this process, as setproctitle does to make room for a
/// title. No variable can be read in this process afterwards.
///
/// # Errors
/// If the kernel does not tell where it is, or does not let it be written.
pub fn set_environment_aside() -> io::Result<()> {
    let unknown = || io::Error::other("the kernel does not tell where the environment is");
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Numbers 50 and 51 of proc(5); those behind the name begin with number 3.
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(50 - 3);
    let mut address = || fields.next()?.trim().parse::<u64>().ok();
    let (start, end) = (address().ok_or_else(unknown)?, address().ok_or_else(unknown)?);
    let length = usize::try_from(end.saturating_sub(start)).map_err(|_| unknown())?;
    File::options().write(true).open("/proc/self/mem")?.write_all_at(&vec![0; length], start)
}
