//! A folder of folders, as a hub.

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

use super::{Access, Hub, Repository};
use crate::limits;

/// Has `hub` serve each `folder/org/repo` as `org/repo`, for these; hidden names are left out. What it serves,
/// with its commits.
///
/// # Errors
/// If something cannot be read, or there is too much of it.
pub fn serve(hub: &Hub, folder: &Path, access: Access) -> io::Result<Vec<(String, String)>> {
    let mut served = Vec::new();
    for (org, path) in folders(folder)? {
        for (repo, path) in folders(&path)? {
            let name = format!("{org}/{repo}");
            let commit = hub.add(&name, Repository::of_folder(&path)?.access(access));
            served.push((name, commit));
            if served.len() > limits::MOCK_KEPT_MAX {
                return Err(io::Error::other("too many repositories for a stand-in"));
            }
        }
    }
    Ok(served)
}

/// The folders in a folder, by name.
fn folders(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let named = |entry: io::Result<DirEntry>| {
        entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
    };
    let mut folders: Vec<_> = folder.read_dir()?.map(named).collect::<io::Result<_>>()?;
    folders.retain(|(name, path)| path.is_dir() && !name.starts_with('.'));
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn repositories_are_the_folders_of_organisations() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["o/b/m.gguf", "o/a/f", "p/c/sub/f", ".git/x/f"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let hub = Hub::start(Options::default()).unwrap();
        let served = serve(&hub, folder.path(), Access::Public).unwrap();
        let names: Vec<_> = served.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["o/a", "o/b", "p/c"]);
        assert!(serve(&hub, &folder.path().join("none"), Access::Public).is_err());
    }
}
