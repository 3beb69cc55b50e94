//! A gzipped tar, unpacked into a folder of its own and nowhere else.
//!
//! Invariants: nothing is written through a link, for links are made when all files are there; what a link leads to
//! lies in the folder; no entry makes us hold more than [`UNPACKED_HEADER_BYTES_MAX`]; what is unpacked is bounded in
//! bytes and entries, whatever the archive says. The folder is the caller's to remove after an error.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};
use tar::{Archive, Entry, EntryType};

use crate::kinds::install::{FileRecord, LinkRecord};
use crate::limits::{
    TRANSFER_BUFFER_BYTES, UNPACKED_BYTES_MAX, UNPACKED_DEPTH_MAX, UNPACKED_DISK_LEFT_BYTES,
    UNPACKED_ENTRIES_MAX, UNPACKED_HEADER_BYTES_MAX, UNPACKED_NAME_BYTES_MAX, UNPACKED_PATH_BYTES_MAX,
};

/// What an archive held; paths are relative to the folder that it was unpacked into.
#[derive(Debug, Default)]
pub struct Contents {
    pub files: Vec<FileRecord>,
    pub links: Vec<LinkRecord>,
}

/// Why an archive is not unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// What is wrong with which of its entries, from 1.
    Refused { entry: usize, what: &'static str },
    /// It is no gzipped tar, or a broken one.
    Broken(&'static str),
    /// The disk fails, or is full.
    Disk(io::Error),
    /// The caller wants it no more.
    Cut,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { entry, what } => write!(f, "entry {entry} of the archive {what}"),
            Self::Broken(why) => write!(f, "it is no gzipped tar, or a broken one: {why}"),
            Self::Disk(error) => write!(f, "it cannot be unpacked: {}", error.kind()),
            Self::Cut => f.write_str("nobody wants it any more"),
        }
    }
}

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub entries: usize,
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: UNPACKED_ENTRIES_MAX, bytes: UNPACKED_BYTES_MAX }
    }
}

/// Whether `file` begins as what gzip makes.
pub fn is_gzip(file: &Path) -> io::Result<bool> {
    let mut magic = [0; 2];
    let count = File::open(file)?.take(2).read(&mut magic)?;
    Ok(count == 2 && magic == [0x1f, 0x8b])
}

/// Unpacks `archive` into `folder`, which is empty, until it `is_cut`: a large one takes its time.
///
/// Of an entry's mode only counts whether somebody may execute it: files get 755 or 644, folders 755, whoever owns
/// them in the archive.
///
/// # Errors
/// As [`UnpackError`] says.
pub fn unpack(
    archive: impl Read,
    folder: &Path,
    bounds: Bounds,
    is_cut: &dyn Fn() -> bool,
) -> Result<Contents, UnpackError> {
    unpack_tar(MultiGzDecoder::new(archive), folder, bounds, is_cut)
}

/// The same of a tar that is not gzipped.
fn unpack_tar(
    tar: impl Read,
    folder: &Path,
    bounds: Bounds,
    is_cut: &dyn Fn() -> bool,
) -> Result<Contents, UnpackError> {
    let left = Rc::new(Cell::new(0));
    let mut archive = Archive::new(Metered { inner: tar, left: Rc::clone(&left) });
    let mut unpacker = Unpacker {
        folder,
        folders: BTreeSet::from([String::new()]),
        files: BTreeMap::new(),
        links: BTreeMap::new(),
        bytes_left: bounds.bytes,
        is_cut,
    };
    left.set(UNPACKED_HEADER_BYTES_MAX);
    let mut entries = archive.entries().map_err(|e| broken(&e))?;
    let mut number = 0;
    loop {
        if is_cut() {
            return Err(UnpackError::Cut);
        }
        // Long names and other headers are read by the library, which takes their lengths from the archive.
        left.set(UNPACKED_HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else { break };
        number += 1;
        let mut entry = entry.map_err(|e| broken(&e))?;
        let size = entry.size();
        if number > bounds.entries {
            return Err(UnpackError::Refused { entry: number, what: "is one too many" });
        }
        left.set(size.saturating_add(UNPACKED_HEADER_BYTES_MAX));
        unpacker.add(&mut entry, size).map_err(|wrong| match wrong {
            Wrong::Entry(what) => UnpackError::Refused { entry: number, what },
            Wrong::Read(error) => broken(&error),
            Wrong::Disk(error) => UnpackError::Disk(error),
            Wrong::Cut => UnpackError::Cut,
        })?;
    }
    unpacker.link().map_err(UnpackError::Disk)?;
    let Unpacker { files, links, .. } = unpacker;
    Ok(Contents { files: files.into_values().collect(), links: links.into_values().collect() })
}

struct Unpacker<'a> {
    folder: &'a Path,
    folders: BTreeSet<String>,
    files: BTreeMap<String, FileRecord>,
    links: BTreeMap<String, LinkRecord>,
    bytes_left: u64,
    is_cut: &'a dyn Fn() -> bool,
}

/// What is wrong with an entry.
enum Wrong {
    Entry(&'static str),
    Read(io::Error),
    Disk(io::Error),
    Cut,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>, size: u64) -> Result<(), Wrong> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(()); // of all entries that follow: nothing that is looked at here
        }
        let path = inner(&entry.path_bytes())?;
        match kind {
            EntryType::Directory => self.make_folder(&path),
            _ if path.is_empty() => Err(Wrong::Entry("has no name")),
            _ if self.is_taken(&path) => Err(Wrong::Entry("is there twice")),
            // The holes of a sparse file come as zeros, and count.
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.write(entry, path, size)
            }
            EntryType::Symlink => {
                let target = link_name(entry)?;
                let target = inner_target(&path, &target)?;
                self.make_folder(parent(&path))?;
                self.links.insert(path.clone(), LinkRecord { path, target });
                Ok(())
            }
            EntryType::Link => {
                let target = inner(link_name(entry)?.as_bytes())?;
                let there = self.files.get(&target).cloned();
                let there = there.ok_or(Wrong::Entry("links to what is no file before it"))?;
                self.count(there.bytes)?; // they are compared under each of its names
                self.make_folder(parent(&path))?;
                fs::hard_link(self.folder.join(&target), self.folder.join(&path)).map_err(Wrong::Disk)?;
                self.files.insert(path.clone(), FileRecord { path, ..there });
                Ok(())
            }
            _ => Err(Wrong::Entry("is a device, a pipe or something else that is no file, folder or link")),
        }
    }

    fn is_taken(&self, path: &str) -> bool {
        self.folders.contains(path) || self.files.contains_key(path) || self.links.contains_key(path)
    }

    /// Makes a folder and those that it lies in.
    fn make_folder(&mut self, path: &str) -> Result<(), Wrong> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for folder in ends.map(|end| &path[..end]) {
            if self.folders.contains(folder) {
                continue;
            }
            if self.is_taken(folder) {
                return Err(Wrong::Entry("lies in what is no folder"));
            }
            let made = self.folder.join(folder);
            DirBuilder::new().mode(0o755).create(&made).map_err(Wrong::Disk)?;
            fs::set_permissions(&made, Permissions::from_mode(0o755)).map_err(Wrong::Disk)?;
            self.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), Wrong> {
        self.bytes_left =
            self.bytes_left.checked_sub(bytes).ok_or(Wrong::Entry("holds more bytes than all may have"))?;
        Ok(())
    }

    /// Where the file system does not say what it has, the writing will tell.
    fn check_room(&self, bytes: u64) -> Result<(), Wrong> {
        let Ok(room) = rustix::fs::statvfs(self.folder) else { return Ok(()) };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if bytes.saturating_add(UNPACKED_DISK_LEFT_BYTES) <= free {
            Ok(())
        } else {
            Err(Wrong::Disk(ErrorKind::StorageFull.into()))
        }
    }

    fn write<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: String, size: u64) -> Result<(), Wrong> {
        self.count(size)?;
        self.check_room(size)?;
        let is_executable = entry.header().mode().map_err(Wrong::Read)? & 0o111 != 0;
        let mode = if is_executable { 0o755 } else { 0o644 };
        self.make_folder(parent(&path))?;
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(self.folder.join(&path))
            .map_err(Wrong::Disk)?;
        file.set_permissions(Permissions::from_mode(mode)).map_err(Wrong::Disk)?;
        let (mut hash, mut buffer, mut bytes) = (Context::new(&SHA256), vec![0; TRANSFER_BUFFER_BYTES], 0);
        loop {
            // Here, for the holes of a sparse file are not read from the archive.
            if (self.is_cut)() {
                return Err(Wrong::Cut);
            }
            let count = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Wrong::Read(error)),
            };
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(Wrong::Disk)?;
            bytes += count as u64;
        }
        if bytes != size {
            return Err(Wrong::Read(ErrorKind::UnexpectedEof.into()));
        }
        let sha256 = crate::id::hex(hash.finish().as_ref());
        self.files.insert(path.clone(), FileRecord { path, bytes, sha256 });
        Ok(())
    }

    /// Makes the links, now that nothing can be written through them.
    fn link(&self) -> io::Result<()> {
        self.links.values().try_for_each(|link| symlink(&link.target, self.folder.join(&link.path)))
    }
}

/// Nothing of what is wrong with the bytes: they are not ours to show.
fn broken(error: &io::Error) -> UnpackError {
    UnpackError::Broken(match error.kind() {
        ErrorKind::FileTooLarge => "a header is too long",
        ErrorKind::UnexpectedEof => "it ends too soon",
        _ => "its bytes make no sense",
    })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path within the folder, without `.`; empty for the folder itself.
fn inner(path: &[u8]) -> Result<String, Wrong> {
    let path = readable(path)?;
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().expect("a part of a text")),
            Component::CurDir => {}
            Component::ParentDir => return Err(Wrong::Entry("has `..` in its path")),
            Component::RootDir | Component::Prefix(_) => return Err(Wrong::Entry("has an absolute path")),
        }
    }
    if parts.iter().any(|part| part.len() > UNPACKED_NAME_BYTES_MAX) {
        return Err(Wrong::Entry("has too long a name"));
    }
    if parts.len() > UNPACKED_DEPTH_MAX {
        return Err(Wrong::Entry("lies too deep"));
    }
    Ok(parts.join("/"))
}

/// What a link at `path` may lead to: up through real folders first, then down within the folder. After a name no
/// `..` may come: the name may be a link, and its parent elsewhere.
fn inner_target(path: &str, target: &str) -> Result<String, Wrong> {
    let mut depth = path.matches('/').count();
    let mut is_down = false;
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir if is_down => return Err(Wrong::Entry("is a link with `..` after a name")),
            Component::ParentDir => {
                depth = depth.checked_sub(1).ok_or(Wrong::Entry("is a link out of its folder"))?;
            }
            Component::Normal(_) => is_down = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => {
                return Err(Wrong::Entry("is a link to an absolute path"));
            }
        }
    }
    if target.is_empty() { Err(Wrong::Entry("is a link to nowhere")) } else { Ok(target.to_owned()) }
}

fn link_name<R: Read>(entry: &Entry<'_, R>) -> Result<String, Wrong> {
    let name = entry.link_name_bytes().ok_or(Wrong::Entry("is a link to nowhere"))?;
    readable(&name).map(str::to_owned)
}

fn readable(path: &[u8]) -> Result<&str, Wrong> {
    if path.len() > UNPACKED_PATH_BYTES_MAX {
        return Err(Wrong::Entry("has too long a path"));
    }
    let text = std::str::from_utf8(path).ok().filter(|text| !text.contains(char::is_control));
    text.ok_or(Wrong::Entry("has a path that is no plain text"))
}

/// Reads no more than is allowed at the moment.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

/// A tar as `bytes`, unpacked into a folder of its own.
///
/// # Panics
/// If something lies outside of that folder or leads out of it, or what is told is not what is there.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(bytes: &[u8]) {
    let outer = std::env::temp_dir().join(format!("rbee-unpack-{}", uuid::Uuid::new_v4()));
    let inner = outer.join("inner");
    fs::create_dir_all(&inner).expect("a folder");
    let unpacked = unpack_tar(bytes, &inner, Bounds { entries: 64, bytes: 1 << 20 }, &|| false);
    assert_eq!(fs::read_dir(&outer).expect("it is there").count(), 1, "nothing is written beside the folder");
    let root = inner.canonicalize().expect("it is there");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("its entry")) {
            // A link may lead to nothing.
            if let Ok(real) = entry.path().canonicalize() {
                assert!(real.starts_with(&root), "{entry:?} leads to {real:?}");
            }
            if entry.file_type().expect("it has one").is_dir() {
                folders.push(entry.path());
            }
        }
    }
    if let Ok(contents) = unpacked {
        for file in &contents.files {
            let told = (file.bytes, Some(file.sha256.clone()));
            let there = inner.join(&file.path);
            let is = crate::kinds::install::sha256_of(&there).ok();
            assert_eq!(told, (fs::metadata(&there).map_or(u64::MAX, |there| there.len()), is));
        }
    }
    fs::remove_dir_all(&outer).expect("our own folder");
}

#[cfg(test)]
mod tests;
