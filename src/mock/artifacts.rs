//! A folder of artifacts, as `rbee-hive provision` fetches them: `KIND/VERSION/PLATFORM`, its checksum beside it, and
//! `KIND/latest`, a link to a version. Any web server can serve it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, HeaderMode};

use crate::kinds::install::{MANIFEST, sha256_of};
use crate::kinds::manifest;
use crate::kinds::provision::{KindName, LATEST, PLATFORM, Version};
use crate::limits::UNPACKED_DEPTH_MAX;
use crate::mock::hub::{Access, Hub, Repository};

/// What is to be published; `FromStr` reads `KIND/VERSION=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The kind.
    pub kind: KindName,
    /// Its version.
    pub version: Version,
    /// A program, or a folder with a `kind.json`.
    pub path: PathBuf,
}

impl FromStr for Artifact {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("an artifact is KIND/VERSION=PATH")?;
        let (kind, version) = name.split_once('/').ok_or("an artifact is KIND/VERSION=PATH")?;
        let kind = kind.parse().map_err(|wrong| format!("KIND {wrong}"))?;
        let version: Version = version.parse().map_err(|wrong| format!("VERSION {wrong}"))?;
        if version.as_str() == LATEST {
            return Err("VERSION is one of its own: `latest` becomes a link to it".to_owned());
        }
        Ok(Self { kind, version, path: path.into() })
    }
}

/// Puts `artifact` into `folder` for this platform, and makes it the latest; gives its checksum.
///
/// A program is copied, a folder packed as a gzipped tar that is the same however often it is made.
///
/// # Errors
/// If it is neither, its manifest has a mistake, or a file cannot be read or written.
pub fn publish(folder: &Path, artifact: &Artifact) -> Result<String, String> {
    let Artifact { kind, version, path } = artifact;
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let home = folder.join(kind.as_str()).join(version.as_str());
    fs::create_dir_all(&home).map_err(failed)?;
    let (new, done) = (home.join(format!(".{PLATFORM}.new")), home.join(PLATFORM));
    if path.is_dir() {
        let manifest = manifest::read(&path.join(MANIFEST)).map_err(|mistake| mistake.to_string())?;
        if manifest.name != kind.as_str() {
            return Err(format!("{}: its kind is {}, not {}", path.display(), manifest.name, kind.as_str()));
        }
        pack(path, &new).map_err(failed)?;
    } else {
        fs::copy(path, &new).map_err(failed)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    let sha256 = sha256_of(&new).map_err(failed)?;
    fs::write(home.join(format!("{PLATFORM}.sha256")), format!("{sha256}  {PLATFORM}\n")).map_err(failed)?;
    fs::rename(&new, &done).map_err(failed)?;
    let (link, latest) =
        (folder.join(kind.as_str()).join(".latest.new"), folder.join(kind.as_str()).join(LATEST));
    let _ = fs::remove_file(&link);
    symlink(version.as_str(), &link).and_then(|()| fs::rename(&link, latest)).map_err(failed)?;
    Ok(sha256)
}

fn pack(folder: &Path, archive: &Path) -> io::Result<()> {
    let mut tar = Builder::new(GzEncoder::new(File::create(archive)?, Compression::default()));
    tar.mode(HeaderMode::Deterministic);
    tar.follow_symlinks(false);
    tar.sparse(false); // what has holes here or not is not the archive's business
    add(&mut tar, folder, Path::new(""), 0)?;
    tar.into_inner()?.finish()?.flush()
}

/// In the order of their names.
fn add(tar: &mut Builder<impl io::Write>, folder: &Path, within: &Path, depth: usize) -> io::Result<()> {
    if depth > UNPACKED_DEPTH_MAX {
        return Err(io::Error::other("folders lie too deep"));
    }
    let mut entries: Vec<_> = fs::read_dir(folder.join(within))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = within.join(entry.file_name());
        tar.append_path_with_name(entry.path(), &name)?;
        if entry.file_type()?.is_dir() {
            add(tar, folder, &name, depth + 1)?;
        }
    }
    Ok(())
}

/// Has `hub` serve `folder`; gives what `--artifact-url` is to be.
///
/// # Errors
/// If something cannot be read, or there is too much of it.
pub fn serve(hub: &Hub, folder: &Path) -> io::Result<String> {
    hub.add("rbee/artifacts", Repository::of_folder(folder)?.access(Access::Public));
    Ok(format!("{}/rbee/artifacts/resolve/main", hub.url()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_packed_the_same_each_time_and_is_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("bin")).unwrap();
        fs::write(source.join("bin/tiny"), "#!/bin/sh\n").unwrap();
        let manifest = r#"{"kind":"tiny","protocol":"native","program":"bin/tiny","backends":["cpu"]}"#;
        fs::write(source.join(MANIFEST), manifest).unwrap();
        let out = folder.path().join("out");
        let published = |version: &str, kind: &str| {
            publish(&out, &format!("{kind}/{version}={}", source.display()).parse().unwrap())
        };
        let first = published("1.0", "tiny").unwrap();
        assert_eq!(published("1.1", "tiny").unwrap(), first);
        assert_eq!(fs::read_link(out.join("tiny/latest")).unwrap(), Path::new("1.1"));
        let line = fs::read_to_string(out.join(format!("tiny/latest/{PLATFORM}.sha256"))).unwrap();
        assert_eq!(line, format!("{first}  {PLATFORM}\n"));
        assert!(published("1.0", "other").unwrap_err().ends_with("its kind is tiny, not other"));
        for wrong in ["tiny", "tiny=x", "tiny/1", "T/1=x", "tiny/../x=y", "tiny/latest=x"] {
            assert!(wrong.parse::<Artifact>().is_err(), "{wrong}");
        }
    }
}
