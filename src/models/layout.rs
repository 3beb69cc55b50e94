//! Where things lie in the cache of `huggingface_hub`, and how they get there: `models--org--repo/` with
//! `blobs/<etag>`, links to them in `snapshots/<commit>/`, commits of branches and tags in `refs/`; locks beside
//! all repositories in `.locks/`.
//!
//! Invariant: what has a final name is whole. Links, refs and blobs appear by a rename.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::reference::HubRef;
use super::remote::Digest;

/// A repository's folder in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    model_dir: PathBuf,
    folder: String,
}

/// The right to write one blob, shared with `huggingface_hub`; given back when it is dropped.
#[derive(Debug)]
pub struct BlobLock {
    _file: File,
}

impl Repository {
    /// The folder of `hub` in `model_dir`, whether it is there or not.
    pub fn new(model_dir: &Path, hub: &HubRef) -> Self {
        Self { model_dir: model_dir.to_owned(), folder: hub.folder() }
    }

    /// The folder of that name in `model_dir`: `models--org--repo`.
    pub fn named(model_dir: &Path, folder: &str) -> Self {
        Self { model_dir: model_dir.to_owned(), folder: folder.to_owned() }
    }

    /// The folder itself.
    pub fn path(&self) -> PathBuf {
        self.model_dir.join(&self.folder)
    }

    /// The folder of blobs.
    pub fn blobs(&self) -> PathBuf {
        self.path().join("blobs")
    }

    /// The whole bytes of a file.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    /// What there is of a file that is being fetched.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("{digest}.incomplete"))
    }

    /// The same, once its parts come in any order: older programs of `huggingface_hub`'s take up what has the
    /// other name at its end, and would not see a hole before that.
    pub fn partial_with_holes(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("{digest}.parallel.incomplete"))
    }

    /// Which bytes of either are there.
    pub fn record(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("{digest}.incomplete.parts"))
    }

    /// The folder of snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    /// The files of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.snapshots().join(commit)
    }

    /// The folder of branches and tags.
    pub fn refs(&self) -> PathBuf {
        self.path().join("refs")
    }

    /// Makes the folders that a download needs. `snapshots` comes first: a repository without it is a damaged
    /// one to `huggingface_hub`.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn make(&self) -> io::Result<()> {
        [self.snapshots(), self.blobs()].iter().try_for_each(|path| make_dir(path))
    }

    /// Links the file `path` of `commit` to its blob, in the place of what is there.
    ///
    /// # Errors
    /// If the link cannot be made.
    pub fn link(&self, commit: &str, path: &str, digest: &Digest) -> io::Result<()> {
        let link = self.snapshot(commit).join(path);
        let up = "../".repeat(2 + path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{digest}"));
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        let folder = link.parent().expect("a file of a snapshot lies in it");
        make_dir(folder)?;
        in_place(&link, |name| symlink(&target, name))
    }

    /// Notes that the branch or tag `revision` is at `commit`. A commit by itself needs no note.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_ref(&self, revision: &str, commit: &str) -> io::Result<()> {
        let path = self.refs().join(revision);
        if revision == commit || fs::read(&path).is_ok_and(|there| there == commit.as_bytes()) {
            return Ok(());
        }
        make_dir(path.parent().expect("a ref lies in a folder"))?;
        in_place(&path, |name| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(name)?;
            file.write_all(commit.as_bytes())?;
            file.sync_all()
        })
    }

    /// Takes the lock of a blob, if nobody has it: another download of this hive, or a program of
    /// `huggingface_hub`'s.
    ///
    /// # Errors
    /// If the lock's file cannot be made, or the file system knows no locks.
    pub fn try_lock(&self, blob: &str) -> io::Result<Option<BlobLock>> {
        let folder = self.model_dir.join(".locks").join(&self.folder);
        make_dir(&folder)?;
        let path = folder.join(format!("{blob}.lock"));
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o664).custom_flags(flags);
                let file = options.open(&path)?;
                // Other users of a shared cache wait for it too, whatever our umask is.
                let _ = file.set_permissions(Permissions::from_mode(0o664));
                file
            }
            opened => opened?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Who had it before us has removed the file, and the next one would lock another.
            Ok(()) if file.metadata()?.nlink() == 0 => Ok(None),
            Ok(()) => Ok(Some(BlobLock { _file: file })),
            Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What all partial files of a blob take on the disk, whoever writes them, in bytes: while it changes, somebody
    /// does.
    pub fn partial_disk_bytes(&self, blob: &str) -> u64 {
        let entries = fs::read_dir(self.blobs()).into_iter().flatten().flatten();
        let of_blob =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(blob.as_bytes()));
        of_blob.filter_map(|entry| Some(entry.metadata().ok()?.blocks().saturating_mul(512))).sum()
    }
}

/// Makes what `make` puts at a name of its own appear at `path` at once, and stay there.
fn in_place(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    // Not longer than the name itself may be.
    let name = path.with_file_name(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let made = make(&name).and_then(|()| fs::rename(&name, path));
    if made.is_err() {
        let _ = fs::remove_file(&name);
        return made;
    }
    File::open(path.parent().expect("it lies in a folder"))?.sync_all()
}

/// As the umask has it: caches are shared.
fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o777).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelRef;

    const DIGEST: Digest = Digest::GitBlob([0xab; 20]);

    fn repository() -> (tempfile::TempDir, Repository) {
        let folder = tempfile::tempdir().unwrap();
        let Ok(ModelRef::Hub(hub)) = "hf:org/repo".parse() else { panic!("a repository") };
        let repository = Repository::new(folder.path(), &hub);
        (folder, repository)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn things_lie_where_huggingface_hub_looks_for_them() {
        let (folder, repository) = repository();
        let root = folder.path().join("models--org--repo");
        let blob = "ab".repeat(20);
        assert_eq!(repository, Repository::named(folder.path(), "models--org--repo"));
        assert_eq!(repository.blob(&DIGEST), root.join("blobs").join(&blob));
        assert_eq!(repository.partial(&DIGEST), root.join(format!("blobs/{blob}.incomplete")));
        assert_eq!(repository.snapshot("c0ffee"), root.join("snapshots/c0ffee"));
        repository.make().unwrap();
        repository.make().unwrap();
        assert_eq!(names(&root), ["blobs", "snapshots"]);
    }

    #[test]
    fn links_are_relative_lead_to_the_blob_and_replace_what_is_there() {
        let (_folder, repository) = repository();
        repository.make().unwrap();
        fs::write(repository.blob(&DIGEST), "bytes").unwrap();
        for (path, up) in [("model.gguf", "../.."), ("a/b/model.gguf", "../../../..")] {
            let link = repository.snapshot("c0ffee").join(path);
            make_dir(link.parent().unwrap()).unwrap();
            fs::write(&link, "something else").unwrap();
            for _ in 0..2 {
                repository.link("c0ffee", path, &DIGEST).unwrap();
                assert_eq!(fs::read_link(&link).unwrap(), Path::new(&format!("{up}/blobs/{DIGEST}")));
                assert_eq!(fs::read(&link).unwrap(), b"bytes");
            }
        }
        assert_eq!(names(&repository.snapshot("c0ffee")), ["a", "model.gguf"], "nothing is left over");
    }

    #[test]
    fn a_branch_says_its_commit_without_a_newline_and_a_commit_needs_no_note() {
        let (_folder, repository) = repository();
        repository.write_ref("c0ffee", "c0ffee").unwrap();
        assert!(!repository.refs().exists());
        for commit in ["c0ffee", "c0ffee", "decade"] {
            repository.write_ref("refs/pr/1", commit).unwrap();
            assert_eq!(fs::read(repository.refs().join("refs/pr/1")).unwrap(), commit.as_bytes());
        }
        assert_eq!(names(&repository.refs().join("refs/pr")), ["1"], "nothing is left over");
    }

    #[test]
    fn a_lock_has_one_owner_who_may_be_of_another_program() {
        let (folder, repository) = repository();
        let held = repository.try_lock("blob").unwrap().unwrap();
        assert!(repository.try_lock("blob").unwrap().is_none());
        assert!(repository.try_lock("other").unwrap().is_some());
        drop(held);
        let path = folder.path().join(".locks/models--org--repo/blob.lock");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o664);
        let theirs = File::open(&path).unwrap();
        flock(&theirs, FlockOperation::LockExclusive).unwrap();
        assert!(repository.try_lock("blob").unwrap().is_none());
        drop(theirs);
        assert!(repository.try_lock("blob").unwrap().is_some());
    }

    #[test]
    fn a_link_in_the_place_of_a_lock_is_not_followed() {
        let (folder, repository) = repository();
        drop(repository.try_lock("other").unwrap());
        let path = folder.path().join(".locks/models--org--repo/blob.lock");
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(repository.try_lock("blob").is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }
}
