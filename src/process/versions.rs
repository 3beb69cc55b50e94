//! The thread `versions`: asks programs for their versions, and remembers what they said.
//!
//! ```text
//! Ask ──known──────────────────────────────────────────────▶ answered
//!  └──▶ queued ──▶ asked ──ends, told too much, too late──▶ known ──▶ all who wait for it are answered
//! ```
//! A program is known by its path, arguments, environment and by which file it is. However many want to know,
//! it is asked once; whoever waits longer than it wants to gets what is known by then.
//! Invariant: nothing here waits for a program. Each runs under [`super::version_child`] in a group of its own,
//! which is killed as soon as the answer is there or its time is over; one that hangs in the kernel stays in a
//! list until it is dead.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use log::{debug, warn};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::launch::is_kept_from_workers;
use super::mailbox::{Inbox, Jobs, Next, mailbox};
use super::version_child::COMMAND;
use crate::limits;
use crate::sys::timespec;
use crate::thread::Joined;

/// Asks programs for their versions. Cheap to clone; the thread ends when the last clone is gone.
#[derive(Clone)]
pub struct Versions(Jobs<Wish>);

/// A program that can be asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    key: Key,
    file: FileId,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// Which file lies at a path: a program that was replaced is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Program {
    /// The program at `path`, asked by `args`, with `env` beside the hive's own environment. `None` if the file
    /// is gone, or there are no arguments to ask by. Looks at the disk.
    pub fn new(path: &Path, args: &[String], env: Vec<(String, String)>) -> Option<Self> {
        let file = path.metadata().ok().filter(|_| !args.is_empty())?;
        let changed = (file.ctime(), file.ctime_nsec());
        let file = FileId { device: file.dev(), inode: file.ino(), bytes: file.len(), changed };
        Some(Self { key: Key { path: path.to_owned(), args: args.to_vec(), env }, file })
    }
}

/// Who wants to know versions, and until when.
struct Wish {
    programs: Vec<Option<Program>>,
    until: Instant,
    then: Box<dyn FnOnce(Vec<Option<String>>) + Send>,
}

impl Versions {
    /// Calls `then` with the version of each of `programs`, in their order, as soon as all are known, and at the
    /// latest after `wait`: one that is not known by then, or that the program does not tell, is `None`. Does not
    /// block; `then` is called on the thread `versions` and must not block either.
    pub fn ask(
        &self,
        programs: Vec<Option<Program>>,
        wait: Duration,
        then: impl FnOnce(Vec<Option<String>>) + Send + 'static,
    ) {
        self.0.send(Wish { programs, until: Instant::now() + wait, then: Box::new(then) });
    }
}

/// Starts the thread. `helper` is this program, which runs the others as [`COMMAND`].
///
/// # Errors
/// If the system has no descriptor or thread to give.
pub fn start(helper: PathBuf) -> io::Result<(Joined, Versions)> {
    let (jobs, inbox) = mailbox()?;
    let body = move || {
        let mut asker = Asker { helper, known: BTreeMap::new(), ..Asker::default() };
        asker.run(&inbox);
        asker.end();
    };
    Ok((Joined::spawn("versions", || {}, body)?, Versions(jobs)))
}

#[derive(Default)]
struct Asker {
    helper: PathBuf,
    known: BTreeMap<Key, Known>,
    queue: VecDeque<Program>,
    running: Vec<Running>,
    /// Killed, and not reaped yet.
    left: Vec<Killed>,
    wishes: Vec<Wish>,
}

struct Known {
    file: FileId,
    /// `None` if it did not tell.
    version: Option<String>,
    at: Instant,
}

impl Known {
    /// Whether it answers who asks now: what went wrong may go better later.
    fn counts(&self, now: Instant) -> bool {
        self.version.is_some() || now < self.at + limits::VERSION_RETRY
    }
}

struct Running {
    program: Program,
    child: Child,
    /// Closed with the hive, whatever ends it.
    _lifeline: ChildStdin,
    stdout: ChildStdout,
    pidfd: OwnedFd,
    text: Vec<u8>,
    /// It may print more.
    open: bool,
    until: Instant,
}

struct Killed {
    child: Child,
    pidfd: OwnedFd,
}

impl Asker {
    fn run(&mut self, inbox: &Inbox<Wish>) {
        loop {
            inbox.silence();
            loop {
                match inbox.next() {
                    Next::Job(wish) => self.take(wish),
                    Next::Empty => break,
                    Next::Closed => return,
                }
            }
            self.step();
            self.answer(Instant::now());
            let deadlines = self.running.iter().map(|r| r.until).chain(self.wishes.iter().map(|w| w.until));
            let left = deadlines.min().map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = vec![PollFd::new(inbox, PollFlags::IN)];
            for running in &self.running {
                fds.push(PollFd::new(&running.pidfd, PollFlags::IN));
                fds.extend(running.open.then(|| PollFd::new(&running.stdout, PollFlags::IN)));
            }
            fds.extend(self.left.iter().map(|killed| PollFd::new(&killed.pidfd, PollFlags::IN)));
            // An error is an interruption.
            let _ = rustix::event::poll(&mut fds, left.map(timespec).as_ref());
        }
    }

    fn take(&mut self, wish: Wish) {
        let now = Instant::now();
        for program in wish.programs.iter().flatten() {
            let asked = self.running.iter().map(|running| &running.program).chain(&self.queue);
            if !self.is_settled(program, now) && !asked.into_iter().any(|asked| asked == program) {
                self.queue.push_back(program.clone());
            }
        }
        self.wishes.push(wish);
    }

    fn is_settled(&self, program: &Program, now: Instant) -> bool {
        self.known.get(&program.key).is_some_and(|known| known.file == program.file && known.counts(now))
    }

    /// Takes what has come, ends what is overdue, asks who is next. Does not block.
    fn step(&mut self) {
        // Nothing else waits for them; an error would say that they are gone.
        self.left.retain_mut(|killed| matches!(killed.child.try_wait(), Ok(None)));
        let now = Instant::now();
        for at in (0..self.running.len()).rev() {
            if let Some(told) = self.running[at].step(now) {
                let Running { program, child, pidfd, .. } = self.running.swap_remove(at);
                self.left.push(Killed { child, pidfd });
                self.learn(program, told, now);
            }
        }
        while self.running.len() < limits::VERSIONS_AT_ONCE
            && let Some(program) = self.queue.pop_front()
        {
            match Running::start(&self.helper, &program, now) {
                Ok(running) => self.running.push(running),
                Err(e) => self.learn(program, Err(e), now),
            }
        }
    }

    fn learn(&mut self, program: Program, told: io::Result<String>, now: Instant) {
        let path = &program.key.path;
        let version = match told {
            Ok(version) => {
                debug!("a program tells its version program={path:?} version={version:?}");
                Some(version)
            }
            Err(e) => {
                warn!("a program does not tell its version program={path:?} reason={:?}", e.to_string());
                None
            }
        };
        self.known.insert(program.key, Known { file: program.file, version, at: now });
        if self.known.len() > limits::VERSIONS_KEPT_MAX
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.at).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
    }

    /// Answers all wishes that are fulfilled, or that have waited long enough.
    fn answer(&mut self, now: Instant) {
        for wish in std::mem::take(&mut self.wishes) {
            if now < wish.until && wish.programs.iter().flatten().any(|p| !self.is_settled(p, now)) {
                self.wishes.push(wish);
                continue;
            }
            let version = |program: &Option<Program>| {
                let program = program.as_ref()?;
                let known = self.known.get(&program.key).filter(|known| known.file == program.file)?;
                known.version.clone()
            };
            (wish.then)(wish.programs.iter().map(version).collect());
        }
    }

    /// Kills what runs, and reaps what dies of it in a bounded time.
    fn end(mut self) {
        for running in self.running {
            kill_group(&running.child);
            self.left.push(Killed { child: running.child, pidfd: running.pidfd });
        }
        let until = Instant::now() + limits::PROBE_KILL_WAIT;
        loop {
            self.left.retain_mut(|killed| matches!(killed.child.try_wait(), Ok(None)));
            let left = until.saturating_duration_since(Instant::now());
            if self.left.is_empty() || left.is_zero() {
                break;
            }
            let mut fds: Vec<_> =
                self.left.iter().map(|killed| PollFd::new(&killed.pidfd, PollFlags::IN)).collect();
            // An error is an interruption.
            let _ = rustix::event::poll(&mut fds, Some(&timespec(left)));
        }
        for killed in &self.left {
            warn!("a killed program hangs in the kernel and is left behind pid={}", killed.child.id());
        }
    }
}

impl Running {
    fn start(helper: &Path, program: &Program, now: Instant) -> io::Result<Self> {
        let Key { path, args, env } = &program.key;
        let mut command = Command::new(helper);
        command.arg0("rbee-hive").arg(COMMAND).arg(path).args(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_kept_from_workers(name)) {
            command.env_remove(name);
        }
        // Telling a version needs no GPU, and must not take memory of one.
        command.envs(["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"].map(|name| (name, OsStr::new(""))));
        command.envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let lifeline = child.stdin.take().expect("it was asked for as a pipe");
        let stdout = child.stdout.take().expect("it was asked for as a pipe");
        let watched = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let watched = watched.and_then(|pidfd| {
            rustix::fs::fcntl_setfl(&stdout, OFlags::NONBLOCK)?;
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => {
                let (program, text) = (program.clone(), Vec::new());
                let until = now + limits::VERSION_DEADLINE;
                Ok(Self { program, child, _lifeline: lifeline, stdout, pidfd, text, open: true, until })
            }
            Err(e) => {
                kill_group(&child);
                child.wait()?;
                Err(e.into())
            }
        }
    }

    /// What came of it, once something has: then its group is killed.
    fn step(&mut self, now: Instant) -> Option<io::Result<String>> {
        // Before the output is read: what comes after this look is not waited for.
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = matches!(rustix::event::poll(&mut fds, Some(&timespec(Duration::ZERO))), Ok(1..));
        let ended = match self.drain() {
            Err(e) => Err(e),
            Ok(()) if ended => Ok(()),
            Ok(()) if self.until <= now => Err(io::Error::other("no answer in time")),
            Ok(()) => return None,
        };
        // It is not reaped: the number is its.
        kill_group(&self.child);
        Some(ended.and_then(|()| self.told()))
    }

    /// What it told, once it has ended.
    fn told(&mut self) -> io::Result<String> {
        let status = self.child.wait()?;
        if !status.success() {
            return Err(io::Error::other(status.to_string()));
        }
        version_in(&self.text).ok_or_else(|| io::Error::other("it printed nothing"))
    }

    /// Takes what it has printed so far.
    fn drain(&mut self) -> io::Result<()> {
        let mut block = [0; 4096];
        while self.open {
            match self.stdout.read(&mut block) {
                Ok(0) => self.open = false,
                Ok(length) => self.text.extend_from_slice(&block[..length]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.text.len() > limits::VERSION_OUTPUT_BYTES_MAX {
                return Err(io::Error::other("it prints too much"));
            }
        }
        Ok(())
    }
}

/// `child` is not reaped: the number is its.
fn kill_group(child: &Child) {
    if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
        && let Err(e) = rustix::process::kill_process_group(group, Signal::KILL)
    {
        debug!("nothing of a group is left to kill pid={} error={e}", child.id());
    }
}

/// The version in what a program printed: a line that is nothing but one, else what follows the word `version`,
/// else the first line. Engines print more than was asked for, in no agreed order.
fn version_in(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let version = lines()
        .find(|line| is_version(line))
        .or_else(|| lines().find_map(|line| after_word(line, "version")))
        .or_else(|| lines().next())?;
    let plain: String = version.chars().filter(|c| !c.is_control()).take(limits::VERSION_CHARS_MAX).collect();
    Some(plain).filter(|plain| !plain.is_empty())
}

/// `1.2`, `v1.2.3-rc4+cu12`: begins with a number, has a dot, and no blank.
fn is_version(line: &str) -> bool {
    let number = line.strip_prefix('v').unwrap_or(line);
    number.starts_with(|c: char| c.is_ascii_digit())
        && number.contains('.')
        && number.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b))
}

/// What stands behind `word` and a colon, an equals sign or a blank; all of the line where that is nothing.
fn after_word<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let at = line.to_ascii_lowercase().find(word)?;
    let rest = line[at + word.len()..].trim_start_matches([':', '=', ' ']);
    Some(if rest.is_empty() { line } else { rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_engines_print() {
        for (text, version) in [
            ("0.11.0\n", "0.11.0"),
            ("INFO 01-02 [__init__.py:239] platform cuda\n0.8.4\n", "0.8.4"),
            (
                "ggml_cuda_init: found 1 devices:\n  Device 0: X, 8.6\nversion: 5000 (abc)\nbuilt with cc",
                "5000 (abc)",
            ),
            ("stable-diffusion.cpp version master-1-abc, commit abc\n", "master-1-abc, commit abc"),
            ("text-embeddings-router 1.8.2\n", "text-embeddings-router 1.8.2"),
            ("\n\n  tool\u{1b}[2J 7 \n", "tool[2J 7"),
            ("version:\n", "version:"),
        ] {
            assert_eq!(version_in(text.as_bytes()).as_deref(), Some(version), "{text:?}");
        }
        assert_eq!(version_in(b" \n\n"), None);
        assert_eq!(version_in(&[b'x'; 4000]).map(|version| version.len()), Some(limits::VERSION_CHARS_MAX));
    }

    #[test]
    fn a_program_that_was_replaced_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let args = ["--version".to_owned()];
        assert_eq!(Program::new(&path, &args, Vec::new()), None);
        std::fs::write(&path, "1").unwrap();
        assert_eq!(Program::new(&path, &[], Vec::new()), None);
        let first = Program::new(&path, &args, Vec::new()).unwrap();
        assert_eq!(Program::new(&path, &args, Vec::new()), Some(first.clone()));
        let other = dir.path().join("other");
        std::fs::write(&other, "1").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(Program::new(&path, &args, Vec::new()), Some(first));
    }
}
