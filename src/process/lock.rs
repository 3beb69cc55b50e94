//! `hive.lock`: one hive for each data directory.
//!
//! An OFD lock, which the kernel releases with its holder however that ends, and which can be asked for without
//! being taken. The kernel does not tell who holds it, so that stands in the file: the holder's pid, and on a second
//! line what no other hive writes. The holder does so once its start has succeeded: who fails before is no successor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};

use crate::limits::{PREDECESSOR_LOOK, PREDECESSOR_WAIT};
use crate::process::procfs::Process;

/// Its name in the data directory.
pub const FILE: &str = "hive.lock";

/// The lock, held until this is dropped or the process ends.
#[derive(Debug)]
#[must_use = "dropping it lets another hive in"]
pub struct HiveLock {
    file: File,
    mark: String,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another hive has it; its pid, if that can be read.
    Held(Option<u32>),
    /// The file cannot be opened, or locked.
    Io(io::Error),
}

impl HiveLock {
    /// Takes the lock of `data_dir`.
    ///
    /// # Errors
    /// If another hive holds it, or the disk says so.
    pub fn take(data_dir: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(data_dir.join(FILE))
            .map_err(LockError::Io)?;
        let until = Instant::now() + PREDECESSOR_WAIT;
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
                Ok(_) => break,
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    let mut pid = [0; 16];
                    let count = file.read_at(&mut pid, 0).unwrap_or(0);
                    let pid = String::from_utf8_lossy(&pid[..count]);
                    let pid = pid.lines().next().and_then(|pid| pid.parse().ok());
                    // A child of a hive that was killed has its descriptors until the exec.
                    if pid.is_none_or(|pid| Process::of(pid).is_some()) || Instant::now() >= until {
                        return Err(LockError::Held(pid));
                    }
                    std::thread::sleep(PREDECESSOR_LOOK);
                }
                Err(error) => return Err(LockError::Io(error.into())),
            }
        }
        let lock = Self { file, mark: uuid::Uuid::new_v4().to_string() };
        lock.write(&successor(&lock.file));
        Ok(lock)
    }

    /// What it will say when it settles, and nobody else.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Says that the holder has started: it is the successor of the last one.
    pub fn settle(&self) {
        self.write(&self.mark);
    }

    /// A disk that is full does not keep a hive from starting. In one write: the file is read at any time.
    fn write(&self, successor: &str) {
        let text = format!("{}\n{successor}\n", std::process::id());
        let _ =
            self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
    }
}

/// The second line.
fn successor(file: &File) -> String {
    let mut bytes = [0; 128];
    let count = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).lines().nth(1).unwrap_or_default().to_owned()
}

/// Asks whether a hive holds the lock, without ever being in its way.
#[derive(Debug)]
pub struct LockWatch(File);

impl LockWatch {
    /// Watches the lock of `data_dir`, also when that is moved or removed.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        File::open(data_dir.join(FILE)).map(Self)
    }

    /// The mark of the hive that settled last, see [`HiveLock::settle`].
    pub fn settled(&self) -> String {
        successor(&self.0)
    }

    /// Whether somebody holds it. What cannot be told counts as held: nobody is killed on a guess.
    pub fn is_held(&self) -> bool {
        let mut lock = whole_file();
        fcntl(&self.0, FcntlArg::F_OFD_GETLK(&mut lock)).is_err() || i32::from(lock.l_type) != F_UNLCK
    }
}

fn whole_file() -> flock {
    flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_is_dropped_and_asking_never_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = HiveLock::take(folder.path()).unwrap();
        let watch = LockWatch::open(folder.path()).unwrap();
        assert!(watch.is_held());
        match HiveLock::take(folder.path()) {
            Err(LockError::Held(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        lock.settle();
        let first = lock.mark().to_owned();
        assert_eq!(watch.settled(), first);
        drop(lock);
        assert!(!watch.is_held() && !watch.is_held() && watch.settled() == first);
        let lock = HiveLock::take(folder.path()).unwrap();
        assert!(watch.is_held() && watch.settled() == first, "it may still fail");
        lock.settle();
        assert!(watch.settled() == lock.mark() && first != lock.mark());
    }

    #[test]
    fn a_lock_that_a_child_of_a_dead_hive_still_holds_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let lock = HiveLock::take(folder.path()).unwrap();
        let mut dead = std::process::Command::new("/bin/true").spawn().unwrap();
        dead.wait().unwrap();
        std::fs::write(folder.path().join(FILE), format!("{}\nits\n", dead.id())).unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| HiveLock::take(folder.path()));
            std::thread::sleep(PREDECESSOR_LOOK * 5);
            drop(lock);
            let _next = next.join().unwrap().expect("it is free");
        });
    }
}
