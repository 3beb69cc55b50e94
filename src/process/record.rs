//! What a hive writes down of each worker, so that the next one finds it: `<data-dir>/workers/<id>.json`.
//!
//! A record is written before the launch, without a process, and again after it: whatever moment the hive dies at,
//! the next one finds the process, by its number or by the mark in its environment. Each time by write and rename,
//! so that half a record is never seen. It is not synced: no worker outlives a power cut either.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::warn;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capacity::ledger::{Placement, Share};
use crate::id::{Backend, Device, Run, Token, WorkerId, hex};
use crate::kinds::{Kind, manifest};
use crate::lifecycle::event::{Key, LaunchJob, Plan, Standing};
use crate::limits::{RECORD_BYTES_MAX, RECORDS_MAX};
use crate::process::procfs;

/// The form that this version writes. Older ones are read too, newer ones are not.
const FORMAT: u32 = 1;

/// A worker, as far as the next hive has to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it was launched with, without what it was installed by.
    pub job: LaunchJob,
    /// The folder of the install that its program comes from.
    pub install: Option<PathBuf>,
    /// The address that it binds.
    pub host: IpAddr,
    /// How far it was.
    pub standing: Standing,
    /// Its leader, once that was started.
    pub leader: Option<Identity>,
}

/// What no two processes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Which start of the machine.
    boot_id: String,
    /// The number of the process.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine was.
    pub started: u64,
    /// What it ran when it was looked at the last time.
    program: Option<PathText>,
}

impl Identity {
    /// The process that has the number `pid` now.
    pub fn of(pid: u32) -> Option<Self> {
        let process = procfs::Process::of(pid)?;
        let program = procfs::program(pid).map(PathText);
        Some(Self { boot_id: procfs::boot_id()?, pid, started: process.started, program })
    }

    /// Whether the process with its number is still the same one: the same start of the same boot.
    pub fn is_there(&self) -> bool {
        procfs::boot_id().is_some_and(|boot_id| boot_id == self.boot_id)
            && procfs::Process::of(self.pid).is_some_and(|process| process.started == self.started)
    }

    /// Whether it still runs the same program; of one that shows it to nobody, whether it does so still.
    pub fn runs_the_same(&self) -> bool {
        self.program == procfs::program(self.pid).map(PathText)
    }
}

/// Why a text is no record that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// A later version wrote it, in this form.
    Newer(u32),
    /// It is torn, or somebody else's; what is wrong, for a person.
    Broken(String),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(format) => {
                write!(
                    f,
                    "a later version of rbee-hive wrote it (form {format}; this one reads up to {FORMAT})"
                )
            }
            Self::Broken(what) => write!(f, "it is no record of a worker: {what}"),
        }
    }
}

/// How a record looks in its file.
#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    worker_id: WorkerId,
    run: u32,
    token: String,
    host: IpAddr,
    port: u16,
    standing: Standing,
    leader: Option<Identity>,
    restarts: u32,
    port_moves: u32,
    kind: Value,
    /// Its program, if that is no text.
    program: Option<PathText>,
    install: Option<PathText>,
    model_ref: String,
    model_path: PathText,
    ctx: u32,
    parallel: u32,
    port_hint: Option<u16>,
    env: Vec<(String, String)>,
    extra_args: Vec<String>,
    pinned: bool,
    key: Option<Key>,
    backend: Backend,
    shares: Vec<WrittenShare>,
    host_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenShare {
    device: Device,
    visible_as: String,
    backend: Backend,
    total_bytes: u64,
    bytes: u64,
}

/// A path as text, or, where it is no UTF-8, as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathForm", into = "PathForm")]
struct PathText(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathForm {
    Text(String),
    Bytes { hex: String },
}

impl From<PathText> for PathForm {
    fn from(PathText(path): PathText) -> Self {
        match path.into_os_string().into_string() {
            Ok(text) => Self::Text(text),
            Err(bytes) => Self::Bytes { hex: hex(bytes.as_bytes()) },
        }
    }
}

impl From<PathForm> for PathText {
    fn from(form: PathForm) -> Self {
        match form {
            PathForm::Text(text) => Self(text.into()),
            PathForm::Bytes { hex } => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
                let bytes =
                    hex.as_bytes().as_chunks().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low));
                Self(OsString::from_vec(bytes.collect()).into())
            }
        }
    }
}

impl Record {
    /// The record of a run that is about to be launched.
    pub fn new(job: LaunchJob, host: IpAddr) -> Self {
        let install = job.plan.kind.install.as_ref().map(|install| install.folder().to_owned());
        Self { job, install, host, standing: Standing::Loading, leader: None }
    }

    /// As it is written.
    pub fn to_json(&self) -> Vec<u8> {
        let LaunchJob { id, run, plan, placement, port, token, restarts, port_moves } = &self.job;
        let share = |share: &Share| {
            let Share { device, visible_as, backend, total_bytes, bytes } = share.clone();
            WrittenShare { device, visible_as, backend, total_bytes, bytes }
        };
        let mut kind = manifest::write(&plan.kind);
        let program = Some(plan.kind.program.clone()).filter(|path| path.to_str().is_none()).map(PathText);
        if program.is_some() {
            kind["program"] = "program".into(); // a manifest is text: the real one stands beside it
        }
        let written = Written {
            format: FORMAT,
            worker_id: id.clone(),
            run: run.0,
            token: token.secret().to_owned(),
            host: self.host,
            port: *port,
            standing: self.standing,
            leader: self.leader.clone(),
            restarts: *restarts,
            port_moves: *port_moves,
            kind,
            program,
            install: self.install.clone().map(PathText),
            model_ref: plan.model_ref.clone(),
            model_path: PathText(plan.model_path.clone()),
            ctx: plan.ctx,
            parallel: plan.parallel,
            port_hint: plan.port_hint,
            env: plan.env.clone(),
            extra_args: plan.extra_args.clone(),
            pinned: plan.pinned,
            key: plan.key.clone(),
            backend: placement.backend,
            shares: placement.shares.iter().map(share).collect(),
            host_bytes: placement.host_bytes,
        };
        serde_json::to_vec_pretty(&written).expect("a record is valid JSON")
    }

    /// Reads what [`Record::to_json`] wrote.
    ///
    /// # Errors
    /// As [`RecordError`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let broken = |what: &dyn fmt::Display| RecordError::Broken(what.to_string());
        let form: Form = serde_json::from_slice(bytes).map_err(|e| broken(&e))?;
        if form.format > FORMAT {
            return Err(RecordError::Newer(form.format));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|e| broken(&e))?;
        let mut kind = manifest::parse(written.kind.to_string().as_bytes())
            .map_err(|mistake| broken(&format_args!("kind.{mistake}")))?;
        match written.program {
            Some(PathText(path)) if path.to_str().is_none() => kind.program = path,
            Some(_) => return Err(broken(&"program: must be no text, or stand in the kind")),
            None => {}
        }
        let token = Token::parse(&written.token).ok_or_else(|| broken(&"token: is none"))?;
        if written.shares.is_empty() || written.parallel == 0 || written.run == 0 || written.port == 0 {
            return Err(broken(&"shares, parallel, run and port must not be nothing"));
        }
        let share = |share: WrittenShare| {
            let WrittenShare { device, visible_as, backend, total_bytes, bytes } = share;
            Share { device, visible_as, backend, total_bytes, bytes }
        };
        let plan = Plan {
            kind: Arc::new(Kind { install: None, ..kind }),
            model_ref: written.model_ref,
            model_path: written.model_path.0,
            ctx: written.ctx,
            parallel: written.parallel,
            port_hint: written.port_hint,
            env: written.env,
            extra_args: written.extra_args,
            pinned: written.pinned,
            key: written.key,
        };
        let placement = Placement {
            backend: written.backend,
            shares: written.shares.into_iter().map(share).collect(),
            host_bytes: written.host_bytes,
        };
        let job = LaunchJob {
            id: written.worker_id,
            run: Run(written.run),
            plan: Arc::new(plan),
            placement: Arc::new(placement),
            port: written.port,
            token,
            restarts: written.restarts,
            port_moves: written.port_moves,
        };
        let install = written.install.map(|install| install.0);
        Ok(Self { job, install, host: written.host, standing: written.standing, leader: written.leader })
    }
}

/// The records of a data directory.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// What lies in the folder of records.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that can be used.
    pub records: Vec<Record>,
    /// Files that are none, and what is wrong with them.
    pub broken: Vec<(PathBuf, RecordError)>,
}

impl Records {
    /// Those of `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("workers") }
    }

    fn path(&self, id: &WorkerId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a record in the place of the worker's last one; readable by its owner alone, for its token is in it.
    ///
    /// # Errors
    /// If the disk says so; the last one is then still there.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let id = &record.job.id;
        let new = self.folder.join(format!(".{id}.new"));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&record.to_json()))
            .and_then(|()| fs::rename(&new, self.path(id)));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes the record of a worker, if it has one.
    ///
    /// # Errors
    /// If the disk says so.
    pub fn remove(&self, id: &WorkerId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads all of them. What a hive was writing when it died is removed.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn read_all(&self) -> io::Result<Found> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for (count, entry) in entries.enumerate() {
            if count == RECORDS_MAX {
                warn!(
                    "there are too many files among the records; the rest is left alone most={RECORDS_MAX}"
                );
                break;
            }
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".new") {
                let _ = fs::remove_file(&path);
            } else if let Some(id) = name.strip_suffix(".json") {
                match read(&path) {
                    Ok(record) if record.job.id.as_str() == id => found.records.push(record),
                    Ok(_) => {
                        let what = RecordError::Broken("it is named for another worker".to_owned());
                        found.broken.push((path, what));
                    }
                    Err(error) => found.broken.push((path, error)),
                }
            }
        }
        found.records.sort_by(|a, b| a.job.id.cmp(&b.job.id));
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Record, RecordError> {
    let mut bytes = Vec::new();
    // What lies there may be no file: a pipe would be waited for, and a link lead anywhere.
    let how = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(how.bits().cast_signed())
        .open(path)
        .and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| RecordError::Broken(format!("it cannot be read: {error}")))?;
    Record::parse(&bytes)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::lifecycle::event::Order;
    use crate::lifecycle::simulation;

    fn record(name: &str) -> Record {
        let Order { plan, choices, .. } = simulation::order(true, None);
        let kind = Kind { program: OsStr::from_bytes(b"/a\xff b/program").into(), ..Kind::clone(&plan.kind) };
        let plan = Plan {
            kind: Arc::new(kind),
            model_path: OsStr::from_bytes(b"/m\xfe").into(),
            env: vec![("A".into(), "b\n\u{1}".into())],
            key: Some(Key { text: "order-1".into(), at: std::time::SystemTime::now() }),
            ..plan
        };
        let share = Share {
            device: Device::Mig { gpu: 1, instance: 7 },
            visible_as: "MIG-1".into(),
            backend: Backend::Cuda,
            total_bytes: 9,
            bytes: u64::MAX,
        };
        let placement = Placement { backend: choices[0].backend, shares: vec![share], host_bytes: 3 };
        let mut record = Record::new(
            LaunchJob {
                id: name.parse().unwrap(),
                run: Run(3),
                plan: Arc::new(plan),
                placement: Arc::new(placement),
                port: 8601,
                token: Token::parse("secret").unwrap(),
                restarts: 2,
                port_moves: 1,
            },
            IpAddr::from([127, 0, 0, 1]),
        );
        record.leader = Identity::of(std::process::id());
        record.install = Some("/data/kinds/k/1-00000000".into());
        record
    }

    #[test]
    fn a_record_reads_as_it_was_written_whatever_its_paths_are() {
        let record = record("w-1");
        assert_eq!(Record::parse(&record.to_json()), Ok(record.clone()));
        let leader = record.leader.unwrap();
        assert!(leader.is_there() && leader.runs_the_same());
        assert!(!Identity { started: leader.started + 1, ..leader.clone() }.is_there());
        assert!(!Identity { boot_id: "another".into(), ..leader }.is_there());
    }

    #[test]
    fn every_cut_and_every_later_form_is_refused() {
        let text = record("w-1").to_json();
        for cut in 0..text.len() {
            assert!(matches!(Record::parse(&text[..cut]), Err(RecordError::Broken(_))), "{cut}");
        }
        let text = String::from_utf8(text).unwrap();
        let later = text.replace("\"format\": 1", "\"format\": 2, \"token\": 7");
        assert_eq!(Record::parse(later.as_bytes()), Err(RecordError::Newer(2)));
        let nobodys = text.replace("\"token\": \"secret\"", "\"token\": \"\"");
        assert_eq!(Record::parse(nobodys.as_bytes()), Err(RecordError::Broken("token: is none".into())));
    }

    #[test]
    fn records_are_their_owners_alone_and_half_of_one_is_never_seen() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let records = Records::of(folder.path());
        assert!(records.read_all().unwrap().records.is_empty());
        let (one, two) = (record("w-1"), record("w-2"));
        records.write(&two).unwrap();
        records.write(&one).unwrap();
        let file = records.path(&one.job.id);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.path().join("workers/.w-3.new"), "half").unwrap();
        fs::copy(&file, folder.path().join("workers/w-4.json")).unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("workers/w-5.json")).unwrap();
        // Nobody writes into it: who waits for that waits for ever.
        let pipe = folder.path().join("workers/w-6.json");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let found = records.read_all().unwrap();
        assert_eq!((found.records, found.broken.len()), (vec![one.clone(), two], 3));
        assert!(!folder.path().join("workers/.w-3.new").exists());
        records.remove(&one.job.id).unwrap();
        records.remove(&one.job.id).unwrap();
        assert!(!file.exists());
    }
}
