//! What there is of a file on the disk: its bytes, and the record of which are there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::record::{self, Cells};
use crate::models::layout::Repository;
use crate::models::remote::RemoteFile;

/// A file that is being fetched.
///
/// Invariants: a byte that the record names was written before: a kill at any moment leaves at worst bytes that it
/// does not name. Under [`Repository::partial`] there is no hole.
#[derive(Debug)]
pub struct Partial {
    path: Mutex<PathBuf>,
    with_holes: PathBuf,
    record_path: PathBuf,
    cells: Cells,
    data: File,
    record: File,
}

impl Partial {
    /// Opens what there is of `file`, and tells what is missing. What cannot be trusted is thrown away.
    ///
    /// # Errors
    /// If the disk says so.
    pub fn open(repository: &Repository, file: &RemoteFile) -> io::Result<(Self, Vec<Range<u64>>)> {
        let (plain, with_holes) =
            (repository.partial(&file.digest), repository.partial_with_holes(&file.digest));
        let record_path = repository.record(&file.digest);
        let cells = Cells::of(file.bytes);
        let path = if with_holes.exists() { &with_holes } else { &plain };
        if let Some((data, record, gaps)) = resume(path, &record_path, cells) {
            let path = Mutex::new(path.clone());
            let partial = Self { path, with_holes, record_path, cells, data, record };
            if gaps.iter().any(|gap| gap.end < file.bytes) {
                partial.allow_holes()?;
            }
            return Ok((partial, gaps));
        }
        Self::discard(repository, file)?;
        let path = plain;
        let data = options().create_new(true).open(&path)?;
        let record = options().create_new(true).open(&record_path)?;
        record.write_all_at(&cells.empty_record(), 0)?;
        let gaps = (file.bytes > 0).then_some(0..file.bytes);
        let path = Mutex::new(path);
        Ok((Self { path, with_holes, record_path, cells, data, record }, gaps.into_iter().collect()))
    }

    /// From now on bytes may be written that others before them lack.
    ///
    /// # Errors
    /// If the disk says so.
    pub fn allow_holes(&self) -> io::Result<()> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if *path != self.with_holes {
            fs::rename(&*path, &self.with_holes)?;
            path.clone_from(&self.with_holes);
        }
        Ok(())
    }

    /// How the file is cut into cells.
    pub fn cells(&self) -> Cells {
        self.cells
    }

    /// Writes bytes that came, then notes them. All before them in their cell are there.
    ///
    /// # Errors
    /// If the disk is full, or fails. The record then says less than there is.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, at)?;
        let (place, there) = self.cells.note(at..at + bytes.len() as u64);
        self.record.write_all_at(&there, place)
    }

    /// Brings what was written to the disk. Takes as long as that takes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.data.sync_data()
    }

    /// Reads bytes that are there.
    ///
    /// # Errors
    /// If the disk fails, or somebody cut the file.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(bytes, at)
    }

    /// The file is whole: brings it to the disk and gives it its name. Once the name is there, the bytes are.
    ///
    /// # Errors
    /// If the disk says so; all is then as before, or the name is there already.
    pub fn keep(self, blob: &Path) -> io::Result<()> {
        self.data.sync_all()?;
        fs::rename(self.path.into_inner().unwrap_or_else(PoisonError::into_inner), blob)?;
        File::open(blob.parent().expect("a blob lies in a folder"))?.sync_all()?;
        remove(&self.record_path)
    }

    /// Throws away what there is of a file.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn discard(repository: &Repository, file: &RemoteFile) -> io::Result<()> {
        // The record goes first: without it nothing of the rest counts.
        remove(&repository.record(&file.digest))?;
        remove(&repository.partial_with_holes(&file.digest))?;
        remove(&repository.partial(&file.digest))
    }
}

/// What was left by an earlier run, if it is to be believed.
fn resume(path: &Path, record_path: &Path, cells: Cells) -> Option<(File, File, Vec<Range<u64>>)> {
    let record = open_regular(record_path)?;
    if record.metadata().ok()?.len() != cells.record_bytes() {
        return None;
    }
    let mut bytes = Vec::new();
    (&record).take(cells.record_bytes()).read_to_end(&mut bytes).ok()?;
    let (file_bytes, gaps) = record::read(&bytes)?;
    // A last gap begins after bytes that are there; without one all are.
    let there = match gaps.last() {
        Some(gap) if gap.end == file_bytes => gap.start,
        _ => file_bytes,
    };
    let data = open_regular(path)?;
    let length = data.metadata().ok()?.len();
    (file_bytes == cells.file_bytes() && (there..=file_bytes).contains(&length))
        .then_some((data, record, gaps))
}

fn open_regular(path: &Path) -> Option<File> {
    let file = options().open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// Neither through a link nor waiting for the other end of a pipe; who may read it is the umask's affair, as for
/// every file of a shared cache.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
