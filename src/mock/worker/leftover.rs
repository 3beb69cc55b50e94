//! Processes that a mock worker leaves behind, as engines leave their helpers: this program again, asleep.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use signal_hook::consts::SIGTERM;

use crate::limits;
use crate::mock::fault::Faults;

/// Starts the leftovers that `faults` asks for, and returns when they are as they are to be.
///
/// # Errors
/// If one cannot be started.
pub fn leave(faults: &Faults, listener: &TcpListener) -> io::Result<()> {
    if faults.grandchild {
        start(&[], Stdio::null())?;
    }
    if faults.daemon {
        start(&["--own-session"], Stdio::null())?;
    }
    if faults.hold_port {
        // Its standard input is the socket: the one descriptor that is passed on by design.
        start(&[], OwnedFd::from(listener.try_clone()?).into())?;
    }
    Ok(())
}

fn start(args: &[&str], stdin: Stdio) -> io::Result<()> {
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
/// If it cannot leave its session or catch the signal.
pub fn sleep(own_session: bool) -> io::Result<()> {
    if own_session {
        rustix::process::setsid()?;
    }
    signal_hook::flag::register(SIGTERM, Arc::default())?;
    writeln!(io::stdout(), "asleep pid={}", std::process::id())?;
    // Its work is to be there.
    std::thread::sleep(limits::MOCK_LEFTOVER_LIFE);
    Ok(())
}
