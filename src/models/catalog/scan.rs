//! What lies in a repository's folder: names and links, without their sizes and times.
//!
//! Links to folders are not followed, so a path within the repository means what it says, and a loop ends where
//! it begins.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, statat};

use crate::limits::{CATALOG_DEPTH_MAX, CATALOG_ENTRIES_MAX, CATALOG_SETTLED_AFTER, REF_BYTES_MAX};
use crate::models::open_regular;

/// A repository as it was when it was read.
#[derive(Debug)]
pub(super) struct Repository {
    /// By name.
    pub snapshots: Vec<Snapshot>,
    /// Branches and tags.
    pub refs: Vec<Ref>,
    /// All names in `blobs/`, whatever they are.
    pub blobs: BTreeSet<OsString>,
    /// The files that links lead to, and those in `blobs/` that none leads to; each once. From the repository's
    /// folder, if they are in it.
    pub payloads: Vec<PathBuf>,
    /// Those in `blobs/` that no link leads to.
    pub leftovers: Vec<usize>,
    /// Whether nothing was unreadable or beyond a limit.
    pub is_whole: bool,
    stamps: Vec<(PathBuf, Stamp)>,
    /// Whether another change would show.
    is_settled: bool,
}

/// A folder of `snapshots/`.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub name: OsString,
    /// When something was put into it, or taken out.
    pub changed: SystemTime,
    pub files: Vec<SnapshotFile>,
}

/// A file of a snapshot, or a link.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    /// Within the snapshot.
    pub path: PathBuf,
    /// The name in `blobs/` that it links to, whether it is there or not.
    pub blob: Option<OsString>,
    /// Where its bytes are, in [`Repository::payloads`]; none if they are gone, or not in the model directory.
    pub payload: Option<usize>,
}

/// A file of `refs/`.
#[derive(Debug)]
pub(super) struct Ref {
    /// Within `refs/`: the name of the branch or tag.
    pub path: PathBuf,
    pub commit: String,
}

/// What changes if a folder's entries, or a file, do. The time is that of the inode: programs set the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, u64),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, changed: (stat.st_ctime, stat.st_ctime_nsec) }
    }

    fn changed(&self) -> SystemTime {
        time(self.changed)
    }
}

/// What is at `path`, from `folder`; a link itself, not what it leads to.
pub(super) fn look(folder: impl AsFd, path: &Path) -> io::Result<Stat> {
    Ok(statat(folder, path, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Seconds and nanoseconds of the kernel's; those before 1970 count as that.
pub(super) fn time((seconds, nanos): (i64, u64)) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) + Duration::from_nanos(nanos);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// Whether it is a regular file.
pub(super) fn is_file(stat: &Stat) -> bool {
    is(stat, FileType::RegularFile)
}

/// A repository's folder, to look from: names from there are found sooner than whole paths.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

impl Repository {
    /// Reads the repository in `path`, a folder of `root`, which is resolved.
    ///
    /// # Errors
    /// If it is no folder, or cannot be read at all.
    pub fn read(root: &Path, path: &Path) -> io::Result<Self> {
        let mut reader = Reader::new(root, path);
        reader.folder(path)?;
        let blobs: BTreeSet<_> =
            reader.folder_if_there(&path.join("blobs"))?.iter().map(DirEntry::file_name).collect();
        let mut refs = Vec::new();
        reader.refs(&path.join("refs"), Path::new(""), 0, &mut refs);
        let mut snapshots = Vec::new();
        for entry in reader.folder_or_less(&path.join("snapshots")) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                snapshots.push(reader.snapshot(&entry));
            }
        }
        snapshots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reader.finish(snapshots, refs, blobs))
    }

    /// Whether it is still as it was read, looked at from its folder.
    pub fn is_current(&self, folder: impl AsFd) -> bool {
        let same = |(path, stamp): &(PathBuf, Stamp)| {
            look(&folder, path).is_ok_and(|stat| Stamp::of(&stat) == *stamp)
        };
        self.is_settled && self.stamps.iter().all(same)
    }

    /// Makes it believed, however young it is.
    #[cfg(test)]
    pub fn trust(&mut self) {
        self.is_settled = true;
    }

    /// The blobs that files of snapshots link to.
    pub fn linked(&self) -> BTreeSet<&OsStr> {
        let files = self.snapshots.iter().flat_map(|snapshot| &snapshot.files);
        files.filter_map(|file| file.blob.as_deref()).collect()
    }

    /// Whether nothing of a model is in it.
    pub fn is_empty(&self) -> bool {
        self.is_whole && self.snapshots.is_empty() && self.blobs.is_empty()
    }
}

/// Reads folders within the limits, and notes what they were.
struct Reader<'a> {
    root: &'a Path,
    path: &'a Path,
    blobs: PathBuf,
    began: SystemTime,
    entries_left: usize,
    is_whole: bool,
    stamps: Vec<(PathBuf, Stamp)>,
    payloads: Vec<PathBuf>,
    known: HashMap<PathBuf, Option<usize>>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Path, path: &'a Path) -> Self {
        Self {
            root,
            path,
            blobs: path.join("blobs"),
            began: SystemTime::now(),
            entries_left: CATALOG_ENTRIES_MAX,
            is_whole: true,
            stamps: Vec::new(),
            payloads: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// What is in a folder that is no link to one.
    fn folder(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let stat = look(CWD, path)?;
        if !is(&stat, FileType::Directory) {
            return Err(ErrorKind::NotADirectory.into());
        }
        // Before it is read: a change meanwhile shows.
        self.stamps.push((path.to_owned(), Stamp::of(&stat)));
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let Some(left) = self.entries_left.checked_sub(1) else {
                self.is_whole = false;
                break;
            };
            self.entries_left = left;
            entries.push(entry?);
        }
        Ok(entries)
    }

    /// The same; nothing, if there is no such folder.
    fn folder_if_there(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        match self.folder(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// The same; nothing, and a note of it, if it cannot be read.
    fn folder_or_less(&mut self, path: &Path) -> Vec<DirEntry> {
        self.folder_if_there(path).unwrap_or_else(|_| {
            self.is_whole = false;
            Vec::new()
        })
    }

    fn refs(&mut self, folder: &Path, name: &Path, depth: usize, refs: &mut Vec<Ref>) {
        for entry in self.folder_or_less(folder) {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let Ok(stat) = look(CWD, &path) else { continue };
            if is(&stat, FileType::Directory) && self.may_descend(depth) {
                self.refs(&path, &name, depth + 1, refs);
            } else if is_file(&stat) {
                // `huggingface_hub` writes it in its place, which the folder does not show.
                self.stamps.push((path.clone(), Stamp::of(&stat)));
                if let Some(commit) = read_ref(&path) {
                    refs.push(Ref { path: name, commit });
                }
            }
        }
    }

    fn snapshot(&mut self, entry: &DirEntry) -> Snapshot {
        let folder = entry.path();
        let changed = look(CWD, &folder).map(|stat| time((stat.st_mtime, stat.st_mtime_nsec)));
        let mut files = Vec::new();
        self.files(&folder, Path::new(""), 0, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Snapshot { name: entry.file_name(), changed: changed.unwrap_or(SystemTime::UNIX_EPOCH), files }
    }

    fn files(&mut self, folder: &Path, within: &Path, depth: usize, files: &mut Vec<SnapshotFile>) {
        for entry in self.folder_or_less(folder) {
            let (path, within) = (entry.path(), within.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if self.may_descend(depth) {
                    self.files(&path, &within, depth + 1, files);
                }
                continue;
            }
            let linked = if kind.is_symlink() { self.blob_of(&path, folder) } else { None };
            let payload = match &linked {
                Some(blob) => self.payload(&self.blobs.join(blob)),
                None => self.payload(&path),
            };
            // A link to a link to a blob.
            let real = payload.map(|payload| &self.payloads[payload]);
            let blob = linked.or_else(|| self.blob_name(real?));
            files.push(SnapshotFile { path: within, blob, payload });
        }
    }

    fn may_descend(&mut self, depth: usize) -> bool {
        let may = depth < CATALOG_DEPTH_MAX;
        self.is_whole &= may;
        may
    }

    /// The name in `blobs/` that the link `path` in `folder` leads to, whether it is there or not.
    fn blob_of(&self, path: &Path, folder: &Path) -> Option<OsString> {
        // By its text, as the folders on its way are no links; an absolute one may come another way.
        let target = normalized(&folder.join(fs::read_link(path).ok()?));
        self.blob_name(&target).or_else(|| {
            let folder = target.parent()?.canonicalize().ok()?;
            self.blob_name(&folder.join(target.file_name()?))
        })
    }

    fn blob_name(&self, path: &Path) -> Option<OsString> {
        path.file_name().filter(|_| path.parent() == Some(&self.blobs)).map(OsStr::to_owned)
    }

    /// Where the bytes of `path` are, if that is a file in the model directory.
    fn payload(&mut self, path: &Path) -> Option<usize> {
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        let payload = self.real(path).map(|real| self.intern(real));
        self.known.insert(path.to_owned(), payload);
        payload
    }

    fn intern(&mut self, real: PathBuf) -> usize {
        if let Some(Some(known)) = self.known.get(&real) {
            return *known;
        }
        let index = self.payloads.len();
        self.known.insert(real.clone(), Some(index));
        self.payloads.push(real);
        index
    }

    fn real(&self, path: &Path) -> Option<PathBuf> {
        let stat = look(CWD, path).ok()?;
        if is_file(&stat) {
            return Some(path.to_owned());
        }
        let real = path.canonicalize().ok().filter(|_| is(&stat, FileType::Symlink))?;
        (real.starts_with(self.root) && real.is_file()).then_some(real)
    }

    fn finish(mut self, snapshots: Vec<Snapshot>, refs: Vec<Ref>, blobs: BTreeSet<OsString>) -> Repository {
        let linked: BTreeSet<_> =
            snapshots.iter().flat_map(|s| &s.files).filter_map(|file| file.blob.as_ref()).collect();
        let mut leftovers = Vec::new();
        for blob in blobs.iter().filter(|blob| !linked.contains(blob)) {
            let path = self.blobs.join(blob);
            // A link into the store that repositories share takes nothing here.
            if look(CWD, &path).is_ok_and(|stat| is_file(&stat)) {
                leftovers.extend(self.payload(&path));
            }
        }
        let settled = |stamp: &Stamp| {
            self.began.duration_since(stamp.changed()).is_ok_and(|age| age > CATALOG_SETTLED_AFTER)
        };
        let is_settled = self.stamps.iter().all(|(_, stamp)| settled(stamp));
        let from_here = |path: &mut PathBuf| match path.strip_prefix(self.path) {
            Ok(here) if here.as_os_str().is_empty() => *path = PathBuf::from("."),
            Ok(within) => *path = within.to_owned(),
            Err(_) => {}
        };
        self.stamps.iter_mut().for_each(|(path, _)| from_here(path));
        self.payloads.iter_mut().for_each(from_here);
        Repository {
            is_settled,
            snapshots,
            refs,
            blobs,
            payloads: self.payloads,
            leftovers,
            is_whole: self.is_whole,
            stamps: self.stamps,
        }
    }
}

fn read_ref(path: &Path) -> Option<String> {
    let mut commit = String::new();
    open_regular(path).ok()?.take(REF_BYTES_MAX).read_to_string(&mut commit).ok()?;
    Some(commit.trim().to_owned())
}

/// `path` without `.` and `..`, by its text.
fn normalized(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
