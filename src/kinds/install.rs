//! A kind that was installed: its record, and whether its files are still those that were installed.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Sender;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::manifest::{self, Mistake};
use super::{Kind, is_executable};
use crate::id::hex;
use crate::limits::{INSTALL_RECORD_BYTES_MAX, TRANSFER_BUFFER_BYTES};
use crate::net::Cut;

/// The record's name in an install's folder.
pub const RECORD: &str = "install.json";
/// The folder of the files in an install's folder.
pub const FILES: &str = "files";
/// The name of a manifest in an archive.
pub const MANIFEST: &str = "kind.json";
/// The form of the record that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// What is installed, as it lies beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The kind's name.
    pub kind: String,
    /// The version that was asked for.
    pub version: String,
    /// SHA-256 of the artifact, in lower-case hex.
    pub sha256: String,
    /// The program, or with `has_manifest` the manifest: a path below the files.
    entry: String,
    has_manifest: bool,
    files: Vec<FileRecord>,
    links: Vec<LinkRecord>,
}

/// A file of an install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Below the folder of the files.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// A link of an install, to within it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// Below the folder of the files.
    pub path: String,
    /// As it stands in the link.
    pub target: String,
}

impl Record {
    /// The record of `kind` in `version`, whose artifact has the digest `sha256`, without what is in it yet.
    pub fn new(kind: &str, version: &str, sha256: &[u8]) -> Self {
        Self {
            format: FORMAT,
            kind: kind.to_owned(),
            version: version.to_owned(),
            sha256: hex(sha256),
            entry: String::new(),
            has_manifest: false,
            files: Vec::new(),
            links: Vec::new(),
        }
    }

    /// With one executable.
    #[must_use]
    pub fn of_program(self, file: FileRecord) -> Self {
        Self { entry: file.path.clone(), files: vec![file], ..self }
    }

    /// With the files of an archive; its manifest lies at its top or in the one folder that is there. `None` if it
    /// has none.
    #[must_use]
    pub fn of_archive(self, files: Vec<FileRecord>, links: Vec<LinkRecord>) -> Option<Self> {
        let found = |path: &str| files.iter().any(|file| file.path == path).then(|| path.to_owned());
        let top = files.first()?.path.split_once('/').map(|(top, _)| format!("{top}/"));
        let lone = top.filter(|top| {
            files
                .iter()
                .map(|file| &file.path)
                .chain(links.iter().map(|link| &link.path))
                .all(|path| path.starts_with(top))
        });
        let entry = found(MANIFEST).or_else(|| found(&format!("{}{MANIFEST}", lone?)))?;
        Some(Self { entry, has_manifest: true, files, links, ..self })
    }

    /// Reads the record in `folder`.
    ///
    /// # Errors
    /// If it cannot be read, is none, or one of another version: what is wrong, for a person.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        File::open(folder.join(RECORD))
            .and_then(|file| file.take(INSTALL_RECORD_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|error| format!("its record cannot be read: {error}"))?;
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| format!("its record is broken: {error}"))?;
        if record.format != FORMAT {
            return Err(format!(
                "its record has the form {}, and this version reads {FORMAT}",
                record.format
            ));
        }
        let links = record.links.iter().map(|link| &link.path);
        let is_within = record.files.iter().map(|file| &file.path).chain(links).all(|path| is_plain(path));
        if !is_within || !record.files.iter().any(|file| file.path == record.entry) {
            return Err("its record names what cannot be in it".to_owned());
        }
        Ok(record)
    }
}

/// A kind that is installed; its files stay as long as this lives.
pub struct Install {
    record: Record,
    folder: PathBuf,
    /// Which files they were when they were compared the last time.
    seen: Mutex<Vec<Stamp>>,
    /// Who removes the folder once nobody uses it, unless it is the current one.
    remover: Option<Sender<PathBuf>>,
}

/// Which file lies at a path, and in which state. Programs cannot set a ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// An installed file is not what was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Which one, below the install's folder.
    path: String,
    what: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl Install {
    /// What `record` says lies in `folder`. When nobody uses it any more, `remover` is told.
    pub fn new(record: Record, folder: PathBuf, remover: Option<Sender<PathBuf>>) -> Self {
        Self { record, folder, seen: Mutex::default(), remover }
    }

    /// What is installed.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program, if the artifact was one.
    pub fn program(&self) -> Option<PathBuf> {
        (!self.record.has_manifest).then(|| self.entry())
    }

    /// The kind, if the artifact came with a manifest. Its program is that in the artifact.
    ///
    /// # Errors
    /// If the manifest has a mistake, is one of another kind, or its program is not in the artifact.
    pub fn manifest(&self) -> Result<Option<Kind>, Mistake> {
        if !self.record.has_manifest {
            return Ok(None);
        }
        let file = self.entry();
        let mut kind = manifest::read(&file).map_err(|wrong| wrong.mistake)?;
        if kind.name != self.record.kind {
            return Err(Mistake::new("kind", format!("is not {}", self.record.kind)));
        }
        let root = file.parent().expect("a manifest lies in a folder").to_owned();
        // A relative path was joined already; a bare name would be looked for on PATH.
        let program = root.join(&kind.program);
        let within = program.strip_prefix(&root).ok().and_then(Path::to_str);
        if !within.is_some_and(is_plain) {
            return Err(Mistake::new("program", "must be a path in the archive, without `..`"));
        }
        if !is_executable(&program) {
            return Err(Mistake::new("program", "is not in the archive, or no executable"));
        }
        kind.program = program;
        Ok(Some(kind))
    }

    fn entry(&self) -> PathBuf {
        self.folder.join(FILES).join(&self.record.entry)
    }

    /// Compares all files with what was installed. Reads those that changed since the last time; where nothing did,
    /// it costs a look at each. Reading takes long where there is much: it ends with `cut`.
    ///
    /// # Errors
    /// The first that is another one, is gone, may be written by others, or was not read to its end.
    pub(crate) fn verify(&self, cut: &Cut) -> Result<(), Damaged> {
        self.compare(Some(cut))
    }

    /// Takes the files for what was installed as they are now: for who has just written them.
    ///
    /// # Errors
    /// As [`Self::verify`], as far as that is seen without reading them.
    pub(crate) fn believe(&self) -> Result<(), Damaged> {
        self.compare(None)
    }

    /// As [`Self::verify`], but no more than a look: where all would have to be read, or somebody does so now, it is
    /// left to the launch.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub(crate) fn glance(&self, cut: &Cut) -> Result<(), Damaged> {
        let is_long = self.seen.try_lock().map_or(true, |seen| seen.is_empty());
        if is_long { Ok(()) } else { self.verify(cut) }
    }

    /// Without a `cut` nothing is read.
    fn compare(&self, cut: Option<&Cut>) -> Result<(), Damaged> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let files = self.folder.join(FILES);
        let mut now = Vec::with_capacity(self.record.files.len());
        for (at, file) in self.record.files.iter().enumerate() {
            let damaged = |what: String| Damaged { path: file.path.clone(), what };
            let path = files.join(&file.path);
            let stamp = Stamp::of(&path, file.bytes).map_err(damaged)?;
            if let Some(cut) = cut
                && seen.get(at) != Some(&stamp)
            {
                let bytes = File::open(&path).map(|file| UntilCut { file, cut });
                let sha256 = bytes.and_then(sha256_of_bytes).map_err(|error| damaged(error.to_string()))?;
                if sha256 != file.sha256 {
                    return Err(damaged("has other bytes than were installed".to_owned()));
                }
            }
            now.push(stamp);
        }
        for LinkRecord { path, target } in &self.record.links {
            if !fs::read_link(files.join(path)).is_ok_and(|there| there.as_os_str() == target.as_str()) {
                let what = "is another link than was installed".to_owned();
                return Err(Damaged { path: path.clone(), what });
            }
        }
        *seen = now;
        Ok(())
    }
}

/// A file, read until the hive ends.
struct UntilCut<'a> {
    file: File,
    cut: &'a Cut,
}

impl io::Read for UntilCut<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cut.is_cut() { Err(io::Error::other("the hive ends")) } else { self.file.read(buffer) }
    }
}

/// Whether a path leads down from a folder, and stays there.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl Stamp {
    /// Before the bytes are read: what changes later is seen the next time.
    fn of(path: &Path, bytes: u64) -> Result<Self, String> {
        let there = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
        if !there.is_file() || there.len() != bytes {
            return Err("is another file than was installed".to_owned());
        }
        if there.mode() & 0o022 != 0 {
            return Err("may be written by others".to_owned());
        }
        let changed = (there.ctime(), there.ctime_nsec());
        Ok(Self { device: there.dev(), inode: there.ino(), bytes: there.len(), changed })
    }
}

/// SHA-256 of a file's bytes, in lower-case hex.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    sha256_of_bytes(File::open(path)?)
}

fn sha256_of_bytes(mut file: impl io::Read) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; TRANSFER_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hash.finish().as_ref())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl PartialEq for Install {
    /// A folder is used for one install, ever.
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder
    }
}

impl fmt::Debug for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { kind, version, .. } = &self.record;
        f.debug_struct("Install").field("kind", kind).field("version", version).finish_non_exhaustive()
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if let Some(remover) = &self.remover {
            // At the end of the hive nobody listens any more: the next one tidies up.
            let _ = remover.send(std::mem::take(&mut self.folder));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_reads_nothing_that_was_never_compared_and_sees_what_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILES).join("tiny");
        fs::create_dir(folder.path().join(FILES)).unwrap();
        fs::write(&path, "what was installed").unwrap();
        let file = FileRecord { path: "tiny".into(), bytes: 18, sha256: sha256_of(&path).unwrap() };
        let record = Record::new("tiny", "1.0", &[0; 32]).of_program(file);
        let install = || Install::new(record.clone(), folder.path().to_owned(), None);
        let (unread, read, on) = (install(), install(), Cut::default());
        read.verify(&on).unwrap();
        fs::write(&path, "what was NOT so it").unwrap();
        assert!(unread.glance(&on).is_ok() && unread.verify(&on).is_err());
        // As often as it is asked.
        assert!(read.glance(&on).is_err() && read.glance(&on).is_err());
        fs::write(&path, "what was installed").unwrap();
        assert!(read.glance(&on).is_ok() && unread.verify(&on).is_ok());
    }

    #[test]
    fn the_end_of_the_hive_ends_the_reading_of_what_is_installed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILES).join("tiny");
        fs::create_dir(folder.path().join(FILES)).unwrap();
        File::create(&path).unwrap().set_len(1 << 40).unwrap(); // reading it would take an hour
        let file = FileRecord { path: "tiny".into(), bytes: 1 << 40, sha256: "0".repeat(64) };
        let record = Record::new("tiny", "1.0", &[0; 32]).of_program(file);
        let (install, cut) = (Install::new(record, folder.path().to_owned(), None), Cut::default());
        cut.cut();
        assert_eq!(install.verify(&cut).unwrap_err().to_string(), "tiny: the hive ends");
    }
}
