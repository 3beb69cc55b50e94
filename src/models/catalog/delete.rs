//! Removes models from the cache.
//!
//! The order is such that `huggingface_hub` approves of the cache after each step, however it ends: refs before
//! the snapshot that they mean, links before their blobs, and a repository's folder goes at once, after all that
//! was in it. A blob goes under its lock, once no link to it is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::Catalog;
use super::scan::{self, Snapshot};
use super::used::Used;
use crate::limits::{BLOB_NAME_BYTES_MAX, DELETE_LOCKS_MAX};
use crate::models::cache::Missing;
use crate::models::choose;
use crate::models::layout::{BlobLock, Repository};
use crate::models::reference::{HubRef, Pick};

/// Why a model was not deleted. The messages are for whoever asked: no path of this machine is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteError {
    /// It is not there.
    NotFound(Missing),
    /// A worker uses it.
    InUse,
    /// It, or another file of it, is being downloaded.
    Busy,
    /// The disk fails, or the repository is too large or too strange to tell what else its files belong to.
    Disk(ErrorKind),
}

impl fmt::Display for DeleteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(missing) => missing.fmt(f),
            Self::InUse => f.write_str("a worker uses the model"),
            Self::Busy => f.write_str("the model is being downloaded"),
            Self::Disk(kind) => write!(f, "the model cache cannot be changed: {kind}"),
        }
    }
}

impl std::error::Error for DeleteError {}

impl From<io::Error> for DeleteError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.kind())
    }
}

impl From<Missing> for DeleteError {
    fn from(missing: Missing) -> Self {
        Self::NotFound(missing)
    }
}

impl Catalog {
    /// Deletes what `hub` means: the whole repository with its leftovers; with a revision that snapshot; with a
    /// quantisation or path that file alone, all its shards, of that revision or of `main`. Blobs stay as long as
    /// another file links to them.
    ///
    /// `used` are the files and folders that workers were given: by a name that goes, or by the blob behind it.
    ///
    /// # Errors
    /// Before anything is changed: it is not there, in use, being downloaded, or cannot be read to its end. If the
    /// disk fails in the middle, some of it is gone; the same call goes on.
    pub fn delete(&self, hub: &HubRef, used: &[PathBuf]) -> Result<(), DeleteError> {
        let _one = self.deleting.lock().unwrap_or_else(PoisonError::into_inner);
        let root = self.model_dir.canonicalize().map_err(|_| Missing::Repository)?;
        let removal = Removal { repository: Repository::new(&root, hub), folder: hub.folder(), root };
        if !fs::symlink_metadata(removal.repository.path()).is_ok_and(|metadata| metadata.is_dir()) {
            // Of a delete that was killed at its end.
            removal.remove_locks();
            return Err(Missing::Repository.into());
        }
        let there = removal.read()?;
        let aim = Aim::of(hub, &there)?;
        let used = Used::new(&self.model_dir, &removal.root, used);
        let path = removal.repository.path();
        if aim.all_paths(&there).iter().any(|going| used.is_in(&path.join(going))) {
            return Err(DeleteError::InUse);
        }
        removal.run(&aim, &there)
    }
}

/// What is to be deleted.
#[derive(Debug, PartialEq, Eq)]
enum Aim {
    Repository,
    /// By its index.
    Snapshot(usize),
    /// Files of a snapshot, by their indices; not all of them.
    Files(usize, BTreeSet<usize>),
}

impl Aim {
    fn of(hub: &HubRef, there: &scan::Repository) -> Result<Self, DeleteError> {
        // What it cannot see may link to any blob, or be what a worker uses.
        if !there.is_whole {
            return Err(DeleteError::Disk(ErrorKind::InvalidData));
        }
        if *hub.pick() == Pick::Any && hub.given_revision().is_none() {
            return Ok(Self::Repository);
        }
        let at = snapshot(there, hub.revision()).ok_or(Missing::Revision)?;
        if *hub.pick() == Pick::Any {
            return Ok(Self::Snapshot(at));
        }
        let files = picked(&there.snapshots[at], hub.pick())?;
        let is_all = files.len() == there.snapshots[at].files.len();
        Ok(if is_all { Self::Snapshot(at) } else { Self::Files(at, files) })
    }

    /// Which files and folders of the repository go, by their paths in it.
    fn paths(&self, there: &scan::Repository) -> Vec<PathBuf> {
        let folder = |snapshot: &Snapshot| Path::new("snapshots").join(&snapshot.name);
        match self {
            Self::Repository => there.snapshots.iter().map(folder).collect(),
            Self::Snapshot(at) => vec![folder(&there.snapshots[*at])],
            Self::Files(at, files) => {
                let snapshot = &there.snapshots[*at];
                files.iter().map(|file| folder(snapshot).join(&snapshot.files[*file].path)).collect()
            }
        }
    }

    /// The same, and the blobs that go with them.
    fn all_paths(&self, there: &scan::Repository) -> Vec<PathBuf> {
        if *self == Self::Repository {
            return vec![PathBuf::new()];
        }
        let mut paths = self.paths(there);
        paths.extend(self.blobs(there).into_values().flatten().map(|name| Path::new("blobs").join(name)));
        paths
    }

    /// The blobs that nothing links to any more once it is done.
    ///
    /// Each by its lock's name, with all that has the same lock: what downloads of it left.
    fn blobs<'a>(&self, there: &'a scan::Repository) -> BTreeMap<&'a OsStr, Vec<&'a OsStr>> {
        let is_meant = |at: usize, file: usize| match self {
            Self::Repository => true,
            Self::Snapshot(meant) => *meant == at,
            Self::Files(meant, files) => *meant == at && files.contains(&file),
        };
        let (mut going, mut staying) = (BTreeSet::new(), BTreeSet::new());
        for (at, snapshot) in there.snapshots.iter().enumerate() {
            for (index, file) in snapshot.files.iter().enumerate() {
                let side = if is_meant(at, index) { &mut going } else { &mut staying };
                side.extend(file.blob.as_deref());
            }
        }
        let mut blobs: BTreeMap<&OsStr, Vec<&OsStr>> = BTreeMap::new();
        for name in &there.blobs {
            let blob = of_leftover(name);
            if *self == Self::Repository || going.contains(blob) && !staying.contains(blob) {
                blobs.entry(blob).or_default().push(name);
            }
        }
        blobs
    }
}

/// The snapshot of a branch or tag, or of a commit.
fn snapshot(there: &scan::Repository, revision: &str) -> Option<usize> {
    let commit = there.refs.iter().find(|at| at.path == Path::new(revision)).map(|at| at.commit.as_str());
    let named = |name: &str| there.snapshots.iter().position(|snapshot| snapshot.name == name);
    commit.and_then(named).or_else(|| named(revision))
}

/// The files of `snapshot` that `pick` means, those with a broken link too.
fn picked(snapshot: &Snapshot, pick: &Pick) -> Result<BTreeSet<usize>, Missing> {
    let names: Vec<Option<&str>> = snapshot.files.iter().map(|file| file.path.to_str()).collect();
    let known: Vec<String> = names.iter().flatten().map(|name| (*name).to_owned()).collect();
    let shards = match pick {
        // A projector is no model, but a file.
        Pick::File(path) if known.contains(path) => choose::shards(path),
        pick => choose::gguf(&known, pick).map_err(|none| Missing::Gguf { quants: none.quants })?,
    };
    let is_meant = |name: &str| shards.iter().any(|shard| shard == name);
    let indices = names.iter().enumerate().filter(|(_, name)| name.is_some_and(is_meant));
    Ok(indices.map(|(index, _)| index).collect())
}

/// The blob that a leftover in `blobs/` is of; any other name as it is.
fn of_leftover(name: &OsStr) -> &OsStr {
    let plain = name.to_str().and_then(|name| {
        let name = name.strip_suffix(".parts").unwrap_or(name);
        // Between the two may stand whose it is.
        name.strip_suffix(".incomplete")?.split('.').next().map(OsStr::new)
    });
    plain.unwrap_or(name)
}

/// A removal from one repository.
struct Removal {
    /// The model directory, resolved.
    root: PathBuf,
    folder: String,
    repository: Repository,
}

/// Whether a blob may be removed.
enum Right {
    /// With its lock; none where nobody can have it.
    Given(Option<BlobLock>),
    /// Somebody writes it.
    Denied,
}

impl Removal {
    fn read(&self) -> io::Result<scan::Repository> {
        scan::Repository::read(&self.root, &self.repository.path())
    }

    fn run(&self, aim: &Aim, there: &scan::Repository) -> Result<(), DeleteError> {
        // Nothing is removed beyond a link: what lies there is somebody else's.
        let folders = [self.repository.refs(), self.repository.snapshots(), self.repository.blobs()];
        if folders.iter().any(|folder| is_something_else(folder)) {
            return Err(DeleteError::Disk(ErrorKind::NotADirectory));
        }
        let blobs: Vec<_> = aim.blobs(there).into_iter().collect();
        for (blob, _) in &blobs {
            if let Right::Denied = self.right(blob)? {
                return Err(DeleteError::Busy);
            }
        }
        self.remove_refs(aim, there)?;
        self.remove_links(aim, there)?;
        let mut all_gone = self.remove_blobs(&blobs)?;
        let is_empty = self.read()?.is_empty();
        if is_empty {
            self.remove_folder()?;
        }
        // Something came meanwhile.
        all_gone &= is_empty || *aim != Aim::Repository;
        if all_gone { Ok(()) } else { Err(DeleteError::Busy) }
    }

    fn remove_refs(&self, aim: &Aim, there: &scan::Repository) -> io::Result<()> {
        let refs = self.repository.refs();
        let commit = match aim {
            Aim::Repository => return remove_all(&refs),
            Aim::Snapshot(at) => &there.snapshots[*at].name,
            Aim::Files(..) => return Ok(()),
        };
        for at in there.refs.iter().filter(|at| at.commit.as_str() == commit) {
            remove_file(&refs.join(&at.path))?;
            remove_empty_above(&refs.join(&at.path), &refs);
        }
        Ok(())
    }

    fn remove_links(&self, aim: &Aim, there: &scan::Repository) -> io::Result<()> {
        for path in aim.paths(there) {
            let path = self.repository.path().join(path);
            if let Aim::Files(at, _) = aim {
                remove_file(&path)?;
                remove_empty_above(&path, &self.repository.snapshots().join(&there.snapshots[*at].name));
            } else {
                remove_all(&path)?;
                // What `huggingface_hub` notes of files that the commit does not have.
                let commit = path.file_name().expect("a snapshot has a name");
                let notes = self.repository.path().join(".no_exist");
                if !is_something_else(&notes) {
                    remove_all(&notes.join(commit))?;
                }
            }
        }
        Ok(())
    }

    /// Removes those of `blobs` that nothing links to; whether all could be had.
    fn remove_blobs(&self, blobs: &[(&OsStr, Vec<&OsStr>)]) -> io::Result<bool> {
        let mut all = true;
        for some in blobs.chunks(DELETE_LOCKS_MAX) {
            let mut rights = Vec::new();
            for (blob, names) in some {
                match self.right(blob)? {
                    Right::Given(lock) => rights.push((blob, names, lock)),
                    Right::Denied => all = false,
                }
            }
            // Once more, now that nobody can link them under a lock.
            let there = self.read()?;
            let linked = there.linked();
            for (_, names, _lock) in rights.iter().filter(|(blob, ..)| !linked.contains(*blob)) {
                names.iter().try_for_each(|name| remove_all(&self.repository.blobs().join(name)))?;
            }
        }
        Ok(all)
    }

    /// Asks for the right to remove a blob.
    fn right(&self, blob: &OsStr) -> io::Result<Right> {
        let Some(blob) = blob.to_str().filter(|blob| blob.len() <= BLOB_NAME_BYTES_MAX) else {
            return Ok(Right::Given(None));
        };
        match self.repository.try_lock(blob) {
            Ok(Some(lock)) => Ok(Right::Given(Some(lock))),
            Ok(None) => Ok(Right::Denied),
            // There is no room for a lock's file, hence nobody has it; or there are no locks at all.
            Err(error) if has_no_locks(error.kind()) => Ok(Right::Given(None)),
            Err(error) => Err(error),
        }
    }

    /// Removes the repository's folder, now that nothing is in it but empty folders and what nobody knows, and
    /// its locks.
    fn remove_folder(&self) -> io::Result<()> {
        let path = self.repository.path();
        let snapshots = self.repository.snapshots();
        for entry in fs::read_dir(&path)? {
            let entry = entry?.path();
            if entry == self.repository.blobs() {
                // Not what came into it meanwhile.
                fs::remove_dir(&entry)?;
            } else if entry != snapshots {
                remove_all(&entry)?;
            }
        }
        // Without `snapshots` it would be a damaged repository, so it goes to where none is looked for first.
        let grave = self.locks().join(format!("{}.gone", uuid::Uuid::new_v4().simple()));
        if self.has_locks() && fs::rename(&path, &grave).is_ok() {
            remove_all(&grave)?;
        } else {
            remove_all(&path)?;
        }
        self.remove_locks();
        Ok(())
    }

    fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.folder)
    }

    /// Whether the folder of locks is there, and in the cache.
    fn has_locks(&self) -> bool {
        !is_something_else(&self.root.join(".locks")) && !is_something_else(&self.locks())
    }

    /// Removes the files of locks that nobody has. What cannot be removed does no harm.
    fn remove_locks(&self) {
        if !self.has_locks() {
            return;
        }
        for entry in fs::read_dir(self.locks()).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.extension().is_some_and(|extension| extension == "gone") {
                let _ = remove_all(&path);
            } else if let Some(blob) = name.to_str().and_then(|name| name.strip_suffix(".lock"))
                && let Ok(Some(_lock)) = self.repository.try_lock(blob)
            {
                let _ = remove_file(&path);
            }
        }
        let _ = fs::remove_dir(self.locks());
    }
}

fn has_no_locks(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::Unsupported)
}

/// Whether there is something at `path` that is no folder itself: a link to one, as well.
fn is_something_else(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir())
}

/// Removes a file or link, if it is there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes whatever is at `path`; where that is a link, the link alone.
fn remove_all(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
        Ok(_) => remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the folders above `path` that are empty, up to `top`, which stays.
fn remove_empty_above(path: &Path, top: &Path) {
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != top);
    for folder in folders {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}
