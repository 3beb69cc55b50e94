//! What the hub has: repositories, their commits and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::id::hex;
use crate::limits;

/// Who gets a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Anybody.
    #[default]
    Public,
    /// Who has the hub's token; to others there is no such repository.
    Private,
    /// Anybody sees what is in it; files are for who has the hub's token.
    Gated,
    /// As [`Access::Gated`], and the token's owner was not let in.
    Closed,
}

/// A repository as it is to be served: one commit, by default on the branch `main`.
#[derive(Debug, Default)]
pub struct Repository {
    files: BTreeMap<String, Entry>,
    refs: Vec<String>,
    access: Access,
}

impl Repository {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// All regular files below `folder`, served from disk. Links are followed; hidden names are left out.
    ///
    /// # Errors
    /// If something cannot be read, or there is too much of it.
    pub fn of_folder(folder: &Path) -> io::Result<Self> {
        let mut repository = Self::new();
        repository.add_folder(folder, "", 0)?;
        Ok(repository)
    }

    /// With these bytes as the file `path`.
    #[must_use]
    pub fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let entry = Entry::new(path, Content::Memory(bytes.into().into()));
        self.files.insert(path.to_owned(), entry.expect("memory can be read"));
        self
    }

    /// With the file `source` of this machine as the file `path`; it is read now for its digest, and again for
    /// each request.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn with_file(mut self, path: &str, source: &Path) -> io::Result<Self> {
        self.files.insert(path.to_owned(), Entry::new(path, Content::open(source)?)?);
        Ok(self)
    }

    /// On this branch or tag, in the place of `main`; on several if it is called again.
    #[must_use]
    pub fn on(mut self, name: &str) -> Self {
        self.refs.push(name.to_owned());
        self
    }

    /// For these.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        for entry in folder.read_dir()? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{name}");
            let kind = entry.path().metadata()?.file_type();
            if kind.is_file() {
                self.files.insert(path.clone(), Entry::new(&path, Content::open(&entry.path())?)?);
            } else if kind.is_dir() && depth < limits::MOCK_HUB_DEPTH_MAX {
                self.add_folder(&entry.path(), &format!("{path}/"), depth + 1)?;
            }
            if self.files.len() > limits::HUB_FILES_MAX {
                return Err(io::Error::other("too many files for a repository"));
            }
        }
        Ok(())
    }
}

/// Bytes that are served.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Memory(Arc<[u8]>),
    Disk { file: Arc<File>, bytes: u64 },
}

impl Content {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self::Disk { file: Arc::new(file), bytes })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk { bytes, .. } => *bytes,
        }
    }

    /// Fills `into` with the bytes from `at` on, which must be there.
    pub(super) fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let at = usize::try_from(at).expect("it is in memory");
                into.copy_from_slice(&bytes[at..at + into.len()]);
                Ok(())
            }
            Self::Disk { file, .. } => file.read_exact_at(into, at),
        }
    }
}

/// A file and what the hub says of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) content: Content,
    /// Id of the git blob: of the file, or of the pointer that git has in its place.
    pub(super) oid: String,
    pub(super) lfs: Option<Lfs>,
}

/// Of a large file.
#[derive(Debug, Clone)]
pub(super) struct Lfs {
    pub(super) sha256: String,
    pub(super) pointer_bytes: usize,
}

impl Entry {
    fn new(path: &str, content: Content) -> io::Result<Self> {
        let is_large = content.len() > limits::MOCK_HUB_LFS_BYTES
            || [".gguf", ".safetensors"].iter().any(|suffix| path.ends_with(suffix));
        let (mut git, mut sha256) = (git_blob(content.len()), Context::new(&SHA256));
        let mut block = vec![0; limits::MOCK_HUB_WRITE_BYTES];
        let mut at = 0;
        while at < content.len() {
            let count = (content.len() - at).min(block.len() as u64);
            let block = &mut block[..usize::try_from(count).expect("at most a block")];
            content.read_at(at, block)?;
            let context = if is_large { &mut sha256 } else { &mut git };
            context.update(block);
            at += count;
        }
        if !is_large {
            return Ok(Self { content, oid: hex(git.finish().as_ref()), lfs: None });
        }
        let sha256 = hex(sha256.finish().as_ref());
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {}\n",
            content.len()
        );
        let mut git = git_blob(pointer.len() as u64);
        git.update(pointer.as_bytes());
        let lfs = Lfs { sha256, pointer_bytes: pointer.len() };
        Ok(Self { content, oid: hex(git.finish().as_ref()), lfs: Some(lfs) })
    }

    /// The `ETag` of its bytes.
    pub(super) fn etag(&self) -> &str {
        self.lfs.as_ref().map_or(&self.oid, |lfs| &lfs.sha256)
    }
}

/// Begins the id of a git blob: SHA-1 of `blob <length>\0` and the bytes.
fn git_blob(bytes: u64) -> Context {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {bytes}\0").as_bytes());
    context
}

/// A commit of a repository.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) id: String,
    pub(super) files: BTreeMap<String, Entry>,
}

impl Commit {
    fn new(files: BTreeMap<String, Entry>) -> Self {
        let mut listing = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        for (path, entry) in &files {
            listing.update(format!("{} {path}\n", entry.oid).as_bytes());
        }
        Self { id: hex(listing.finish().as_ref()), files }
    }

    /// The folders of all files.
    pub(super) fn folders(&self) -> BTreeSet<&str> {
        let paths = self.files.keys();
        paths.flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at])).collect()
    }
}

/// A repository that is served.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) access: Access,
    /// By id, branch and tag.
    commits: BTreeMap<String, Arc<Commit>>,
}

impl Served {
    pub(super) fn commit(&self, revision: &str) -> Option<&Arc<Commit>> {
        self.commits.get(revision)
    }

    /// The large file of this digest, in whatever commit.
    pub(super) fn large(&self, sha256: &str) -> Option<&Entry> {
        let mut entries = self.commits.values().flat_map(|commit| commit.files.values());
        entries.find(|entry| entry.lfs.as_ref().is_some_and(|lfs| lfs.sha256 == sha256))
    }
}

/// All repositories, by `org/repo`.
#[derive(Debug, Default)]
pub(super) struct Repositories(BTreeMap<String, Served>);

impl Repositories {
    pub(super) fn add(&mut self, name: &str, repository: Repository) -> String {
        let Repository { files, mut refs, access } = repository;
        let commit = Arc::new(Commit::new(files));
        if refs.is_empty() {
            refs.push("main".to_owned());
        }
        let served = self.0.entry(name.to_owned()).or_default();
        served.access = access;
        for name in refs.into_iter().chain([commit.id.clone()]) {
            served.commits.insert(name, Arc::clone(&commit));
        }
        commit.id.clone()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Served> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_git() {
        let small = Entry::new("hello.txt", Content::Memory(b"hello\n".as_slice().into())).unwrap();
        assert_eq!(small.oid, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert!(small.lfs.is_none());
        let large = Entry::new("m.gguf", Content::Memory(b"hello\n".as_slice().into())).unwrap();
        assert_eq!(large.etag(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[test]
    fn a_commit_is_its_listing() {
        let mut all = Repositories::default();
        let first = all.add("o/r", Repository::new().with("a/b/c.json", "{}").with("d", ""));
        assert_eq!(all.add("o/r", Repository::new().with("d", "").with("a/b/c.json", "{}").on("v1")), first);
        let second = all.add("o/r", Repository::new().with("d", "x"));
        assert_ne!(first, second);
        let served = all.get("o/r").unwrap();
        assert_eq!(served.commit("main").unwrap().id, second);
        assert_eq!(served.commit("v1").unwrap().id, first);
        let folders: Vec<_> = served.commit(&first).unwrap().folders().into_iter().collect();
        assert_eq!(folders, ["a", "a/b"]);
    }
}
