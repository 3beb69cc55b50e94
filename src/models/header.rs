//! The first bytes of a model file: enough to tell a model from a file that only bears its name.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::limits::SAFETENSORS_HEADER_BYTES_MAX;

/// Why a file is no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not begin with `GGUF`.
    NotGguf,
    /// A GGUF of a version other than 2 and 3.
    GgufVersion,
    /// The length of its header does not fit, or it has none.
    NotSafetensors,
    /// It cannot be read.
    Unreadable,
    /// A snapshot with too many files.
    TooManyFiles,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotGguf => "the file is no GGUF",
            Self::GgufVersion => "the file is a GGUF of a version other than 2 and 3",
            Self::NotSafetensors => "the file is no safetensors file, or a part of one",
            Self::Unreadable => "the file cannot be read",
            Self::TooManyFiles => "the snapshot has too many files",
        })
    }
}

/// Opens a regular file; does not wait for the writer of a pipe.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Checks magic and version of a GGUF.
///
/// # Errors
/// What is wrong with it.
pub fn check_gguf(path: &Path) -> Result<(), Fault> {
    let mut file = open_regular(path).map_err(|_| Fault::Unreadable)?;
    let mut start = [0; 8];
    read_start(&mut file, &mut start, Fault::NotGguf)?;
    match start {
        [b'G', b'G', b'U', b'F', 2 | 3, 0, 0, 0] => Ok(()),
        [b'G', b'G', b'U', b'F', ..] => Err(Fault::GgufVersion),
        _ => Err(Fault::NotGguf),
    }
}

/// Checks that the header of a safetensors file lies within it.
///
/// # Errors
/// What is wrong with it.
pub fn check_safetensors(path: &Path) -> Result<(), Fault> {
    let mut file = open_regular(path).map_err(|_| Fault::Unreadable)?;
    let file_bytes = file.metadata().map_err(|_| Fault::Unreadable)?.len();
    let mut start = [0; 9];
    read_start(&mut file, &mut start, Fault::NotSafetensors)?;
    let [length @ .., first] = start;
    let header_bytes = u64::from_le_bytes(length);
    let fits = (2..=SAFETENSORS_HEADER_BYTES_MAX.min(file_bytes.saturating_sub(8))).contains(&header_bytes);
    if fits && first == b'{' { Ok(()) } else { Err(Fault::NotSafetensors) }
}

fn read_start(file: &mut File, start: &mut [u8], short: Fault) -> Result<(), Fault> {
    file.read_exact(start)
        .map_err(|e| if e.kind() == ErrorKind::UnexpectedEof { short } else { Fault::Unreadable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(check: fn(&Path) -> Result<(), Fault>, bytes: &[u8]) -> Result<(), Fault> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        check(file.path())
    }

    #[test]
    fn a_gguf_is_known_by_magic_and_version() {
        assert_eq!(checked(check_gguf, b"GGUF\x03\0\0\0rest"), Ok(()));
        assert_eq!(checked(check_gguf, b"GGUF\x02\0\0\0"), Ok(()));
        assert_eq!(checked(check_gguf, b"GGUF\x01\0\0\0"), Err(Fault::GgufVersion));
        assert_eq!(checked(check_gguf, b"GGUF\0\0\0\x03"), Err(Fault::GgufVersion));
        assert_eq!(checked(check_gguf, b"GGUF"), Err(Fault::NotGguf));
        assert_eq!(checked(check_gguf, b"<!doctype html>"), Err(Fault::NotGguf));
        assert_eq!(checked(check_gguf, b""), Err(Fault::NotGguf));
    }

    #[test]
    fn a_safetensors_header_must_lie_in_its_file() {
        assert_eq!(checked(check_safetensors, b"\x02\0\0\0\0\0\0\0{}"), Ok(()));
        for bytes in [
            b"\x03\0\0\0\0\0\0\0{}".as_slice(),
            b"\0\0\0\0\0\0\0\0{}",
            b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
            b"\x02\0\0\0\0\0\0\0[]",
            b"\x02\0\0\0\0\0\0\0",
            b"",
        ] {
            assert_eq!(checked(check_safetensors, bytes), Err(Fault::NotSafetensors), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("made");
        assert_eq!(check_gguf(&pipe), Err(Fault::Unreadable));
        assert_eq!(check_gguf(dir.path()), Err(Fault::Unreadable));
        assert_eq!(check_gguf(&dir.path().join("absent")), Err(Fault::Unreadable));
    }
}
