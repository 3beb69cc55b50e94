//! What a demo leaves in the system: processes whose environment carries its mark.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::limits;
use crate::process::procfs::{self, Variable};

/// The variable that all processes of a demo inherit; its value is the demo's folder.
pub const VARIABLE: &str = "MOCK_DEMO";

/// Living processes that carry this mark, this one left out.
pub fn alive(mark: &str) -> Vec<u32> {
    let mut found = procfs::processes();
    found.retain(|process| !process.dead && process.pid != std::process::id());
    found.into_iter().map(|process| process.pid).filter(|pid| carries(*pid, mark)).collect()
}

/// Kills whatever carries this mark until nothing does.
///
/// # Errors
/// If something is still there after [`limits::DEMO_KILL_WAIT`].
pub fn kill_all(mark: &str) -> io::Result<()> {
    let deadline = Instant::now() + limits::DEMO_KILL_WAIT;
    loop {
        let left = alive(mark);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("processes are left: {left:?}")));
        }
        left.into_iter().for_each(|pid| kill(pid, mark));
        // Not all of them are children: nothing tells when the last one is gone.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn carries(pid: u32, mark: &str) -> bool {
    procfs::variable(pid, VARIABLE) == Variable::Is(mark.as_bytes().to_vec())
}

/// Kills one process, if the mark is still its own once the process is held fast.
fn kill(pid: u32, mark: &str) {
    let Some(pid_of) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(process) = pidfd_open(pid_of, PidfdFlags::empty()) else { return };
    if carries(pid, mark) {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_carries_the_mark_is_found_and_killed() {
        let mark = format!("of-a-test-{}", std::process::id());
        let sleep = |value: &str| Command::new("sleep").arg("600").env(VARIABLE, value).spawn().unwrap();
        let (mut ours, mut other) = (sleep(&mark), sleep(&format!("{mark}-not")));
        // A process shows its environment a moment after its exec has succeeded.
        let until = Instant::now() + Duration::from_secs(60);
        while alive(&mark).is_empty() && Instant::now() < until {}
        assert_eq!(alive(&mark), [ours.id()]);
        kill_all(&mark).unwrap();
        assert!(ours.wait().unwrap().code().is_none());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
