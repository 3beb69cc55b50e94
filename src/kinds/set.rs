//! The kinds of this hive: built-in ones, those from files, and where their programs are.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, access};

use super::manifest::{self, FileMistake};
use super::shelf::Installed;
use super::{Kind, builtin};
use crate::api::KindSource;

/// A kind and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The kind.
    pub kind: Arc<Kind>,
    /// Where it comes from.
    pub source: KindSource,
}

impl Entry {
    /// Whether a program that is installed takes the place of its own: a file may say where that is to be.
    pub(super) fn takes_install(&self) -> bool {
        self.source == KindSource::Builtin || !has_folder(&self.kind.program)
    }
}

/// All kinds of a hive, each name once: the built-in ones first, then those from files as they were given.
#[derive(Debug, Clone, PartialEq)]
pub struct Kinds(Vec<Entry>);

/// Why there is no set of kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KindsError {
    /// A manifest has a mistake.
    Manifest(FileMistake),
    /// Two files have a kind of the same name.
    Twice {
        /// The second one.
        file: PathBuf,
        /// The name.
        kind: String,
    },
    /// A program was given for a kind that does not exist.
    NoSuchKind {
        /// The name as it was given.
        kind: String,
        /// The names there are.
        known: Vec<String>,
    },
}

impl fmt::Display for KindsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(mistake) => mistake.fmt(f),
            Self::Twice { file, kind } => {
                let file = file.to_string_lossy();
                write!(f, "{}: kind: another file has `{kind}` already", file.escape_debug())
            }
            Self::NoSuchKind { kind, known } => {
                write!(f, "there is no kind `{}`; there are {}", kind.escape_debug(), known.join(", "))
            }
        }
    }
}

impl std::error::Error for KindsError {}

impl Kinds {
    /// The built-in kinds, then those in `files` (one that bears a built-in's name takes its place), with
    /// `programs` put in for the kinds they name.
    ///
    /// # Errors
    /// A mistake in a manifest, two files with the same kind, or a program for a kind there is not.
    pub fn load(files: &[PathBuf], programs: &[(String, PathBuf)]) -> Result<Self, KindsError> {
        let builtin = |kind| Entry { kind: Arc::new(kind), source: KindSource::Builtin };
        let mut entries: Vec<Entry> = builtin::kinds().into_iter().map(builtin).collect();
        for file in files {
            let kind = manifest::read(file).map_err(KindsError::Manifest)?;
            let place = entries.iter().position(|entry| entry.kind.name == kind.name);
            let entry = Entry { kind: Arc::new(kind), source: KindSource::File };
            match place.map(|at| &mut entries[at]) {
                None => entries.push(entry),
                Some(old) if old.source == KindSource::Builtin => *old = entry,
                Some(old) => {
                    return Err(KindsError::Twice { file: file.clone(), kind: old.kind.name.clone() });
                }
            }
        }
        for (name, program) in programs {
            let Some(entry) = entries.iter_mut().find(|entry| entry.kind.name == *name) else {
                let known = entries.iter().map(|entry| entry.kind.name.clone()).collect();
                return Err(KindsError::NoSuchKind { kind: name.clone(), known });
            };
            Arc::make_mut(&mut entry.kind).program = program.clone();
        }
        Ok(Self(entries))
    }

    /// The same with what is installed: a kind that came with a manifest takes a built-in's place; of a kind from a
    /// file, and where only a program was installed, that program is put in, unless the file says where its own is.
    #[must_use]
    pub fn with_installed<'a>(&self, installed: impl Iterator<Item = &'a Installed>) -> Self {
        let mut kinds = self.clone();
        for Installed { install, manifest } in installed {
            let name = &install.record().kind;
            let place = kinds.0.iter_mut().find(|entry| entry.kind.name == *name);
            let program = match (install.program(), manifest) {
                (Some(program), _) => program,
                (None, Some(manifest)) => manifest.program.clone(),
                (None, None) => continue,
            };
            let base = match (&place, manifest) {
                (Some(entry), _) if !entry.takes_install() => continue,
                (Some(entry), None) => Kind::clone(&entry.kind),
                (Some(entry), Some(_)) if entry.source == KindSource::File => Kind::clone(&entry.kind),
                (_, Some(manifest)) => manifest.clone(),
                // The kind whose program it is has gone.
                (None, None) => continue,
            };
            let kind = Arc::new(Kind { program, install: Some(Arc::clone(install)), ..base });
            let entry = Entry { kind, source: KindSource::Installed };
            match place {
                Some(place) => *place = entry,
                None => kinds.0.push(entry),
            }
        }
        kinds
    }

    /// The kind called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<Kind>> {
        self.0.iter().map(|entry| &entry.kind).find(|kind| kind.name == name)
    }

    /// All kinds, in the order of the set.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Kinds {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Where the kind's program is now: an executable regular file, by its path or on `PATH`. Looks at the
/// disk at each call.
pub fn find_program(kind: &Kind) -> Option<PathBuf> {
    find_on(&kind.program, std::env::var_os("PATH").as_deref())
}

/// Entries of `PATH` that are empty or relative are passed over: what they mean depends on where the hive
/// was started.
fn find_on(program: &Path, search: Option<&OsStr>) -> Option<PathBuf> {
    if has_folder(program) {
        return std::path::absolute(program).ok().filter(|path| is_executable(path));
    }
    std::env::split_paths(search?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

/// Whether it is a path, and not a name that is looked for on `PATH`.
fn has_folder(program: &Path) -> bool {
    program.as_os_str().as_encoded_bytes().contains(&b'/')
}

/// Whether a file is there that we may execute.
pub(super) fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn manifest(dir: &Path, file: &str, kind: &str) -> PathBuf {
        let path = dir.join(file);
        let text =
            format!(r#"{{"kind":"{kind}","protocol":"native","program":"/opt/{file}","backends":["cpu"]}}"#);
        fs::write(&path, text).expect("written");
        path
    }

    fn names(kinds: &Kinds) -> Vec<&str> {
        kinds.iter().map(|entry| entry.kind.name.as_str()).collect()
    }

    fn program(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/true\n").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    }

    #[test]
    fn a_file_takes_the_place_of_a_builtin_and_others_follow() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = [manifest(dir.path(), "z", "zeta"), manifest(dir.path(), "l", "llama-server")];
        let kinds = Kinds::load(&files, &[]).expect("good manifests");
        assert_eq!(names(&kinds), ["llm-worker-rbee", "llama-server", "vllm", "zeta"]);
        assert_eq!(kinds.get("llama-server").expect("it is there").program, Path::new("/opt/l"));
        let sources: Vec<_> = kinds.iter().map(|entry| entry.source.as_str()).collect();
        assert_eq!(sources, ["builtin", "file", "builtin", "file"]);
    }

    #[test]
    fn a_program_is_put_in_for_its_kind_alone() {
        let kinds = Kinds::load(&[], &[("vllm".to_owned(), "/opt/v".into())]).expect("a known kind");
        assert_eq!(kinds.get("vllm").expect("it is there").program, Path::new("/opt/v"));
        assert_eq!(kinds.get("llama-server").expect("it is there").program, Path::new("llama-server"));
        let error = Kinds::load(&[], &[("vlm".to_owned(), "/opt/v".into())]).expect_err("no such kind");
        assert_eq!(
            error.to_string(),
            "there is no kind `vlm`; there are llm-worker-rbee, llama-server, vllm"
        );
    }

    #[test]
    fn two_files_with_one_name_are_a_mistake() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = [manifest(dir.path(), "a", "zeta"), manifest(dir.path(), "b", "zeta")];
        let error = Kinds::load(&files, &[]).expect_err("two of a name");
        assert!(error.to_string().ends_with("b: kind: another file has `zeta` already"), "{error}");
    }

    #[test]
    fn only_an_executable_regular_file_is_a_program() {
        let dir = tempfile::tempdir().expect("a folder");
        let (good, plain, folder, link) = (
            dir.path().join("good"),
            dir.path().join("plain"),
            dir.path().join("folder"),
            dir.path().join("link"),
        );
        program(&good, 0o755);
        program(&plain, 0o644);
        fs::create_dir(&folder).expect("made");
        symlink(&good, &link).expect("made");
        assert_eq!(find_on(&good, None), Some(good.clone()));
        assert_eq!(find_on(&link, None), Some(link));
        for absent in [plain, folder, dir.path().join("absent")] {
            assert_eq!(find_on(&absent, None), None, "{}", absent.display());
        }
    }

    #[test]
    fn the_path_is_searched_in_order_and_relative_entries_are_passed_over() {
        let (first, second) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        program(&first.path().join("w"), 0o644);
        program(&second.path().join("w"), 0o755);
        let search = std::env::join_paths([Path::new(""), Path::new("."), first.path(), second.path()]);
        let search = search.expect("no colon in them");
        assert_eq!(find_on(Path::new("w"), Some(&search)), Some(second.path().join("w")));
        assert_eq!(find_on(Path::new("v"), Some(&search)), None);
        assert_eq!(find_on(Path::new("w"), None), None);
    }
}
