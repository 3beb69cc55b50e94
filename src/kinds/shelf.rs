//! The kinds of a running hive: those that it was given, and those that it has installed on its disk.
//!
//! ```text
//! <data-dir>/kinds/<kind>/<version>-<random>/   install.json, files/
//!                  <kind>/current               a link to the one that counts
//!                  .new-<random>/               a provision under way, or what a killed hive left of one
//! ```
//! Invariants: `current` leads to an install that is whole and on the disk, for it is set last, by a rename; an
//! install is removed only when `current` leads elsewhere and no worker, and no request, uses it any more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use log::{info, warn};

use super::install::{FILES, Install, RECORD, Record};
use super::manifest::{Mistake, is_kind_name};
use super::{Entry, Kind, Kinds};
use crate::latest::Latest;

const CURRENT: &str = "current";

/// The folder of installed kinds, and the set of all kinds that follows from it.
pub struct Shelf {
    folder: PathBuf,
    state: Mutex<State>,
    kinds: Arc<Latest<Kinds>>,
    remover: Option<Sender<PathBuf>>,
}

struct State {
    given: Kinds,
    /// Kinds whose program was named by hand: it is never replaced.
    named: BTreeSet<String>,
    installed: Vec<Installed>,
    /// Installs that workers of an earlier run use.
    held: BTreeSet<PathBuf>,
}

/// A kind that is installed, as far as it counts.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Where it lies.
    pub install: Arc<Install>,
    /// Its manifest, if it came with one.
    pub manifest: Option<Kind>,
}

/// A folder in which an install is made; removed with all that is in it, unless it is kept.
pub struct Draft(PathBuf);

impl Draft {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of its files, which is there.
    pub fn files(&self) -> PathBuf {
        self.0.join(FILES)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Shelf {
    /// The kinds in `data_dir` beside those that were `given`, of which these programs were `named` by hand. What is
    /// installed and damaged is left out, and the log says so. Reads the disk and changes nothing. `remover` is told of
    /// installs that nobody uses any more.
    pub fn open(
        data_dir: &Path,
        given: Kinds,
        named: impl IntoIterator<Item = String>,
        remover: Option<Sender<PathBuf>>,
    ) -> Self {
        let folder = data_dir.join("kinds");
        let installed = entries(&folder).filter(|(name, _)| is_kind_name(name)).filter_map(|(name, path)| {
            let there = fs::read_link(path.join(CURRENT)).ok()?;
            // What lies elsewhere is not ours to use, and least of all to remove.
            let there = there.to_str().filter(|there| is_install_name(there) && is_folder(&path));
            let installed = there
                .ok_or_else(|| "its `current` leads to no install in its own folder".to_owned())
                .and_then(|there| read(&name, path.join(there), remover.clone()));
            installed.map_err(|why| warn!("an installed kind is left out kind={name} reason={why:?}")).ok()
        });
        let (installed, named) = (installed.collect(), named.into_iter().collect());
        let state = State { installed, given, named, held: BTreeSet::new() };
        let kinds = Arc::new(Latest::new(state.kinds()));
        Self { folder, state: Mutex::new(state), kinds, remover }
    }

    /// All kinds as they are now.
    pub fn kinds(&self) -> &Arc<Latest<Kinds>> {
        &self.kinds
    }

    /// The install of `kind` in `folder`, for a worker of an earlier run that uses it; `None` if it is none any more.
    pub fn hold(&self, kind: &str, folder: &Path) -> Option<Arc<Install>> {
        let name = folder.strip_prefix(self.folder.join(kind)).ok()?.to_str()?;
        if !is_kind_name(kind) || !is_install_name(name) {
            return None;
        }
        let held = read(kind, folder.to_owned(), self.remover.clone());
        let held =
            held.map_err(|why| warn!("an install that a worker uses is none kind={kind} reason={why:?}"));
        self.state().held.insert(folder.to_owned());
        Some(held.ok()?.install)
    }

    /// What an earlier run left: what it was making, and what it did not use any more. To be asked before anything is
    /// installed or removed; what does not bear a name of ours is somebody else's.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut leftovers = Vec::new();
        let held = self.state().held.clone();
        for (name, home) in entries(&self.folder) {
            if is_draft_name(&name) {
                leftovers.push(home);
                continue;
            }
            if !is_kind_name(&name) || !is_folder(&home) {
                continue;
            }
            let current = match fs::read_link(home.join(CURRENT)) {
                Ok(current) => Some(current),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(_) => continue, // which one counts is not known
            };
            leftovers.extend(entries(&home).filter_map(|(name, path)| {
                let is_ours = is_install_name(name.strip_prefix('.').unwrap_or(&name));
                let is_used = current.as_deref() == Some(Path::new(&name)) || held.contains(&path);
                (is_ours && !is_used).then_some(path)
            }));
        }
        leftovers
    }

    /// Removes the `leftovers`, which may take a while.
    pub fn tidy(&self, leftovers: &[PathBuf]) {
        leftovers.iter().for_each(|path| remove(path));
        for (_, home) in entries(&self.folder).filter(|(name, _)| is_kind_name(name)) {
            let _ = fs::remove_dir(home); // if it is empty
        }
    }

    /// Puts other kinds in the place of those that were given.
    pub fn give(&self, given: Kinds) {
        let mut state = self.state();
        state.given = given;
        self.publish(&state);
    }

    /// The kinds that were given.
    pub fn given(&self) -> Kinds {
        self.state().given.clone()
    }

    /// Whether an install of `kind` would count: nobody said where its program is to be.
    pub fn takes(&self, kind: &str) -> bool {
        let state = self.state();
        let given = state.given.iter().find(|entry| entry.kind.name == kind);
        !state.named.contains(kind) && given.is_none_or(Entry::takes_install)
    }

    /// What is installed as `kind`.
    pub fn installed(&self, kind: &str) -> Option<Arc<Install>> {
        let state = self.state();
        let mut all = state.installed.iter().map(|installed| &installed.install);
        all.find(|install| install.record().kind == kind).cloned()
    }

    /// Begins an install.
    ///
    /// # Errors
    /// If the disk says so.
    pub fn draft(&self) -> io::Result<Draft> {
        let path = self.folder.join(format!(".new-{}", uuid::Uuid::new_v4().simple()));
        make_folder(&path)?;
        let draft = Draft(path);
        make_folder(&draft.files())?;
        Ok(draft)
    }

    /// Keeps what was made in `draft`, in the place of what is installed as that kind. The kinds of the hive follow.
    ///
    /// # Errors
    /// If its manifest has a mistake, or the disk says so; all is then as before.
    pub fn keep(&self, draft: Draft, record: &Record) -> Result<Arc<Install>, KeepError> {
        let Record { kind, version, .. } = record;
        Install::new(record.clone(), draft.path().to_owned(), None)
            .manifest()
            .map_err(KeepError::Manifest)?;
        let mut file = File::create_new(draft.path().join(RECORD))?;
        let text = serde_json::to_vec(record).expect("a record is valid JSON");
        file.write_all(&text)?;
        // All files at once: one by one would wait for the disk as often as there are files.
        rustix::fs::syncfs(&file).map_err(io::Error::from)?;

        let home = self.folder.join(kind);
        make_folder(&home)?;
        if !is_folder(&home) {
            return Err(io::Error::from(ErrorKind::NotADirectory).into());
        }
        let name = format!("{version}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let folder = home.join(&name);
        fs::rename(draft.path(), &folder)?;
        let placed = Draft(folder.clone());
        let installed = read(kind, folder, self.remover.clone()).map_err(io::Error::other)?;
        installed.install.believe().map_err(|damaged| io::Error::other(damaged.to_string()))?;
        let link = Draft(home.join(format!(".{name}")));
        symlink(&name, link.path())?;
        // Before the link is seen, what it leads to must be.
        sync(&home)?;
        let mut state = self.state();
        fs::rename(link.path(), home.join(CURRENT))?;
        std::mem::forget(placed);
        if let Err(error) = sync(&home).and_then(|()| sync(&self.folder)) {
            warn!("an installed kind may be the old one after a power cut kind={kind} error={error}");
        }
        let install = Arc::clone(&installed.install);
        state.installed.retain(|other| other.install.record().kind != *kind);
        state.installed.push(installed);
        self.publish(&state);
        info!("kind installed kind={kind} version={version} sha256={}", record.sha256);
        Ok(install)
    }

    /// Takes `kind` out of what is installed; whether it was there. Its files go when no worker uses them any more.
    ///
    /// # Errors
    /// If the disk says so; it is then still there.
    pub fn remove(&self, kind: &str) -> io::Result<bool> {
        let mut state = self.state();
        let Some(at) = state.installed.iter().position(|other| other.install.record().kind == kind) else {
            return Ok(false);
        };
        let home = self.folder.join(kind);
        match fs::remove_file(home.join(CURRENT)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) => {} // somebody was faster
            Ok(()) => sync(&home)?,
        }
        state.installed.remove(at);
        self.publish(&state);
        info!("kind removed kind={kind}");
        Ok(true)
    }

    /// Removes the install in `folder`, which nobody uses any more, unless it is a current one.
    pub fn discard(&self, folder: &Path) {
        let state = self.state();
        let Some((home, name)) = folder.parent().zip(folder.file_name()) else { return };
        if fs::read_link(home.join(CURRENT)).is_ok_and(|current| current == name) {
            return;
        }
        // Out of sight at once: half of it is never seen.
        let gone = self.folder.join(format!(".old-{}", uuid::Uuid::new_v4().simple()));
        if fs::rename(folder, &gone).is_ok() {
            info!("an install that nobody uses any more is removed folder={name:?}");
            let _ = fs::remove_dir(home); // if it is empty
        }
        drop(state);
        remove(&gone);
    }

    fn publish(&self, state: &State) {
        self.kinds.set(state.kinds());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kinds(&self) -> Kinds {
        let counts = |installed: &&Installed| !self.named.contains(&installed.install.record().kind);
        self.given.with_installed(self.installed.iter().filter(counts))
    }
}

/// Why an install is not kept.
#[derive(Debug)]
pub enum KeepError {
    /// Its manifest has a mistake.
    Manifest(Mistake),
    /// The disk fails, or is full.
    Disk(io::Error),
}

impl From<io::Error> for KeepError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// What lies in `folder` as an install of `kind`; why not, for a person.
fn read(kind: &str, folder: PathBuf, remover: Option<Sender<PathBuf>>) -> Result<Installed, String> {
    let record = Record::read(&folder)?;
    if record.kind != kind {
        return Err("its record is one of another kind".to_owned());
    }
    // Told only of what is whole: the folder of a damaged one stays for who looks at it.
    let manifest = Install::new(record.clone(), folder.clone(), None).manifest();
    let manifest = manifest.map_err(|mistake| format!("its kind.json: {mistake}"))?;
    Ok(Installed { install: Arc::new(Install::new(record, folder, remover)), manifest })
}

/// Whether it is how an install is named: by its version and 8 hex digits.
fn is_install_name(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(version, random)| {
        !version.starts_with('.') && !version.contains('/') && is_random(random, 8)
    })
}

/// Whether it is how something is named that is being made, or removed.
fn is_draft_name(name: &str) -> bool {
    name.strip_prefix(".new-").or_else(|| name.strip_prefix(".old-")).is_some_and(|rest| is_random(rest, 32))
}

fn is_random(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A link to one is none.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.is_dir())
}

/// The entries of a folder by name; none if it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<_> =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect();
    entries.sort();
    entries.into_iter()
}

/// A folder that others may read and not write.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a folder, or whatever it is; what cannot be removed stays for the next start.
fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        warn!("what is of no use any more cannot be removed path={path:?} error={error}");
    }
}
