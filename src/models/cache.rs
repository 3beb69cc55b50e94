//! Finds a model's files on disk, without the network.
//!
//! Invariant: what is found lies within the model directory once all links are resolved, and nothing tells
//! whether a file outside of it exists.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::choose::{self, Shards};
use super::file::open_regular;
use super::reference::{FileRef, HubRef, ModelRef, Pick, is_gguf};
use crate::limits::{INDEX_BYTES_MAX, REF_BYTES_MAX, SNAPSHOT_DEPTH_MAX, SNAPSHOT_ENTRIES_MAX};

/// A model that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What a worker is given: a GGUF (the first shard of a split one) or the folder of safetensors; under
    /// `snapshots/` for `hf:`, resolved for `file:`.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
    /// The files with its weights: all shards, the first one first.
    pub weights: Vec<PathBuf>,
}

/// How many repositories of the hub's cache have a snapshot.
pub fn count(model_dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(model_dir) else { return 0 };
    let is_model = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with("models--"))
            && fs::read_dir(entry.path().join("snapshots")).is_ok_and(|mut all| all.next().is_some())
    };
    entries.flatten().filter(is_model).count()
}

/// How a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One GGUF, or the shards of one.
    Gguf,
    /// Safetensors with their configuration.
    Safetensors,
}

/// Why a model is not found. The messages are for whoever asked: no path of this machine is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindError {
    /// It is not there, or not all of it.
    Missing(Missing),
    /// It is there, and the folder it lies in cannot be read to its end.
    Unlisted(Unlisted),
}

/// Why a folder cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// It cannot be read.
    Unreadable,
    /// It has more files than [`SNAPSHOT_ENTRIES_MAX`].
    TooManyFiles,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// No such file in the model directory.
    File,
    /// Nothing of the repository is in the cache.
    Repository,
    /// The repository is there, that revision of it is not.
    Revision,
    /// No GGUF of that quantisation or path; these quantisations are there.
    Gguf {
        /// What could be asked for instead.
        quants: Vec<String>,
    },
    /// The snapshot has neither a GGUF nor safetensors.
    Weights,
    /// Some of the files that make up the model.
    Parts {
        /// How many of them.
        missing: usize,
        /// Of how many.
        of: usize,
    },
    /// Safetensors without `config.json`.
    Config,
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => missing.fmt(f),
            Self::Unlisted(Unlisted::Unreadable) => f.write_str("the snapshot cannot be read"),
            Self::Unlisted(Unlisted::TooManyFiles) => f.write_str("the snapshot has too many files"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("there is no such file in the model directory"),
            Self::Repository => f.write_str("the repository is not in the model cache"),
            Self::Revision => f.write_str("that revision of the repository is not in the model cache"),
            Self::Gguf { quants } if quants.is_empty() => f.write_str("no such GGUF is in the model cache"),
            Self::Gguf { quants } => {
                write!(f, "no such GGUF is in the model cache; there are {}", quants.join(", "))
            }
            Self::Weights => f.write_str("the snapshot has neither a GGUF nor safetensors"),
            Self::Parts { missing, of } => {
                write!(f, "{missing} of the model's {of} files are not in the model cache")
            }
            Self::Config => f.write_str("the model's config.json is not in the model cache"),
        }
    }
}

impl std::error::Error for FindError {}

impl From<Missing> for FindError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<Unlisted> for FindError {
    fn from(unlisted: Unlisted) -> Self {
        Self::Unlisted(unlisted)
    }
}

/// Where the model `reference` lies in `model_dir`.
///
/// # Errors
/// It is missing or incomplete. Whether its files are a model is for [`crate::capacity::inspect`] to say.
pub fn find(model_dir: &Path, reference: &ModelRef) -> Result<Found, FindError> {
    match reference {
        ModelRef::File(file) => find_file(model_dir, file),
        ModelRef::Hub(hub) => find_hub(model_dir, hub),
    }
}

/// The quantisations of a repository's GGUFs that are here.
pub fn quants(model_dir: &Path, hub: &HubRef) -> Vec<String> {
    let files = || {
        let root = model_dir.canonicalize().ok()?;
        let snapshot = snapshot(&root, &model_dir.join(hub.folder()), hub.revision())?;
        files_of(&root, &snapshot).ok()
    };
    choose::quants(&files().unwrap_or_default())
}

fn find_file(model_dir: &Path, file: &FileRef) -> Result<Found, FindError> {
    let root = model_dir.canonicalize().map_err(|_| Missing::File)?;
    let path = resolve_within(&root, file.path()).ok_or(Missing::File)?;
    if file.path().extension().is_some_and(|extension| extension == "safetensors") {
        return Ok(Found { weights: vec![path.clone()], path, format: Format::Safetensors });
    }
    // Shards are found by their names: behind a link into `blobs` they have none.
    let named = file.path().file_name().and_then(|name| name.to_str());
    let shards = choose::shards(named.ok_or(Missing::File)?);
    if let (Some(folder), 2..) = (file.path().parent(), shards.len()) {
        return found_gguf(&root, folder, &shards);
    }
    Ok(Found { weights: vec![path.clone()], path, format: Format::Gguf })
}

fn find_hub(model_dir: &Path, hub: &HubRef) -> Result<Found, FindError> {
    let root = model_dir.canonicalize().map_err(|_| Missing::Repository)?;
    let repository = model_dir.join(hub.folder());
    if !is_dir_within(&root, &repository) {
        return Err(Missing::Repository.into());
    }
    let snapshot = snapshot(&root, &repository, hub.revision()).ok_or(Missing::Revision)?;
    let files = files_of(&root, &snapshot)?;
    match choose::gguf(&files, hub.pick()) {
        Ok(shards) => found_gguf(&root, &snapshot, &shards),
        Err(none) if *hub.pick() != Pick::Any => Err(Missing::Gguf { quants: none.quants }.into()),
        Err(_) => found_safetensors(&root, snapshot, &files),
    }
}

fn found_gguf(root: &Path, folder: &Path, shards: &Shards) -> Result<Found, FindError> {
    all_there(root, folder, shards)?;
    let weights: Vec<PathBuf> = shards.iter().map(|shard| folder.join(shard)).collect();
    Ok(Found { path: weights[0].clone(), format: Format::Gguf, weights })
}

fn found_safetensors(root: &Path, snapshot: PathBuf, files: &[String]) -> Result<Found, FindError> {
    let weights = choose::safetensors(files);
    if weights.is_empty() {
        return Err(Missing::Weights.into());
    }
    all_there(root, &snapshot, &weights)?;
    if !files.iter().any(|file| file == "config.json") {
        return Err(Missing::Config.into());
    }
    if let Some(indexed) = indexed(root, &snapshot) {
        all_there(root, &snapshot, &indexed)?;
    }
    let weights = weights.iter().map(|file| snapshot.join(file)).collect();
    Ok(Found { path: snapshot, format: Format::Safetensors, weights })
}

/// The files that the index of split safetensors names; none without one that can be read.
fn indexed(root: &Path, snapshot: &Path) -> Option<Shards> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = resolve_within(root, &snapshot.join("model.safetensors.index.json"))?;
    let mut json = Vec::new();
    open_regular(&path).ok()?.take(INDEX_BYTES_MAX).read_to_end(&mut json).ok()?;
    let Index { weight_map } = serde_json::from_slice(&json).ok()?;
    let mut files: Shards = weight_map.into_values().filter(|name| !name.contains('/')).collect();
    files.sort();
    files.dedup();
    Some(files)
}

fn all_there(root: &Path, folder: &Path, files: &Shards) -> Result<(), Missing> {
    let missing = files.iter().filter(|file| resolve_within(root, &folder.join(file)).is_none()).count();
    if missing == 0 { Ok(()) } else { Err(Missing::Parts { missing, of: files.len() }) }
}

/// The folder of `revision`: a branch or tag by its file in `refs/`, or a commit by itself.
fn snapshot(root: &Path, repository: &Path, revision: &str) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let commits = [read_ref(root, &repository.join("refs").join(revision)), Some(revision.to_owned())];
    let folders =
        commits.into_iter().flatten().filter(|commit| is_commit(commit)).map(|commit| snapshots.join(commit));
    folders.into_iter().find(|folder| is_dir_within(root, folder))
}

fn read_ref(root: &Path, path: &Path) -> Option<String> {
    let mut commit = String::new();
    open_regular(&resolve_within(root, path)?).ok()?.take(REF_BYTES_MAX).read_to_string(&mut commit).ok()?;
    Some(commit.trim().to_owned())
}

/// Whether `name` is one plain folder name.
fn is_commit(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !name.starts_with('.')
}

/// The regular file that `path` leads to, if it lies within `root` (which is resolved).
fn resolve_within(root: &Path, path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|real| real.starts_with(root) && real.is_file())
}

fn is_dir_within(root: &Path, path: &Path) -> bool {
    path.canonicalize().is_ok_and(|real| real.starts_with(root) && real.is_dir())
}

/// The files of a snapshot that are really there, by their path in it, sorted. Links to folders are not
/// followed: the hub has none.
fn files_of(root: &Path, snapshot: &Path) -> Result<Vec<String>, Unlisted> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    let mut entries_left = SNAPSHOT_ENTRIES_MAX;
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(snapshot.join(&folder)).map_err(|_| Unlisted::Unreadable)? {
            let entry = entry.map_err(|_| Unlisted::Unreadable)?;
            entries_left = entries_left.checked_sub(1).ok_or(Unlisted::TooManyFiles)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth < SNAPSHOT_DEPTH_MAX {
                    folders.push((path, depth + 1));
                }
            } else if is_of_interest(&path) && resolve_within(root, &entry.path()).is_some() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_of_interest(path: &str) -> bool {
    is_gguf(path) || path.ends_with(".safetensors") || path == "config.json"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const GGUF: &[u8] = b"GGUF\x03\0\0\0";
    const SAFETENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

    /// A model directory with one repository `hf:org/tiny`, laid out as `huggingface_hub` does it.
    struct Cache {
        dir: tempfile::TempDir,
    }

    impl Cache {
        fn new() -> Self {
            let cache = Self { dir: tempfile::tempdir().expect("a folder") };
            cache.write("models--org--tiny/refs/main", b"c0ffee");
            fs::create_dir_all(cache.snapshot()).expect("made");
            cache
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("hub")
        }

        fn snapshot(&self) -> PathBuf {
            self.root().join("models--org--tiny/snapshots/c0ffee")
        }

        fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("made");
            fs::write(&path, bytes).expect("written");
            path
        }

        /// A file of the snapshot: a link to a blob.
        fn add(&self, name: &str, bytes: &[u8]) -> &Self {
            let blob = self.write(&format!("models--org--tiny/blobs/{}", name.replace('/', "+")), bytes);
            let link = self.snapshot().join(name);
            fs::create_dir_all(link.parent().expect("it lies in a folder")).expect("made");
            symlink(blob, link).expect("made");
            self
        }

        fn find(&self, reference: &str) -> Result<Found, FindError> {
            find(&self.root(), &reference.parse().expect("a good reference"))
        }

        fn gguf(&self, name: &str) -> Result<Found, FindError> {
            let path = self.snapshot().join(name);
            Ok(Found { weights: vec![path.clone()], path, format: Format::Gguf })
        }
    }

    #[test]
    fn a_gguf_is_found_under_its_snapshot() {
        let cache = Cache::new();
        cache.add("m-Q8_0.gguf", GGUF).add("sub/m-Q4_K_M.gguf", GGUF).add("config.json", b"{}");
        assert_eq!(cache.find("hf:org/tiny"), cache.gguf("sub/m-Q4_K_M.gguf"));
        assert_eq!(cache.find("hf:org/tiny:q8_0"), cache.gguf("m-Q8_0.gguf"));
        assert_eq!(cache.find("HF:org/tiny:m-Q8_0.gguf@main"), cache.gguf("m-Q8_0.gguf"));
        assert_eq!(cache.find("hf:org/tiny@c0ffee"), cache.gguf("sub/m-Q4_K_M.gguf"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let cache = Cache::new();
        let missing = |what| Err(FindError::Missing(what));
        assert_eq!(cache.find("hf:org/other"), missing(Missing::Repository));
        assert_eq!(cache.find("hf:org/tiny@v2"), missing(Missing::Revision));
        assert_eq!(cache.find("hf:org/tiny@refs/pr/1"), missing(Missing::Revision));
        assert_eq!(cache.find("hf:org/tiny"), missing(Missing::Weights));
        cache.add("m-Q8_0.gguf", GGUF).add("m-Q2_K.gguf", GGUF).add("mmproj-F16.gguf", GGUF);
        let error = cache.find("hf:org/tiny:Q4_0").expect_err("there is none");
        assert_eq!(error.to_string(), "no such GGUF is in the model cache; there are Q2_K, Q8_0");
        assert!(cache.find("hf:org/tiny:mmproj-F16.gguf").is_err(), "a projector is no model");
        let nowhere = find(&cache.root().join("absent"), &"hf:org/tiny".parse().expect("a good reference"));
        assert_eq!(nowhere, missing(Missing::Repository));
    }

    #[test]
    fn a_split_model_needs_all_its_shards() {
        let cache = Cache::new();
        cache.add("m-00001-of-00002.gguf", GGUF);
        assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Parts { missing: 1, of: 2 }.into()));
        cache.add("m-00002-of-00002.gguf", GGUF);
        let found = cache.find("hf:org/tiny").expect("it is whole");
        let shards =
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|name| cache.snapshot().join(name));
        assert_eq!((&found.path, &found.weights[..]), (&shards[0], &shards[..]));
        assert_eq!(cache.find("hf:org/tiny:m-00002-of-00002.gguf"), Ok(found));
    }

    #[test]
    fn safetensors_are_the_snapshot_with_its_configuration() {
        let cache = Cache::new();
        cache.add("model.safetensors", SAFETENSORS);
        assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Config.into()));
        cache.add("config.json", b"{}");
        assert_eq!(
            cache.find("hf:org/tiny"),
            Ok(Found {
                path: cache.snapshot(),
                format: Format::Safetensors,
                weights: vec![cache.snapshot().join("model.safetensors")],
            })
        );
        assert_eq!(cache.find("hf:org/tiny:Q8_0"), Err(Missing::Gguf { quants: vec![] }.into()));
    }

    #[test]
    fn links_that_are_broken_or_lead_out_count_as_absent() {
        let cache = Cache::new();
        let outside = cache.dir.path().join("m.gguf");
        fs::write(&outside, GGUF).expect("written");
        symlink(&outside, cache.snapshot().join("a.gguf")).expect("made");
        symlink("../../blobs/gone", cache.snapshot().join("b.gguf")).expect("made");
        symlink(cache.dir.path(), cache.snapshot().join("out")).expect("made");
        assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Weights.into()));
        cache.add("c.gguf", GGUF);
        assert_eq!(cache.find("hf:org/tiny"), cache.gguf("c.gguf"));
    }

    #[test]
    fn safetensors_need_all_files_that_their_index_names() {
        let cache = Cache::new();
        let index = br#"{"metadata":{},"weight_map":{"a":"model-00001-of-000002.safetensors","b":"model-b.safetensors"}}"#;
        cache.add("config.json", b"{}").add("model.safetensors.index.json", index);
        cache.add("model-00001-of-000002.safetensors", SAFETENSORS);
        assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Parts { missing: 1, of: 2 }.into()));
        cache.add("model-00002-of-000002.safetensors", SAFETENSORS);
        assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Parts { missing: 1, of: 2 }.into()));
        cache.add("model-b.safetensors", SAFETENSORS);
        assert!(cache.find("hf:org/tiny").is_ok());
    }

    #[test]
    fn shards_that_are_links_are_found_by_their_names() {
        let cache = Cache::new();
        cache.add("m-00001-of-00002.gguf", GGUF);
        let first = cache.snapshot().join("m-00001-of-00002.gguf");
        let file = format!("file:{}", first.display());
        assert_eq!(cache.find(&file), Err(Missing::Parts { missing: 1, of: 2 }.into()));
        cache.add("m-00002-of-00002.gguf", GGUF);
        assert_eq!(cache.find(&file).map(|found| (found.path, found.weights.len())), Ok((first, 2)));
    }

    #[test]
    fn a_ref_cannot_lead_out_of_the_snapshots() {
        let cache = Cache::new();
        cache.add("c.gguf", GGUF);
        for commit in ["..", "../..", "/", "", "c0ffee/..", ".", "\0"] {
            cache.write("models--org--tiny/refs/main", commit.as_bytes());
            assert_eq!(cache.find("hf:org/tiny"), Err(Missing::Revision.into()), "{commit:?}");
        }
        cache.write("models--org--tiny/refs/main", b"c0ffee\n");
        assert_eq!(cache.find("hf:org/tiny"), cache.gguf("c.gguf"));
    }

    #[test]
    fn a_file_must_lie_in_the_model_directory_after_links() {
        let cache = Cache::new();
        let (inside, outside) = (cache.write("x/m.gguf", GGUF), cache.dir.path().join("secret"));
        fs::write(&outside, GGUF).expect("written");
        symlink(&outside, cache.root().join("out.gguf")).expect("made");
        symlink(&inside, cache.root().join("in.gguf")).expect("made");
        let file = |path: &Path| cache.find(&format!("file:{}", path.display()));
        let real = inside.canonicalize().expect("it is there");
        let found = Ok(Found { weights: vec![real.clone()], path: real, format: Format::Gguf });
        assert_eq!(file(&inside), found);
        assert_eq!(file(&cache.root().join("in.gguf")), found, "resolved");
        for absent in [
            outside,
            cache.root().join("out.gguf"),
            cache.root().join("absent"),
            cache.root().join("x"),
            "/dev/null".into(),
        ] {
            assert_eq!(file(&absent), Err(Missing::File.into()), "{}", absent.display());
        }
        let weights = cache.write("w.safetensors", SAFETENSORS);
        assert!(file(&weights).is_ok_and(|found| found.format == Format::Safetensors));
    }

    #[test]
    fn a_snapshot_of_too_many_files_is_refused() {
        let cache = Cache::new();
        for index in 0..=SNAPSHOT_ENTRIES_MAX {
            fs::write(cache.snapshot().join(index.to_string()), b"").expect("written");
        }
        assert_eq!(cache.find("hf:org/tiny"), Err(Unlisted::TooManyFiles.into()));
    }

    #[test]
    fn repositories_with_a_snapshot_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for folder in
            ["models--a--b/snapshots/1", "models--c--d/snapshots", "datasets--e--f/snapshots/1", "x"]
        {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        assert_eq!(count(dir.path()), 1);
        assert_eq!(count(&dir.path().join("nowhere")), 0);
    }
}
