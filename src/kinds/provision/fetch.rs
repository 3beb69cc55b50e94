//! One provision from its beginning to its end, on the thread `provision`.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crossbeam_channel::{RecvTimeoutError, bounded};
use log::debug;

use super::checksum;
use super::unpack::{self, Bounds, UnpackError};
use super::{LATEST, Outcome, PLATFORM, Provision, ProvisionError, Sha256, Shared, Stage, Version, Wish};
use crate::id::SystemEntropy;
use crate::kinds::install::{FileRecord, Install, Record};
use crate::kinds::shelf::{Draft, KeepError};
use crate::limits::{
    ARTIFACT_BYTES_MAX, CHECKSUM_BYTES_MAX, PROGRESS_INTERVAL, TRANSFER_BACKOFF_FIRST, TRANSFER_BUFFER_BYTES,
};
use crate::models::downloads::speed::Speed;
use crate::models::hub::Hub;
use crate::models::layout::Repository;
use crate::models::remote::{Digest, HubError, RemoteFile};
use crate::models::transfer::retry::Retry;
use crate::models::transfer::{self, Meter, TransferError};

impl Shared {
    /// Fetches and installs what `provision` wishes for. Of what came before an error nothing is left.
    pub(super) fn fetch(&self, provision: &Provision) -> Outcome {
        let Wish { kind, version, sha256 } = provision.wish();
        let (kind, version) = (kind.as_str(), version.as_ref().map_or(LATEST, Version::as_str));
        let artifacts = self.artifacts.as_ref().ok_or(ProvisionError::NoServer)?;
        let path = format!("{kind}/{version}/{PLATFORM}");
        let sha256 = sha256.map_or_else(|| self.published(artifacts, &path), Ok)?;
        if let Some(install) = self.has(kind, sha256) {
            return Ok(install);
        }
        let bytes =
            self.again(|| artifacts.length(&format!("/{path}"), &self.cut)).map_err(|error| match error {
                HubError::NoFile => ProvisionError::NotThere,
                error => ProvisionError::Server(error),
            })?;
        if !(1..=ARTIFACT_BYTES_MAX).contains(&bytes) {
            return Err(ProvisionError::Length(bytes));
        }
        let draft = self.shelf.draft().map_err(|error| disk(&error))?;
        check_room(draft.path(), bytes)?;
        let file = RemoteFile { path, bytes, digest: Digest::Sha256(sha256.0) };
        let incoming = Repository::named(draft.path(), "incoming");
        self.transfer(provision, artifacts, &incoming, &file)?;
        provision.show(Stage::Installing);
        (self.changed)();
        let record = Record::new(kind, version, &sha256.0);
        let record = self.place(record, &incoming.blob(&file.digest), &draft)?;
        for leftover in [incoming.path(), draft.path().join(".locks")] {
            fs::remove_dir_all(leftover).map_err(|error| disk(&error))?;
        }
        self.shelf.keep(draft, &record).map_err(|error| match error {
            KeepError::Manifest(mistake) => ProvisionError::BadArtifact(format!("kind.json: {mistake}")),
            KeepError::Disk(error) => disk(&error),
        })
    }

    /// What is installed, if it is that artifact, whole.
    fn has(&self, kind: &str, sha256: Sha256) -> Option<Arc<Install>> {
        let install = self.shelf.installed(kind)?;
        (install.record().sha256 == sha256.to_string() && install.verify(&self.cut).is_ok())
            .then_some(install)
    }

    /// The checksum that stands beside the artifact.
    fn published(&self, artifacts: &Hub, path: &str) -> Result<Sha256, ProvisionError> {
        let beside = format!("/{path}.sha256");
        let text = self.again(|| artifacts.text(&beside, CHECKSUM_BYTES_MAX, &self.cut)).map_err(
            |error| match error {
                // Which of both is missing decides what is to be done about it.
                HubError::NoFile => match self.again(|| artifacts.length(&format!("/{path}"), &self.cut)) {
                    Ok(_) => ProvisionError::NoChecksum,
                    Err(HubError::NoFile) => ProvisionError::NotThere,
                    Err(error) => ProvisionError::Server(error),
                },
                HubError::TOO_LONG => ProvisionError::BadChecksum,
                error => ProvisionError::Server(error),
            },
        )?;
        checksum::published(&text).map(Sha256).ok_or(ProvisionError::BadChecksum)
    }

    /// Asks until it is answered, or what may pass did not.
    fn again<T>(&self, ask: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut retry = Retry::new(TRANSFER_BACKOFF_FIRST);
        loop {
            let error = match ask() {
                Err(error) if error.is_passing() => error,
                answered => return answered,
            };
            debug!("the artifact server is asked again error={error:?}");
            let asked = match error {
                HubError::Busy { retry_after, .. } => retry_after,
                _ => None,
            };
            let wait = retry.failed(0, asked, &mut SystemEntropy::new()).ok_or(error)?;
            self.cut.pause(wait).map_err(|_| HubError::Cut)?;
        }
    }

    /// Fetches the artifact, and shows how far it is meanwhile.
    fn transfer(
        &self,
        provision: &Provision,
        artifacts: &Hub,
        incoming: &Repository,
        file: &RemoteFile,
    ) -> Result<(), ProvisionError> {
        let (origin, meter) = (artifacts.files(&self.cut), Meter::default());
        let (mut speed, mut most) = (Speed::default(), 0);
        let mut show = || {
            most = meter.bytes.load(Relaxed).max(most).min(file.bytes);
            let stage = if meter.verifying.load(Relaxed) {
                Stage::Installing
            } else {
                Stage::Downloading {
                    bytes: most,
                    total_bytes: file.bytes,
                    bytes_per_second: speed.at(meter.came.load(Relaxed), Instant::now()),
                    attempt: meter.attempt.load(Relaxed).max(1),
                }
            };
            provision.show(stage);
            (self.changed)();
        };
        let fetched = std::thread::scope(|scope| {
            let (ending, ended) = bounded::<()>(0);
            let fetch = || {
                let _ending = ending; // dropped at the end, however that comes
                transfer::fetch(&origin, incoming, file, &self.cut, &meter)
            };
            let thread = std::thread::Builder::new().name("transfer".to_owned()).spawn_scoped(scope, fetch);
            let thread = thread.map_err(|error| TransferError::Disk(error.kind()))?;
            let mut wait = PROGRESS_INTERVAL / 10;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
                show();
                wait = PROGRESS_INTERVAL;
            }
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        fetched.map(drop).map_err(|error| match error {
            TransferError::Hub(HubError::OTHER_FILE) | TransferError::Corrupt => {
                ProvisionError::WrongChecksum
            }
            TransferError::Hub(error) => ProvisionError::Server(error),
            TransferError::DiskFull => ProvisionError::DiskFull,
            TransferError::Disk(kind) => ProvisionError::Disk(kind),
            // Nobody else knows of the folder.
            TransferError::Locked => ProvisionError::Disk(ErrorKind::ResourceBusy),
        })
    }

    /// Puts what came among the files of the draft: unpacked, or as the program of a kind that is known.
    fn place(&self, record: Record, artifact: &Path, draft: &Draft) -> Result<Record, ProvisionError> {
        let failed = |error: io::Error| disk(&error);
        if unpack::is_gzip(artifact).map_err(failed)? {
            let archive = File::open(artifact).map_err(failed)?;
            let archive = BufReader::with_capacity(TRANSFER_BUFFER_BYTES, archive);
            let is_cut = || self.cut.is_cut();
            let contents =
                unpack::unpack(archive, &draft.files(), Bounds::default(), &is_cut).map_err(|error| {
                    match error {
                        UnpackError::Disk(error) => disk(&error),
                        UnpackError::Cut => ProvisionError::Server(HubError::Cut),
                        error => ProvisionError::BadArtifact(error.to_string()),
                    }
                })?;
            let none = || {
                ProvisionError::BadArtifact(
                    "the archive has no kind.json, at its top or in its one folder".to_owned(),
                )
            };
            return record.of_archive(contents.files, contents.links).ok_or_else(none);
        }
        if self.shelf.given().get(&record.kind).is_none() {
            let why = "it is no archive with a kind.json, and no kind of that name is known without one";
            return Err(ProvisionError::BadArtifact(why.to_owned()));
        }
        if !is_program(artifact).map_err(failed)? {
            let why = "it is neither a gzipped tar, nor an ELF program, nor a script that begins with #!";
            return Err(ProvisionError::BadArtifact(why.to_owned()));
        }
        let program = draft.files().join(&record.kind);
        fs::rename(artifact, &program).map_err(failed)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755)).map_err(failed)?;
        let bytes = fs::metadata(&program).map_err(failed)?.len();
        let file = FileRecord { path: record.kind.clone(), bytes, sha256: record.sha256.clone() };
        Ok(record.of_program(file))
    }
}

fn is_program(file: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    File::open(file)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF" || magic.starts_with(b"#!"))
}

/// Where the file system does not say what it has, the writing will tell.
fn check_room(folder: &Path, required_bytes: u64) -> Result<(), ProvisionError> {
    let Ok(room) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let available_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    if required_bytes <= available_bytes {
        Ok(())
    } else {
        Err(ProvisionError::NoSpace { required_bytes, available_bytes })
    }
}

fn disk(error: &io::Error) -> ProvisionError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ProvisionError::DiskFull,
        kind => ProvisionError::Disk(kind),
    }
}
