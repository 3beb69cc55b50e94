//! Whose workers are ours: the mark in their environment.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::id::{Entropy, Run, WorkerId, hex, unhex};

/// The variable in a worker's environment that says whose it is.
pub const OWNER_VARIABLE: &str = "RBEE_OWNER";

/// The file of the secret from which the marks of a data directory follow.
const FILE: &str = "owner";

/// What proves that a process descends from a worker of this data directory. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(Arc<str>);

impl Owner {
    /// A new one of 128 random bits.
    pub fn random(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(hex(&bytes).into())
    }

    /// That of `data_dir`, the same at each start. A copy of the folder has another one: the number of the file is
    /// part of it, so that nobody takes the workers of the original for its own.
    ///
    /// # Errors
    /// If its file cannot be read or made.
    pub fn of(data_dir: &Path, entropy: &mut dyn Entropy) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let is_whole = fs::read_to_string(&path).is_ok_and(|text| unhex::<16>(text.trim_end()).is_some());
        if !is_whole {
            let mut secret = [0; 16];
            entropy.fill(&mut secret);
            let new = data_dir.join(format!(".{FILE}.new"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(format!("{}\n", hex(&secret)).as_bytes())?;
            fs::rename(&new, &path)?;
        }
        let text = fs::read_to_string(&path)?;
        let secret: [u8; 16] = unhex(text.trim_end()).ok_or(ErrorKind::InvalidData)?;
        let file = fs::metadata(&path)?;
        let seed = [&secret[..], &file.dev().to_le_bytes(), &file.ino().to_le_bytes()].concat();
        Ok(Self(hex(&digest(&SHA256, &seed).as_ref()[..16]).into()))
    }

    /// The one that was written down by [`Owner::text`].
    pub fn parse(text: &str) -> Option<Self> {
        unhex::<16>(text).map(|_| Self(text.into()))
    }

    /// For whoever is to kill in its name.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value of [`OWNER_VARIABLE`] for one run of a worker.
    pub fn mark(&self, id: &WorkerId, run: Run) -> String {
        format!("{}/{id}/{run}", self.0)
    }

    /// Whose mark it is, if it is one of ours.
    pub fn read_mark(&self, mark: &[u8]) -> Option<(WorkerId, Run)> {
        let rest = std::str::from_utf8(mark).ok()?.strip_prefix(&*self.0)?.strip_prefix('/')?;
        let (id, run) = rest.split_once('/')?;
        Some((id.parse().ok()?, Run(run.parse().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SystemEntropy;

    #[test]
    fn a_data_directory_has_the_same_owner_at_each_start_and_its_copy_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (one, copy) = (folder.path().join("one"), folder.path().join("copy"));
        [&one, &copy].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let of = |folder: &Path| Owner::of(folder, &mut SystemEntropy::new()).unwrap();
        let owner = of(&one);
        assert_eq!(of(&one), owner);
        fs::copy(one.join(FILE), copy.join(FILE)).unwrap();
        assert_ne!(of(&copy), owner);
        fs::write(one.join(FILE), "torn").unwrap();
        assert_ne!(of(&one), owner, "a file that is broken is made anew");
    }

    #[test]
    fn a_mark_is_read_by_its_owner_alone() {
        let owner = Owner::random(&mut SystemEntropy::new());
        let id: WorkerId = "w-1".parse().unwrap();
        let mark = owner.mark(&id, Run(7));
        assert_eq!(owner.read_mark(mark.as_bytes()), Some((id, Run(7))));
        let other = Owner::random(&mut SystemEntropy::new());
        assert_eq!(other.read_mark(mark.as_bytes()), None);
        for broken in ["", "/", "/w-1", "/w-1/", "/w-1/x", "/w 1/1", "w-1/1"] {
            assert_eq!(owner.read_mark(format!("{}{broken}", owner.text()).as_bytes()), None, "{broken}");
        }
    }
}
