//! Whether the disk has room for what is to be fetched.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::models::layout::Repository;
use crate::models::selection::Selection;

/// The disk has too little room, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSpace {
    /// What is still to be written.
    pub required_bytes: u64,
    /// What there is, less what other downloads will write.
    pub available_bytes: u64,
}

/// Checks the room for `selection` in `model_dir` beside `others`. Where the file system does not say what it has,
/// the writing will tell.
pub(super) fn check<'a>(
    model_dir: &Path,
    selection: &Selection,
    others: impl Iterator<Item = &'a Selection>,
) -> Result<(), NoSpace> {
    let required_bytes = left_bytes(model_dir, selection);
    let others_bytes = others.map(|other| left_bytes(model_dir, other)).fold(0, u64::saturating_add);
    // The folder may not be there yet: then it will be made on the disk of the nearest one that is.
    let room = model_dir.ancestors().find_map(|folder| statvfs(folder).ok());
    let Some(room) = room else { return Ok(()) };
    let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    let available_bytes = free_bytes.saturating_sub(others_bytes);
    if required_bytes <= available_bytes { Ok(()) } else { Err(NoSpace { required_bytes, available_bytes }) }
}

/// What of a selection is not on the disk.
fn left_bytes(model_dir: &Path, selection: &Selection) -> u64 {
    let repository = Repository::new(model_dir, &selection.hub);
    let left = selection.files.iter().map(|file| {
        let on_disk =
            |path: PathBuf| fs::metadata(path).map_or(0, |there| there.blocks().saturating_mul(512));
        let is_there =
            fs::metadata(repository.blob(&file.digest)).is_ok_and(|there| there.len() == file.bytes);
        let partials = [repository.partial(&file.digest), repository.partial_with_holes(&file.digest)];
        let here = partials.map(on_disk).into_iter().max().unwrap_or_default();
        if is_there { 0 } else { file.bytes.saturating_sub(here) }
    });
    left.fold(0, u64::saturating_add)
}
