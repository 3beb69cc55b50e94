//! Copies of the model that something is wrong with. What is behind a header are holes: no copy is read so far.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use crate::stage;
use crate::support::Hive;

/// Holds the header of the model, tokenizer included, and the table of its tensors.
const HEADER_BYTES: usize = 4 * 1024 * 1024;

/// Puts a copy into the daemon's model directory whose header is as `change` leaves it, and which ends after
/// `length` bytes if that is given.
pub fn broken(hive: &Hive, name: &str, length: Option<u64>, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut model = File::open(stage::model()).unwrap();
    let whole = model.metadata().unwrap().len();
    let mut header = vec![0; HEADER_BYTES];
    model.read_exact(&mut header).unwrap();
    change(&mut header);
    let path = hive.models.join(name);
    let mut copy = File::create(&path).unwrap();
    copy.write_all(&header).unwrap();
    copy.set_len(length.unwrap_or(whole)).unwrap();
    path
}

/// The place behind the first `text`.
pub fn behind(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap() + text.len()
}

/// Puts `new` in the place of the `old` that comes after the first `before`.
pub fn replace(bytes: &mut [u8], before: &str, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let from = behind(bytes, before);
    let end = from + behind(&bytes[from..], old);
    bytes[end - old.len()..end].copy_from_slice(new.as_bytes());
}
