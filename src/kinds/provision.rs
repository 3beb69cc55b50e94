//! Fetches programs of workers from a server of artifacts, and installs them.
//!
//! ```text
//! Wish ──▶ queue ──▶ checksum ──▶ length ──▶ transfer ──▶ unpack ──▶ Shelf::keep ──▶ all who wait are told
//! ```
//! One thread, `provision`, does one after the other; it also removes installs that nobody uses any more. All who wish
//! for the same share one [`Provision`]; who wants to know how far it is looks at it.
//!
//! Invariants: what is installed had the checksum that was given or published, and came whole; a provision ends
//! exactly once, and each who waits for it is told.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use log::{info, warn};

use super::install::Install;
use super::manifest::is_kind_name;
use super::shelf::Shelf;
use super::{Kind, find_program};
use crate::id::unhex;
use crate::limits::{KIND_VERSION_BYTES_MAX, PROVISION_WAITERS_MAX, PROVISIONS_MAX};
use crate::models::hub::Hub;
use crate::models::remote::HubError;
use crate::net::Cut;
use crate::thread::Joined;

mod checksum;
mod fetch;
mod unpack;
#[cfg(any(test, fuzzing))]
pub(crate) use unpack::check as check_unpack;

/// What this machine is called in the address of an artifact.
#[cfg(target_arch = "x86_64")]
pub const PLATFORM: &str = "linux-x86_64";
/// What this machine is called in the address of an artifact.
#[cfg(target_arch = "aarch64")]
pub const PLATFORM: &str = "linux-aarch64";

/// The version that is fetched where none is asked for.
pub const LATEST: &str = "latest";

/// What somebody wants to have installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The kind's name.
    pub kind: KindName,
    /// Its version; `None`: the one that is here, else the latest.
    pub version: Option<Version>,
    /// SHA-256 of the artifact; `None`: as it is published.
    pub sha256: Option<Sha256>,
}

/// A kind's name, `[a-z0-9][a-z0-9-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindName(String);

/// A version, `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// A SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl KindName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// The version.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KindName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_kind_name(text) { Ok(Self(text.to_owned())) } else { Err("must be [a-z0-9][a-z0-9-]{0,63}") }
    }
}

impl FromStr for Version {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=KIND_VERSION_BYTES_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err("must be [A-Za-z0-9][A-Za-z0-9._-]{0,63}") }
    }
}

impl FromStr for Sha256 {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text).map(Self).ok_or("must be 64 hex digits")
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What there is of a wish before anything is fetched.
#[derive(Debug)]
pub enum Present {
    /// The kind is here as it is wished for.
    Here(Arc<Kind>),
    /// Its program is here from `PATH`, and another version is asked for; or it is to be where `--worker` or its
    /// manifest says. Nothing is put in its place.
    NotOurs,
    /// It has to be fetched.
    Absent,
}

/// Why nothing was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisionError {
    /// There is no server of artifacts to fetch it from.
    NoServer,
    /// The server does not have it: kind, version or platform.
    NotThere,
    /// No checksum was given, and the server publishes none.
    NoChecksum,
    /// What the server publishes as the checksum is none.
    BadChecksum,
    /// The bytes are not those of the checksum.
    WrongChecksum,
    /// The artifact has more than so many bytes, or none.
    Length(u64),
    /// The server does not give it; of what may pass, the last of all attempts.
    Server(HubError),
    /// It is no program, or an archive that cannot be one of this kind: what is wrong.
    BadArtifact(String),
    /// The disk has too little room.
    NoSpace {
        /// What it takes, as far as is known.
        required_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The disk is full.
    DiskFull,
    /// The disk fails.
    Disk(io::ErrorKind),
    /// [`PROVISION_WAITERS_MAX`] wait for it already.
    TooManyWait,
}

impl fmt::Display for ProvisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str("the kind's program is not on this machine, and this hive has no --artifact-url to fetch it from"),
            Self::NotThere => {
                write!(f, "the artifact server has no such kind or version for {}", PLATFORM)
            }
            Self::NoChecksum => f.write_str("the artifact server publishes no checksum for it, and none was given: nothing is installed"),
            Self::BadChecksum => f.write_str("what the artifact server publishes as its checksum is no line of sha256sum's"),
            Self::WrongChecksum => f.write_str("the bytes that came are not those of the checksum"),
            Self::Length(0) => f.write_str("the artifact is empty"),
            Self::Length(bytes) => {
                write!(f, "the artifact has {bytes} bytes, more than the {} that are fetched", crate::limits::ARTIFACT_BYTES_MAX)
            }
            Self::Server(error) => match error {
                HubError::Cut => f.write_str("the hive is shutting down"),
                HubError::Broken(kind) => write!(f, "the connection to the artifact server failed: {kind}"),
                HubError::Stalled => f.write_str("the artifact server sent nothing for too long"),
                HubError::Busy { status, .. } => write!(f, "the artifact server is not well ({status})"),
                HubError::Denied { .. } => f.write_str("the artifact server denies access"),
                HubError::BadAnswer(what) => write!(f, "the artifact server's answer is wrong: {what}"),
                HubError::Offline | HubError::NoRepository { .. } | HubError::NoRevision | HubError::NoFile => {
                    f.write_str("the artifact server does not have it any more")
                }
            },
            Self::BadArtifact(what) => write!(f, "the artifact cannot be installed: {what}"),
            Self::NoSpace { required_bytes, available_bytes } => {
                write!(f, "the disk has too little room: {required_bytes} bytes are required, {available_bytes} are available")
            }
            Self::DiskFull => f.write_str("the disk is full"),
            Self::Disk(kind) => write!(f, "the data directory cannot be written: {kind}"),
            Self::TooManyWait => f.write_str("too many wait for this provision"),
        }
    }
}

impl std::error::Error for ProvisionError {}

/// How far a provision is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Bytes come, or will when it is its turn.
    Downloading {
        /// Those that are here; never fewer than before.
        bytes: u64,
        /// All there will be; 0 as long as that is not known.
        total_bytes: u64,
        /// How fast they come.
        bytes_per_second: f64,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// All bytes are here, and are being compared and installed.
    Installing,
    /// It is over.
    Ended(Outcome),
}

/// What became of a provision.
pub type Outcome = Result<Arc<Install>, ProvisionError>;

type Waiter = Box<dyn FnOnce(&Outcome) + Send>;

/// A provision, under way or over.
pub struct Provision {
    wish: Wish,
    state: Mutex<State>,
}

struct State {
    /// Grows with each change.
    number: u64,
    stage: Stage,
    waiters: Vec<Waiter>,
}

impl Provision {
    fn new(wish: Wish) -> Self {
        let stage = Stage::Downloading { bytes: 0, total_bytes: 0, bytes_per_second: 0.0, attempt: 1 };
        Self { wish, state: Mutex::new(State { number: 1, stage, waiters: Vec::new() }) }
    }

    /// What is wished for.
    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    /// How far it is, and the number of that state.
    pub fn now(&self) -> (u64, Stage) {
        let state = self.state();
        (state.number, state.stage.clone())
    }

    /// Calls `then` at its end, on the thread that ends it; now if it is over, or if [`PROVISION_WAITERS_MAX`] wait
    /// already. Must not block.
    pub fn at_end(&self, then: impl FnOnce(&Outcome) + Send + 'static) {
        let mut state = self.state();
        let outcome = match &state.stage {
            Stage::Ended(outcome) => outcome.clone(),
            _ if state.waiters.len() >= PROVISION_WAITERS_MAX => Err(ProvisionError::TooManyWait),
            _ => return state.waiters.push(Box::new(then)),
        };
        drop(state);
        then(&outcome);
    }

    fn show(&self, stage: Stage) {
        let mut state = self.state();
        if !matches!(state.stage, Stage::Ended(_)) && state.stage != stage {
            state.number += 1;
            state.stage = stage;
        }
    }

    /// Whether this is its end, and not the one that came before.
    fn end(&self, outcome: Outcome) -> bool {
        let mut state = self.state();
        if let Stage::Ended(_) = state.stage {
            return false;
        }
        state.number += 1;
        state.stage = Stage::Ended(outcome.clone());
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        waiters.into_iter().for_each(|then| then(&outcome));
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Too many provisions have not ended, or the hive ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// [`PROVISIONS_MAX`] have not ended.
    TooMany,
    /// The hive ends.
    Ended,
}

/// What the thread is to do.
enum Job {
    Provide(Arc<Provision>),
    End,
}

/// All provisions of a hive. Cheap to clone.
#[derive(Clone)]
pub struct Provisions(Arc<Shared>);

struct Shared {
    shelf: Arc<Shelf>,
    artifacts: Option<Hub>,
    jobs: Sender<Job>,
    /// Those that have not ended; `None` once the hive ends.
    active: Mutex<Option<Vec<Arc<Provision>>>>,
    cut: Cut,
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Provisions {
    /// Starts the thread `provision`, which installs what comes from `artifacts` on the `shelf` and discards the
    /// folders that come out of `unused`. `changed` is called whenever a provision is further than it was, and must
    /// not block.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(
        shelf: Arc<Shelf>,
        unused: Receiver<std::path::PathBuf>,
        artifacts: Option<Hub>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<(Joined, Self)> {
        // Bounded by `active`.
        let (jobs, inbox) = crossbeam_channel::unbounded();
        let leftovers = shelf.leftovers(); // before anybody uses, or removes, what is there
        let (active, cut, changed) = (Mutex::new(Some(Vec::new())), Cut::default(), Box::new(changed));
        let provisions = Self(Arc::new(Shared { shelf, artifacts, jobs, active, cut, changed }));
        let (shared, stopped) = (Arc::clone(&provisions.0), provisions.clone());
        let body = move || {
            shared.shelf.tidy(&leftovers);
            loop {
                crossbeam_channel::select! {
                    recv(inbox) -> job => match job {
                        Ok(Job::Provide(provision)) => shared.drive(&provision),
                        Ok(Job::End) | Err(_) => return,
                    },
                    recv(unused) -> folder => match folder {
                        Ok(folder) => shared.shelf.discard(&folder),
                        Err(_) => return,
                    },
                }
            }
        };
        Ok((Joined::spawn_vital("provision", move || stopped.stop(), body)?, provisions))
    }

    /// What there is of `wish` already. Looks at the disk, and reads what has not been compared yet.
    pub fn present(&self, wish: &Wish) -> Present {
        let kinds = self.0.shelf.kinds().get();
        let Some(kind) = kinds.get(wish.kind.as_str()).filter(|kind| find_program(kind).is_some()) else {
            let takes = self.0.shelf.takes(wish.kind.as_str());
            return if takes { Present::Absent } else { Present::NotOurs };
        };
        let Some(install) = &kind.install else {
            let is_any = wish.version.is_none() && wish.sha256.is_none();
            return if is_any { Present::Here(Arc::clone(kind)) } else { Present::NotOurs };
        };
        let record = install.record();
        // What is the latest is not known here.
        let is_version = wish.version.as_ref().is_none_or(|version| {
            *version.as_str() == record.version && (version.as_str() != LATEST || wish.sha256.is_some())
        });
        let is_digest = wish.sha256.is_none_or(|sha256| sha256.to_string() == record.sha256);
        match install.verify(&self.0.cut) {
            Ok(()) if is_version && is_digest => Present::Here(Arc::clone(kind)),
            Ok(()) => Present::Absent,
            Err(_) if self.0.cut.is_cut() => Present::Absent, // nor will it be fetched
            Err(damaged) => {
                warn!("an installed kind is damaged and fetched anew kind={} file={damaged:?}", record.kind);
                Present::Absent
            }
        }
    }

    /// Fetches what is wished for, or shares what fetches it already.
    ///
    /// # Errors
    /// As [`Refused`] says.
    pub fn provide(&self, wish: Wish) -> Result<Arc<Provision>, Refused> {
        let mut active = self.0.active();
        let active = active.as_mut().ok_or(Refused::Ended)?;
        if let Some(same) = active.iter().find(|provision| provision.wish == wish) {
            return Ok(Arc::clone(same));
        }
        if active.len() >= PROVISIONS_MAX {
            return Err(Refused::TooMany);
        }
        let Wish { kind, version, .. } = &wish;
        info!(
            "provision begins kind={} version={}",
            kind.as_str(),
            version.as_ref().map_or(LATEST, Version::as_str)
        );
        let provision = Arc::new(Provision::new(wish));
        active.push(Arc::clone(&provision));
        // The thread lives as long as this, or the process is about to abort.
        let _ = self.0.jobs.send(Job::Provide(Arc::clone(&provision)));
        Ok(provision)
    }

    /// The kinds that are installed, and all others.
    pub fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// The hive ends: nothing is begun any more, and what is under way ends soon. Does not wait.
    pub fn stop(&self) {
        let waiting = self.0.active().take().unwrap_or_default();
        self.0.cut.cut();
        let _ = self.0.jobs.send(Job::End);
        // The one under way is among them: it ends only once, and this is sooner.
        for provision in waiting {
            self.0.ended(&provision, Err(ProvisionError::Server(HubError::Cut)));
        }
    }
}

impl Shared {
    fn drive(&self, provision: &Arc<Provision>) {
        if matches!(provision.now().1, Stage::Ended(_)) {
            return;
        }
        let outcome = self.fetch(provision);
        // Before it is told: who wishes for it after that finds it installed, or tries again.
        if let Some(active) = &mut *self.active() {
            active.retain(|other| !Arc::ptr_eq(other, provision));
        }
        self.ended(provision, outcome);
    }

    fn ended(&self, provision: &Provision, outcome: Outcome) {
        let kind = provision.wish.kind.as_str();
        if !provision.end(outcome.clone()) {
            return;
        }
        match outcome {
            Ok(_) => info!("provision complete kind={kind}"),
            Err(why) => warn!("provision failed kind={kind} why={why:?}"),
        }
        (self.changed)();
    }

    fn active(&self) -> MutexGuard<'_, Option<Vec<Arc<Provision>>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
