//! Archives as they should be, and as somebody makes them who means harm.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// An entry whose names are put in as they are: the library would refuse to write most of them.
fn entry(kind: EntryType, path: &str, link: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(bytes.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..path.len()].copy_from_slice(path.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut entry = header.as_bytes().to_vec();
    entry.extend_from_slice(bytes);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn file(path: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", b"bytes")
}

fn link(path: &str, to: &str) -> Vec<u8> {
    entry(EntryType::Symlink, path, to, b"")
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(tar).unwrap();
    packed.finish().unwrap()
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.extend_from_slice(&[0; 1024]);
    gzip(&tar)
}

/// Unpacks into `inside` of a folder; what else is in that folder must not change.
struct Yard {
    folder: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inside")).unwrap();
        fs::write(folder.path().join("victim"), "untouched").unwrap();
        Self { folder }
    }

    fn inside(&self) -> PathBuf {
        self.folder.path().join("inside")
    }

    fn unpack(&self, packed: &[u8], bounds: Bounds) -> Result<Contents, UnpackError> {
        let unpacked = unpack(packed, &self.inside(), bounds, &|| false);
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["inside", "victim"], "nothing is written outside");
        assert_eq!(fs::read(self.folder.path().join("victim")).unwrap(), b"untouched");
        unpacked
    }
}

fn refused(entries: &[Vec<u8>]) -> String {
    Yard::new().unpack(&archive(entries), Bounds::default()).expect_err("it is refused").to_string()
}

#[test]
fn files_folders_and_links_come_out_as_they_went_in() {
    let yard = Yard::new();
    let entries = [
        entry(EntryType::Directory, "./k/", "", b""),
        entry(EntryType::Regular, "./k/bin/run", "", b"#!/bin/sh\n"),
        entry(EntryType::Link, "k/bin/again", "k/bin/run", b""),
        link("k/lib/x.so", "x.so.1"),
        file("k/lib/x.so.1"),
        link("k/bin/up", "../lib/./x.so"),
    ];
    let Contents { files, links } = yard.unpack(&archive(&entries), Bounds::default()).unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["k/bin/again", "k/bin/run", "k/lib/x.so.1"]);
    assert_eq!(
        files[2].sha256,
        crate::kinds::install::sha256_of(&yard.inside().join("k/lib/x.so.1")).unwrap()
    );
    assert_eq!(links.len(), 2);
    assert_eq!(fs::read(yard.inside().join("k/bin/up")).unwrap(), b"bytes");
    let mode = |path: &str| fs::metadata(yard.inside().join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("k/bin/run"), mode("k/bin")),
        (0o755, 0o755),
        "without the setuid bit that the archive has"
    );
}

#[test]
fn long_names_are_read_as_gnu_and_posix_write_them() {
    let yard = Yard::new();
    let long = format!("k/{}/{}", "d".repeat(120), "f".repeat(120));
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let record = format!("path={long}2\n");
    let length = record.len() + 4;
    tar.append_pax_extensions([("path", format!("{long}2").as_bytes())]).unwrap();
    tar.append_data(&mut header.clone(), "short", &b"y"[..]).unwrap();
    let files = yard.unpack(&gzip(&tar.into_inner().unwrap()), Bounds::default()).unwrap().files;
    assert_eq!(
        files.iter().map(|file| &file.path).collect::<Vec<_>>(),
        [&long, &format!("{long}2")],
        "{length}"
    );
}

#[test]
fn nothing_leads_out_of_the_folder() {
    for (entries, what) in [
        (vec![file("../victim")], "entry 1 of the archive has `..` in its path"),
        (vec![file("a/../../victim")], "entry 1 of the archive has `..` in its path"),
        (vec![file("/tmp/victim")], "entry 1 of the archive has an absolute path"),
        (vec![link("l", "../victim")], "entry 1 of the archive is a link out of its folder"),
        (vec![link("l", "/etc/passwd")], "entry 1 of the archive is a link to an absolute path"),
        (vec![link("a/l", "../../victim")], "entry 1 of the archive is a link out of its folder"),
        // By a link to above, `..` after its name would lead out.
        (
            vec![link("a/b/up", "../.."), link("a/b/l", "up/../victim")],
            "entry 2 of the archive is a link with `..` after a name",
        ),
        (vec![link("l", "."), file("l/victim")], "entry 2 of the archive lies in what is no folder"),
        (vec![link("l", "x"), link("l/m", "y")], "entry 2 of the archive lies in what is no folder"),
        (vec![file("a/b"), link("a", "..")], "entry 2 of the archive is there twice"),
        (vec![file("a"), file("./a")], "entry 2 of the archive is there twice"),
        (vec![link("a", "b"), file("a")], "entry 2 of the archive is there twice"),
        (vec![file("a"), file("a/b")], "entry 2 of the archive lies in what is no folder"),
        (vec![entry(EntryType::Link, "a", "../victim", b"")], "entry 1 of the archive has `..` in its path"),
        (
            vec![entry(EntryType::Link, "a", "/etc/passwd", b"")],
            "entry 1 of the archive has an absolute path",
        ),
        (
            vec![link("l", "x"), entry(EntryType::Link, "a", "l", b"")],
            "entry 2 of the archive links to what is no file before it",
        ),
        (vec![link("l", "")], "entry 1 of the archive is a link to nowhere"),
    ] {
        assert_eq!(refused(&entries), what);
    }
}

#[test]
fn devices_and_pipes_are_none_of_a_kinds_business() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::new(b'V')] {
        let what = refused(&[entry(kind, "x", "", b"")]);
        assert!(what.starts_with("entry 1 of the archive is a device"), "{kind:?}: {what}");
    }
}

#[test]
fn a_sparse_file_comes_out_with_its_holes_filled_and_they_count() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 3 << 20).unwrap();
    let mut tar = Builder::new(Vec::new());
    tar.append_path_with_name(&path, "sparse").unwrap();
    let tar = tar.into_inner().unwrap();
    assert_eq!(tar[156], b'S', "the library packs it as one");
    let packed = gzip(&tar);
    let yard = Yard::new();
    let files = yard.unpack(&packed, Bounds::default()).unwrap().files;
    assert_eq!(files[0].sha256, crate::kinds::install::sha256_of(&path).unwrap());
    let few = Bounds { entries: 9, bytes: (4 << 20) - 1 };
    let refused = Yard::new().unpack(&packed, few).unwrap_err().to_string();
    assert_eq!(refused, "entry 1 of the archive holds more bytes than all may have");
}

#[test]
fn a_hole_is_left_when_nobody_wants_it_any_more() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let mut tar = Builder::new(Vec::new());
    tar.append_path_with_name(&path, "sparse").unwrap();
    let packed = gzip(&tar.into_inner().unwrap());
    let (yard, asked) = (Yard::new(), Cell::new(0));
    let is_cut = || asked.replace(asked.get() + 1) == 3;
    let unpacked = unpack(&packed[..], &yard.inside(), Bounds::default(), &is_cut);
    assert!(matches!(unpacked, Err(UnpackError::Cut)), "{unpacked:?}");
    assert!(fs::metadata(yard.inside().join("sparse")).unwrap().len() <= 3 * TRANSFER_BUFFER_BYTES as u64);
}

#[test]
fn what_would_leave_no_room_on_the_disk_is_not_begun() {
    let yard = Yard::new();
    let room = rustix::fs::statvfs(yard.folder.path()).unwrap();
    let free = room.f_bavail * room.f_frsize;
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_mode(0o644);
    header.set_size(free);
    header.set_cksum();
    let bounds = Bounds { entries: 9, bytes: u64::MAX };
    let refused = yard.unpack(&gzip(header.as_bytes()), bounds);
    assert!(
        matches!(&refused, Err(UnpackError::Disk(error)) if error.kind() == ErrorKind::StorageFull),
        "{refused:?}"
    );
    assert!(!yard.inside().join("large").exists());
}

#[test]
fn names_have_bounds_and_are_plain_text() {
    assert_eq!(refused(&[file("a\nb")]), "entry 1 of the archive has a path that is no plain text");
    assert_eq!(refused(&[entry(EntryType::Regular, "./", "", b"")]), "entry 1 of the archive has no name");
    let deep = "d/".repeat(UNPACKED_DEPTH_MAX + 1) + "f";
    assert_eq!(refused(&[file(&deep)]), "entry 1 of the archive lies too deep");
    let long_name = entry(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        "x".repeat(UNPACKED_NAME_BYTES_MAX + 1).as_bytes(),
    );
    assert_eq!(refused(&[long_name, file("x")]), "entry 1 of the archive has too long a name");
    let long = entry(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        "x".repeat(UNPACKED_PATH_BYTES_MAX + 1).as_bytes(),
    );
    assert_eq!(refused(&[long, file("x")]), "entry 1 of the archive has too long a path");
}

#[test]
fn an_archive_holds_no_more_than_it_may() {
    let bounds = Bounds { entries: 3, bytes: 12 };
    let unpack = |entries: &[Vec<u8>]| {
        Yard::new().unpack(&archive(entries), bounds).map_err(|wrong| wrong.to_string())
    };
    assert!(unpack(&[file("a"), file("b"), entry(EntryType::Directory, "c", "", b"")]).is_ok());
    let many: Vec<_> = ["a", "b", "c", "d"].map(|name| entry(EntryType::Directory, name, "", b"")).into();
    assert_eq!(unpack(&many).unwrap_err(), "entry 4 of the archive is one too many");
    // Each name of a file is compared before a launch, so each counts.
    let linked = [file("a"), file("b"), entry(EntryType::Link, "c", "a", b"")];
    assert_eq!(unpack(&linked).unwrap_err(), "entry 3 of the archive holds more bytes than all may have");
    let large = [file("a"), file("b"), file("c")];
    assert_eq!(unpack(&large).unwrap_err(), "entry 3 of the archive holds more bytes than all may have");
}

#[test]
fn a_header_that_would_fill_the_memory_is_not_read() {
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::Directory,
    ] {
        let megabytes = entry(kind, "x", "", &vec![b'x'; 4 << 20]);
        let what = refused(&[megabytes, file("y")]);
        assert!(what.ends_with("a header is too long"), "{kind:?}: {what}");
    }
}

#[test]
fn what_is_no_archive_or_ends_too_soon_is_told() {
    let whole = archive(&[entry(EntryType::Regular, "a", "", &[7; 100_000])]);
    let unpack = |bytes: &[u8]| Yard::new().unpack(bytes, Bounds::default()).map(drop);
    assert!(unpack(&whole).is_ok());
    for bytes in [&whole[..whole.len() / 2], &whole[..20], &gzip(b"no tar at all")[..], b"\x1f\x8b"] {
        assert!(matches!(unpack(bytes), Err(UnpackError::Broken(_))), "{}", bytes.len());
    }
    let cut = gzip(&entry(EntryType::Regular, "a", "", &[7; 100_000])[..50_000]);
    assert!(matches!(unpack(&cut), Err(UnpackError::Broken(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_break_it_or_leave_the_folder(
        paths in proptest::collection::vec(("[a./]{1,8}", "[a./]{0,8}", 0u8..9), 1..8),
        noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let kinds = [b'0', b'1', b'2', b'5', b'L', b'x', b'g', b'S', b'3'];
        let mut tar: Vec<u8> = paths
            .iter()
            .flat_map(|(path, link, kind)| entry(EntryType::new(kinds[usize::from(*kind)]), path, link, b"a/a"))
            .collect();
        for (at, byte) in noise {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        check(&tar);
    }
}
