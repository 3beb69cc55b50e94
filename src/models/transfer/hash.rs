//! What a file is, told from its bytes: the hash that follows the lines in a thread of its own.

use std::fmt;
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::crew::{Crew, thread_cpu};
use super::{TransferError, disk};
use crate::limits::TRANSFER_BUFFER_BYTES;
use crate::models::remote::{Digest, HubError};

/// Takes the bytes of a file in order and compares them with what the hub says that they are.
pub struct Hash {
    context: Context,
    wanted: Digest,
}

impl Hash {
    /// Nothing was taken yet of the `bytes` that should be `wanted`.
    pub fn new(wanted: Digest, bytes: u64) -> Self {
        let context = match wanted {
            Digest::Sha256(_) => Context::new(&SHA256),
            Digest::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {bytes}\0").as_bytes());
                context
            }
        };
        Self { context, wanted }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Whether the bytes were what they should be.
    pub fn agrees(self) -> bool {
        let is = self.context.finish();
        match &self.wanted {
            Digest::Sha256(wanted) => is.as_ref() == wanted,
            Digest::GitBlob(wanted) => is.as_ref() == wanted,
        }
    }
}

impl Crew<'_> {
    /// Follows the bytes of the file as far as they go without a gap, from the page cache; those of an earlier run
    /// too. Whether they are what they should be; `None` if the transfer ends before.
    pub(super) fn follow(&self) -> Option<bool> {
        let file = self.task.file;
        let mut hash = Hash::new(file.digest, file.bytes);
        let mut buffer = vec![0; TRANSFER_BUFFER_BYTES];
        // Bytes of an earlier run tell nothing of how fast this one may be.
        let old = self.frontier();
        let (mut at, mut cpu, mut worked) = (0, thread_cpu(), Duration::ZERO);
        while at < file.bytes {
            let frontier = self.more_to_hash(at, worked)?;
            while at < frontier {
                let part = usize::try_from(frontier - at).unwrap_or(usize::MAX).min(buffer.len());
                let part = &mut buffer[..part];
                self.partial.read(at, part).map_err(|error| self.end(disk(&error))).ok()?;
                hash.update(part);
                at += part.len() as u64;
                self.sync().map_err(|error| self.end(error)).ok()?;
                if self.task.cut.is_cut() {
                    self.end(TransferError::Hub(HubError::Cut));
                    return None;
                }
            }
            let now = thread_cpu();
            worked = if at > old { now.saturating_sub(cpu) } else { Duration::ZERO };
            cpu = now;
        }
        Some(hash.agrees())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hash").field(&self.wanted).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    fn agrees(wanted: Digest, parts: &[&[u8]]) -> bool {
        let mut hash = Hash::new(wanted, parts.iter().map(|part| part.len() as u64).sum());
        parts.iter().for_each(|part| hash.update(part));
        hash.agrees()
    }

    #[test]
    fn a_large_file_is_its_sha_256() {
        let abc = Digest::Sha256(bytes("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        assert!(agrees(abc, &[b"ab", b"c"]));
        assert!(!agrees(abc, &[b"abd"]));
    }

    #[test]
    fn a_small_file_is_what_git_calls_it() {
        // `printf 'hello\n' | git hash-object --stdin`, and the empty file.
        let hello = Digest::GitBlob(bytes("ce013625030ba8dba906f756967f9e9ca394464a"));
        let empty = Digest::GitBlob(bytes("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"));
        assert!(agrees(hello, &[b"hello\n"]));
        assert!(agrees(empty, &[]));
        assert!(!agrees(hello, &[]));
    }
}
