//! Every way in which a transfer can go, over an origin in memory that misbehaves on request.

#![expect(clippy::single_range_in_vec_init, reason = "what was asked for is a list of ranges, often of one")]

mod hostile;
mod shelf;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use shelf::{End, Script, Shelf, WELL, bytes, git_blob, sha256};
use tempfile::TempDir;

use super::*;
use crate::limits::{PIECE_BYTES, TRANSFER_ATTEMPTS};
use crate::models::layout::Repository;
use crate::models::remote::{Body, Connection};

const MIB: usize = 1024 * 1024;

/// A cache of its own, and how a transfer into it is set up.
struct Cache {
    folder: TempDir,
    repository: Repository,
    meter: Meter,
    cut: Cut,
    lines: usize,
}

impl Cache {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::named(folder.path(), "models--org--repo");
        repository.make().unwrap();
        Self { folder, repository, meter: Meter::default(), cut: Cut::default(), lines: 1 }
    }

    fn with_lines(lines: usize) -> Self {
        Self { lines, ..Self::new() }
    }

    fn fetch(&self, origin: &dyn Origin, file: &RemoteFile) -> Result<(), TransferError> {
        let (cut, meter) = (&self.cut, &self.meter);
        let backoff_first = Duration::from_millis(1);
        let task = Task { origin, file, cut, meter, backoff_first, lines_first: self.lines, refetches: 0 };
        carry_out(task, &self.repository).map(drop)
    }

    /// All that lies beside the blob and the whole bytes of it.
    #[track_caller]
    fn expect_only(&self, whole: &[u8], file: &RemoteFile) {
        assert!(fs::read(self.repository.blob(&file.digest)).unwrap() == whole, "the bytes are others");
        assert_eq!(self.blobs(), [file.digest.to_string()]);
        assert_eq!(self.meter.bytes.load(Relaxed), file.bytes);
    }

    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.repository.blobs()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn attempt(&self) -> u32 {
        self.meter.attempt.load(Relaxed)
    }
}

#[test]
fn files_of_all_lengths_are_fetched_whole_over_one_line_and_over_eight() {
    let piece = PIECE_BYTES as usize;
    for length in [0, 1, 5, MIB - 1, MIB, MIB + 1, piece, piece + 1, 3 * piece - 1] {
        for lines in [1, 8] {
            let (cache, all) = (Cache::with_lines(lines), bytes(length));
            let file = sha256(&all);
            let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
            assert_eq!(cache.fetch(&shelf, &file), Ok(()), "{length} over {lines}");
            cache.expect_only(&all, &file);
            assert_eq!((shelf.given(), cache.attempt()), (length as u64, 1));
            assert!(cache.meter.verifying.load(Relaxed));
            if lines == 1 && length > 0 {
                assert_eq!(shelf.asked(), [0..length as u64], "one question for all");
            }
        }
    }
}

#[test]
fn a_small_file_is_compared_with_its_git_id() {
    let (cache, all) = (Cache::new(), bytes(700));
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
    let file = git_blob(&all);
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
}

#[test]
fn a_blob_that_is_there_is_not_fetched_and_what_a_kill_left_beside_it_goes() {
    let (cache, all) = (Cache::new(), bytes(700));
    let (file, shelf) = (sha256(&all), Shelf::new(&all, &cache.cut, |_, _| Ok(WELL)));
    fs::write(cache.repository.blob(&file.digest), &all).unwrap();
    fs::write(cache.repository.record(&file.digest), "old").unwrap();
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!(shelf.asked(), []);
}

#[test]
fn a_blob_of_another_length_is_replaced() {
    let (cache, all) = (Cache::new(), bytes(700));
    let (file, shelf) = (sha256(&all), Shelf::new(&all, &cache.cut, |_, _| Ok(WELL)));
    fs::write(cache.repository.blob(&file.digest), &all[..699]).unwrap();
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
}

#[test]
fn a_cut_ends_it_and_the_next_run_asks_for_the_rest_alone() {
    let (mut cache, all) = (Cache::new(), bytes(5 * MIB));
    let file = sha256(&all);
    let there = 3 * MIB as u64 + 17;
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(Script { bytes: there, end: End::Hangs, ..WELL }));
    std::thread::scope(|scope| {
        let fetch = scope.spawn(|| cache.fetch(&shelf, &file));
        while shelf.given() < there {
            std::thread::yield_now();
        }
        cache.cut.cut();
        assert_eq!(fetch.join().unwrap(), Err(TransferError::Hub(HubError::Cut)));
    });
    drop(shelf);
    assert_eq!(cache.meter.bytes.load(Relaxed), there);
    cache.cut = Cut::default();
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    assert_eq!(shelf.asked(), [there..file.bytes]);
    cache.expect_only(&all, &file);
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke_as_long_as_it_brings_something() {
    let (cache, all) = (Cache::new(), bytes(20 * MIB));
    let file = sha256(&all);
    let ends = [End::Eof, End::Fails(ErrorKind::ConnectionReset), End::Fails(ErrorKind::TimedOut)];
    let shelf = Shelf::new(&all, &cache.cut, |nth, _| {
        Ok(Script { bytes: MIB as u64 + 3, end: ends[nth % 3], ..WELL })
    });
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!((shelf.given(), shelf.asked().len()), (file.bytes, 20));
    assert_eq!(cache.attempt(), 2);
}

#[test]
fn six_attempts_in_a_row_that_bring_next_to_nothing_are_the_end() {
    for length in [1000, 5 * MIB] {
        let (cache, all) = (Cache::new(), bytes(length));
        let busy = HubError::Busy { status: 500, retry_after: None };
        let shelf = Shelf::new(&all, &cache.cut, |nth, _| match nth {
            0 => Ok(Script { bytes: 10, ..WELL }),
            5 => Err(busy),
            _ => Err(HubError::Stalled),
        });
        let file = sha256(&all);
        assert_eq!(cache.fetch(&shelf, &file), Err(TransferError::Hub(busy)), "the last one");
        assert_eq!(shelf.asked().len(), TRANSFER_ATTEMPTS as usize);
        let name = file.digest.to_string();
        assert_eq!(cache.blobs(), [format!("{name}.incomplete"), format!("{name}.incomplete.parts")]);
    }
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let (cache, all) = (Cache::new(), bytes(3 * MIB));
    let wait = Duration::from_millis(50);
    let shelf = Shelf::new(&all, &cache.cut, |nth, _| match nth {
        0 => Err(HubError::Busy { status: 429, retry_after: Some(wait) }),
        _ => Ok(WELL),
    });
    let began = Instant::now();
    assert_eq!(cache.fetch(&shelf, &sha256(&all)), Ok(()));
    assert!(began.elapsed() >= wait);
    assert_eq!(cache.attempt(), 2);
}

#[test]
fn a_cut_ends_the_wait_between_attempts() {
    let (cache, all) = (Cache::new(), bytes(3 * MIB));
    let long = Some(Duration::from_secs(600));
    let asked = AtomicUsize::new(0);
    let shelf = Shelf::new(&all, &cache.cut, |_, _| {
        asked.fetch_add(1, SeqCst);
        Err(HubError::Busy { status: 503, retry_after: long })
    });
    std::thread::scope(|scope| {
        let fetch = scope.spawn(|| cache.fetch(&shelf, &sha256(&all)));
        while asked.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        cache.cut.cut();
        assert_eq!(fetch.join().unwrap(), Err(TransferError::Hub(HubError::Cut)));
    });
}

#[test]
fn what_does_not_pass_ends_it_at_once() {
    for error in [HubError::NoFile, HubError::Denied { with_token: true }, HubError::BadAnswer("it")] {
        let (cache, all) = (Cache::with_lines(4), bytes(5 * MIB));
        let shelf = Shelf::new(&all, &cache.cut, |nth, _| if nth == 1 { Err(error) } else { Ok(WELL) });
        assert_eq!(cache.fetch(&shelf, &sha256(&all)), Err(TransferError::Hub(error)));
    }
}

#[test]
fn wrong_bytes_are_fetched_anew_and_then_given_up_without_a_trace() {
    for (length, wrong_times) in [(900, 1), (900, 3), (4 * MIB, 2), (4 * MIB, 3)] {
        let (cache, all) = (Cache::new(), bytes(length));
        let file = sha256(&all);
        let shelf = Shelf::new(&all, &cache.cut, |nth, _| Ok(Script { corrupt: nth < wrong_times, ..WELL }));
        let fetched = cache.fetch(&shelf, &file);
        if wrong_times <= CORRUPT_REFETCHES as usize {
            assert_eq!(fetched, Ok(()));
            cache.expect_only(&all, &file);
            assert_eq!(cache.attempt(), 1 + wrong_times as u32);
        } else {
            assert_eq!(fetched, Err(TransferError::Corrupt));
            assert_eq!((cache.blobs().len(), cache.meter.bytes.load(Relaxed)), (0, 0));
        }
        assert_eq!(shelf.asked(), vec![0..file.bytes; (wrong_times + 1).min(3)]);
    }
}

#[test]
fn a_server_without_ranges_is_read_over_what_is_there() {
    let (cache, all) = (Cache::new(), bytes(6 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |nth, _| {
        Ok(Script { ranges: false, bytes: [2, 5, 9][nth] * MIB as u64 + 1, ..WELL })
    });
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!(shelf.given(), file.bytes + 7 * MIB as u64 + 2);
}

#[test]
fn several_lines_to_a_server_without_ranges_become_one() {
    let (cache, all) = (Cache::with_lines(8), bytes(20 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(Script { ranges: false, ..WELL }));
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
}

#[test]
fn a_server_that_sends_another_range_is_not_believed() {
    struct Ahead;
    impl Origin for Ahead {
        fn connect(&self) -> io::Result<Box<dyn Connection + '_>> {
            Ok(Box::new(Self))
        }
    }
    impl Connection for Ahead {
        fn open(&mut self, _: &RemoteFile, range: Range<u64>) -> Result<Body<'_>, HubError> {
            Ok(Body { from: range.start + 1, bytes: Box::new(io::empty()) })
        }
    }
    let file = sha256(&bytes(100));
    let fetched = Cache::new().fetch(&Ahead, &file);
    assert!(matches!(fetched, Err(TransferError::Hub(HubError::BadAnswer(_)))));
}

#[test]
fn connections_that_are_refused_leave_the_work_to_the_others() {
    let (cache, all) = (Cache::with_lines(8), bytes(40 * MIB));
    let file = sha256(&all);
    let open = AtomicUsize::new(0);
    let shelf = Shelf::new(&all, &cache.cut, |_, range| {
        // The first piece is held until some were refused.
        if range.start > 0 && open.fetch_add(1, SeqCst) < 5 {
            return Err(HubError::Busy { status: 429, retry_after: Some(Duration::from_millis(1)) });
        }
        Ok(WELL)
    });
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!(shelf.given(), file.bytes, "nothing is fetched twice");
}

#[test]
fn what_a_line_that_fails_leaves_is_done_by_the_others() {
    let (cache, all) = (Cache::with_lines(4), bytes(40 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |nth, _| {
        let breaks = nth % 3 == 1;
        Ok(Script { bytes: if breaks { 300_000 } else { u64::MAX }, chunk: 70_001, ..WELL })
    });
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!(shelf.given(), file.bytes, "nothing is fetched twice");
}

#[test]
fn a_name_that_cannot_be_given_loses_nothing() {
    let (cache, all) = (Cache::new(), bytes(3 * MIB));
    let (file, shelf) = (sha256(&all), Shelf::new(&all, &cache.cut, |_, _| Ok(WELL)));
    let blob = cache.repository.blob(&file.digest);
    fs::create_dir(&blob).unwrap();
    assert!(matches!(cache.fetch(&shelf, &file), Err(TransferError::Disk(_))));
    fs::remove_dir(&blob).unwrap();
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    cache.expect_only(&all, &file);
    assert_eq!(shelf.given(), file.bytes, "it was only compared anew");
}

#[test]
fn a_full_disk_is_told_from_a_failing_one() {
    let error = |errno: rustix::io::Errno| disk(&errno.into());
    assert_eq!(error(rustix::io::Errno::NOSPC), TransferError::DiskFull);
    assert_eq!(error(rustix::io::Errno::DQUOT), TransferError::DiskFull);
    assert!(matches!(error(rustix::io::Errno::IO), TransferError::Disk(_)));
}

/// What lies at the names of a transfer before it begins.
type Mess = fn(partial: &Path, record: &Path, elsewhere: &Path);

#[test]
fn what_cannot_be_trusted_on_the_disk_is_fetched_anew() {
    let messes: [(&str, Mess); 6] = [
        ("a partial file without a record", |partial, _, _| fs::write(partial, "12345").unwrap()),
        ("a record that is none", |partial, record, _| {
            fs::write(partial, "12345").unwrap();
            fs::write(record, vec![0xff; 32]).unwrap();
        }),
        ("a record without a partial file", |_, record, _| {
            let mut all = record::Cells::of(2 * MIB as u64).empty_record();
            all[24..28].copy_from_slice(&100_u32.to_le_bytes());
            fs::write(record, all).unwrap();
        }),
        ("a record that says more than there is", |partial, record, _| {
            fs::write(partial, [0; 99]).unwrap();
            let mut all = record::Cells::of(2 * MIB as u64).empty_record();
            all[24..28].copy_from_slice(&100_u32.to_le_bytes());
            fs::write(record, all).unwrap();
        }),
        ("a partial file that is too long", |partial, record, _| {
            fs::write(partial, vec![0; 3 * MIB]).unwrap();
            fs::write(record, record::Cells::of(2 * MIB as u64).empty_record()).unwrap();
        }),
        ("links", |partial, record, elsewhere| {
            symlink(elsewhere, partial).unwrap();
            symlink(elsewhere, record).unwrap();
        }),
    ];
    for (what, mess) in messes {
        let (cache, all) = (Cache::new(), bytes(2 * MIB));
        let (file, shelf) = (sha256(&all), Shelf::new(&all, &cache.cut, |_, _| Ok(WELL)));
        let elsewhere: PathBuf = cache.folder.path().join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        mess(&cache.repository.partial(&file.digest), &cache.repository.record(&file.digest), &elsewhere);
        assert_eq!(cache.fetch(&shelf, &file), Ok(()), "{what}");
        cache.expect_only(&all, &file);
        assert_eq!(shelf.asked(), [0..file.bytes], "{what}");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"untouched", "{what}");
    }
}

#[test]
fn bytes_of_an_earlier_run_that_are_wrong_are_found_and_fetched_anew() {
    let (cache, all) = (Cache::new(), bytes(2 * MIB));
    let file = sha256(&all);
    let cells = record::Cells::of(file.bytes);
    let mut record = cells.empty_record();
    record[24..28].copy_from_slice(&100_u32.to_le_bytes());
    fs::write(cache.repository.record(&file.digest), record).unwrap();
    fs::write(cache.repository.partial(&file.digest), [7; 100]).unwrap();
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
    assert_eq!(cache.fetch(&shelf, &file), Ok(()));
    assert_eq!(shelf.asked(), [100..file.bytes, 0..file.bytes]);
    cache.expect_only(&all, &file);
}

#[test]
fn who_comes_second_waits_and_finds_the_blob() {
    let (cache, all) = (Cache::new(), bytes(3 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
    std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..3).map(|_| scope.spawn(|| cache.fetch(&shelf, &file))).collect();
        assert!(fetches.into_iter().all(|fetch| fetch.join().unwrap() == Ok(())));
    });
    assert_eq!(shelf.given(), file.bytes, "fetched once");
    let lock = cache.folder.path().join(format!(".locks/models--org--repo/{}.lock", file.digest));
    assert_eq!(fs::metadata(lock).unwrap().mode() & 0o777, 0o664);
}

#[test]
fn a_cut_ends_the_wait_for_the_lock() {
    let (cache, all) = (Cache::new(), bytes(3 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
    let _held = cache.repository.try_lock(&file.digest.to_string()).unwrap().unwrap();
    cache.cut.cut();
    assert_eq!(cache.fetch(&shelf, &file), Err(TransferError::Hub(HubError::Cut)));
}

#[test]
fn a_connection_that_panics_ends_the_transfer_and_hangs_nobody() {
    let (cache, all) = (Cache::with_lines(2), bytes(5 * MIB));
    let file = sha256(&all);
    let shelf = Shelf::new(&all, &cache.cut, |nth, _| {
        Ok(if nth == 0 { Script { bytes: 9, end: End::Panics, ..WELL } } else { WELL })
    });
    let fetch = std::thread::scope(|scope| scope.spawn(|| cache.fetch(&shelf, &file)).join());
    assert!(fetch.is_err());
    assert!(!cache.repository.blob(&file.digest).exists());
}
