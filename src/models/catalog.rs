//! What is in the model directory, read from it and nowhere else noted.
//!
//! Names and links are read once and believed as long as the folders that hold them stay the same; sizes and
//! times are looked at each time. Nothing that lies there is fatal: what is strange is passed over, what is
//! broken is told.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::choose;
use super::reference::{HubRef, ModelRef};
use crate::api::{Model, ModelFile};
use crate::clock::rfc3339;
use crate::limits::CATALOG_REPOSITORIES_MAX;

mod delete;
mod scan;
#[cfg(test)]
mod tests;
mod used;

pub use delete::DeleteError;
use scan::{Repository, Snapshot};
use used::Used;

/// The models of a directory laid out as `huggingface_hub` does it.
#[derive(Debug)]
pub struct Catalog {
    model_dir: PathBuf,
    known: Mutex<Known>,
    /// One delete at a time: each must see what the other left.
    deleting: Mutex<()>,
}

/// Repositories by the name of their folder, as they were when they were read.
#[derive(Debug, Default)]
struct Known {
    /// The model directory, resolved.
    root: PathBuf,
    repositories: HashMap<OsString, Repository>,
}

impl Catalog {
    /// The catalog of `model_dir`, whether that is there or not. Reads nothing yet.
    pub fn new(model_dir: &Path) -> Self {
        Self { model_dir: model_dir.to_owned(), known: Mutex::default(), deleting: Mutex::default() }
    }

    /// What is there, sorted by name, of each repository the newest snapshot first; one that has only leftovers
    /// has one entry without a revision. Repositories that no reference can name are passed over.
    ///
    /// `used` are the files and folders that workers were given. A snapshot is in use if one of them is it, lies in
    /// it, or is what a file of it links to.
    pub fn list(&self, used: &[PathBuf]) -> Vec<Model> {
        let Ok(root) = self.model_dir.canonicalize() else { return Vec::new() };
        let used = Used::new(&self.model_dir, &root, used);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.root != root {
            *known = Known { root, ..Known::default() };
        }
        let mut before = mem::take(&mut known.repositories);
        let mut models = Vec::new();
        for (folder, hub) in folders(&known.root) {
            let path = known.root.join(&folder);
            let Ok(here) = scan::open(&path) else { continue };
            let repository = match before.remove(&folder).filter(|repository| repository.is_current(&here)) {
                Some(repository) => repository,
                None => match Repository::read(&known.root, &path) {
                    Ok(repository) => repository,
                    Err(_) => continue,
                },
            };
            let in_use = |snapshot: &Snapshot| {
                let mut files = snapshot.files.iter().filter_map(|file| file.payload);
                used.is_in(&path.join("snapshots").join(&snapshot.name))
                    || files.any(|index| used.is(&path.join(&repository.payloads[index])))
            };
            models.extend(entries(&repository, &here, &hub, &in_use));
            known.repositories.insert(folder, repository);
        }
        models
    }
}

/// The folders of repositories that a reference can name, and how it does; sorted by that.
fn folders(root: &Path) -> Vec<(OsString, HubRef)> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let folder = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let hub = hub(name.to_str()?)?;
        entry.file_type().is_ok_and(|kind| kind.is_dir()).then_some((name, hub))
    };
    let mut folders: Vec<_> = entries.take(CATALOG_REPOSITORIES_MAX).flatten().filter_map(folder).collect();
    folders.sort_by_cached_key(|(_, hub)| hub.to_string());
    folders
}

/// `models--org--repo` as `hf:org/repo`.
fn hub(folder: &str) -> Option<HubRef> {
    let (org, repo) = folder.strip_prefix("models--")?.split_once("--")?;
    match format!("hf:{org}/{repo}").parse() {
        Ok(ModelRef::Hub(hub)) => Some(hub).filter(|hub| hub.folder() == folder),
        _ => None,
    }
}

/// Length of a file, what it takes of the disk, and when it was last read or written.
#[derive(Debug, Clone, Copy)]
struct Payload {
    bytes: u64,
    disk_bytes: u64,
    used: SystemTime,
}

impl Payload {
    /// Of the file at `path`, from `folder`; none if it is gone, or no regular file any more.
    fn of(folder: impl AsFd, path: &Path) -> Option<Self> {
        let stat = scan::look(folder, path).ok().filter(scan::is_file)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let used = (stat.st_atime, stat.st_atime_nsec).max((stat.st_mtime, stat.st_mtime_nsec));
        Some(Self {
            bytes,
            disk_bytes: bytes.min(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)),
            used: scan::time(used),
        })
    }
}

/// What is told of a repository, looked at from its folder.
fn entries(
    repository: &Repository,
    folder: &OwnedFd,
    hub: &HubRef,
    in_use: &dyn Fn(&Snapshot) -> bool,
) -> Vec<Model> {
    let payloads: Vec<_> = repository.payloads.iter().map(|path| Payload::of(folder, path)).collect();
    let leftovers = repository.leftovers.iter().filter_map(|index| payloads[*index]);
    let leftover_bytes =
        leftovers.clone().fold(0, |sum: u64, payload| sum.saturating_add(payload.disk_bytes));
    let is_unfinished = repository.blobs.iter().any(|name| is_unfinished(name));
    let mut snapshots: Vec<_> = repository.snapshots.iter().collect();
    snapshots.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.name.cmp(&b.name)));
    let mut models: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            let model = entry(repository, hub, snapshot, &payloads);
            Model { in_use: in_use(snapshot), ..model }
        })
        .collect();
    if models.is_empty() && !repository.blobs.is_empty() {
        models.push(Model {
            model_ref: hub.to_string(),
            revision: None,
            refs: Vec::new(),
            files: Vec::new(),
            size_bytes: 0,
            last_used: leftovers.map(|payload| payload.used).max().map(rfc3339),
            in_use: false,
            partial: true,
            broken: Vec::new(),
            leftover_bytes: 0,
        });
    }
    if let Some(newest) = models.first_mut() {
        newest.leftover_bytes = leftover_bytes;
        newest.partial |= is_unfinished;
    }
    models
}

fn entry(repository: &Repository, hub: &HubRef, snapshot: &Snapshot, payloads: &[Option<Payload>]) -> Model {
    let mut files = Vec::new();
    let mut broken = Vec::new();
    let mut all = BTreeSet::new();
    for file in &snapshot.files {
        let name = shown(file.path.as_os_str());
        match file.payload.and_then(|index| Some((index, payloads[index]?))) {
            Some((index, Payload { bytes, .. })) => {
                all.insert(index);
                files.push(ModelFile { name, size_bytes: bytes });
            }
            None => broken.push(name),
        }
    }
    let all = || all.iter().filter_map(|index| payloads[*index]);
    let commit = shown(&snapshot.name);
    let refs = repository.refs.iter().filter(|at| at.commit == commit);
    let mut refs: Vec<_> = refs.map(|at| shown(at.path.as_os_str())).collect();
    refs.sort();
    Model {
        model_ref: hub.to_string(),
        revision: Some(commit),
        refs,
        partial: !broken.is_empty() || !repository.is_whole || lacks_shards(&files),
        files,
        size_bytes: all().fold(0, |sum, payload| sum.saturating_add(payload.bytes)),
        last_used: all().map(|payload| payload.used).max().map(rfc3339),
        in_use: false,
        broken,
        leftover_bytes: 0,
    }
}

/// Whether one of the files that a split file must have is not among them.
fn lacks_shards(files: &[ModelFile]) -> bool {
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    files.iter().any(|file| {
        if seen.contains(&file.name) {
            return false;
        }
        let shards = choose::shards(&file.name);
        let lacks = shards.iter().any(|shard| !names.contains(shard.as_str()));
        seen.extend(shards);
        lacks
    })
}

/// Whether a name in `blobs/` is that of a download that has not ended.
fn is_unfinished(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "incomplete")
}

/// A name as it may be shown: what could steer a terminal or a log is escaped, what is no UTF-8 replaced.
fn shown(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if !name.contains(char::is_control) {
        return name.into_owned();
    }
    let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    name.chars().map(escaped).collect()
}
