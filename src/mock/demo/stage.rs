//! What a demo plays on: a folder, a queen, and the real hive as a process. All of it goes when it is
//! dropped, whatever happened.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::limits;
use crate::mock::queen::{self, Queen};
use crate::sys::timespec;

use super::traces;

/// See the module.
pub struct Stage {
    /// Takes the hive's heartbeats.
    pub queen: Queen,
    folder: PathBuf,
    /// The folder as text: what its processes carry.
    mark: String,
    hive: Option<Child>,
    interrupted: Arc<AtomicBool>,
}

impl Stage {
    /// An empty folder, and a queen. From now on SIGINT and SIGTERM only end what waits.
    ///
    /// # Errors
    /// What the system does not give.
    pub fn new() -> Result<Self, String> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(|e| e.to_string())?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("cannot listen: {e}"))?;
        let queen =
            Queen::start(listener, queen::Options::default()).map_err(|e| format!("no queen: {e}"))?;
        let base = fs::canonicalize(std::env::temp_dir()).map_err(|e| format!("no folder for it: {e}"))?;
        let folder = base.join(format!("rbee-demo-{}", uuid::Uuid::new_v4().simple()));
        let mark =
            folder.to_str().ok_or("the folder for temporary files has a name that is no UTF-8")?.to_owned();
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
        Ok(Self { queen, folder, mark, hive: None, interrupted })
    }

    /// Where everything of the demo lies; its processes carry the path as their mark.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the hive, with these arguments after those that every demo needs; gives its URL.
    ///
    /// It is this program under another name: what runs is what `rbee-hive serve` runs.
    ///
    /// # Errors
    /// If it does not come to listen.
    pub fn start_hive(&mut self, args: &[&str]) -> Result<String, String> {
        let failed = |e: std::io::Error| format!("the hive does not start: {e}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RBEE_"))
        {
            command.env_remove(name);
        }
        command
            .args(["rbee-hive", "serve", "--bind", "127.0.0.1:0", "--hive-id", "demo"])
            .args(["--queen-url", &format!("http://{}", self.queen.addr())])
            .args(["--worker-ports", &free_ports().map_err(failed)?])
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .args(args)
            .env(traces::VARIABLE, &self.mark)
            // Ctrl-C is for the demo, which then ends the hive.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log()).map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        self.hive = Some(child);
        self.wait("the hive listens", limits::DEMO_STEP, |time| {
            let came = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timespec(time)));
            Ok(matches!(came, Ok(1..)).then_some(()))
        })?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        let url = line.trim_end().strip_prefix("rbee-hive listening on ");
        url.map(str::to_owned).ok_or_else(|| format!("the hive says {line:?} instead of where it listens"))
    }

    /// Process id of the hive.
    pub fn hive_pid(&self) -> Option<u32> {
        self.hive.as_ref().map(Child::id)
    }

    /// Calls `look`, which waits as long as it is told, until it gives something.
    ///
    /// # Errors
    /// What `look` says, that it takes longer than `limit`, that the hive ended, or that somebody pressed
    /// Ctrl-C.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(Duration) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(seen) = look(limits::DEMO_LOOK)? {
                return Ok(seen);
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            if let Some(Ok(Some(status))) = self.hive.as_mut().map(Child::try_wait) {
                return Err(format!("the hive ended ({status}); expected: {what}"));
            }
            if Instant::now() >= deadline {
                return Err(format!("did not happen within {} s: {what}", limit.as_secs()));
            }
        }
    }

    /// Waits for the end of the hive.
    ///
    /// # Errors
    /// If it lives on.
    pub fn hive_end(&mut self) -> Result<ExitStatus, String> {
        let Some(mut hive) = self.hive.take() else { return Err("there is no hive".to_owned()) };
        let ended = pidfd_open(Pid::from_child(&hive), PidfdFlags::empty())
            .map_err(|e| e.to_string())
            .and_then(|process| {
                self.wait("the hive ends", limits::DEMO_STEP, |time| {
                    let came = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timespec(time)));
                    Ok(matches!(came, Ok(1..)).then_some(()))
                })
            });
        match ended {
            Ok(()) => hive.wait().map_err(|e| e.to_string()),
            Err(why) => {
                self.hive = Some(hive);
                Err(why)
            }
        }
    }

    /// Processes of the demo that live.
    pub fn left(&self) -> Vec<u32> {
        traces::alive(&self.mark)
    }

    /// The end of the hive's log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(limits::DEMO_LOG_LINES)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("hive.log")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The hive first, or it would restart what is killed.
        if let Some(mut hive) = self.hive.take() {
            let _ = hive.kill().and_then(|()| hive.wait());
        }
        if let Err(error) = traces::kill_all(&self.mark) {
            log::error!("the demo cannot clean up: {error}");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::error!("the demo cannot remove its folder: {error}");
        }
    }
}

/// A range of ports that begins with a free one; the hive passes over those that are taken.
pub fn free_ports() -> std::io::Result<String> {
    let first = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().min(u16::MAX - limits::DEMO_PORTS);
    Ok(format!("{first}-{}", first + limits::DEMO_PORTS - 1))
}
