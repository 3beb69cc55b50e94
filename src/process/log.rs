//! The logs of workers: where they are, their ends, their rotation.
//!
//! A worker keeps the descriptor that it was started with, so a log is rotated by copying it to
//! `<id>.log.1` and taking what was copied out of it: the descriptor appends, and goes on behind what is left. A
//! place in a log counts from its first byte, wherever that is by now, and stays right when the log is rotated. A
//! hive that is started anew counts from the first byte that is left.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

use crate::id::{Run, WorkerId};
use crate::limits;

/// All logs of this hive. Its methods may wait for the disk.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    /// Where the present generation of a log begins, of logs that were rotated since the hive began; of others
    /// it begins after the older one. Locked while files are exchanged or read.
    begins: Mutex<BTreeMap<WorkerId, u64>>,
}

impl Logs {
    /// The logs in `dir`, which is made when the first is opened.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), begins: Mutex::default() }
    }

    /// Where the logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log of a worker.
    pub fn path(&self, id: &WorkerId) -> PathBuf {
        self.dir.join(format!("{id}.log"))
    }

    fn older_path(&self, id: &WorkerId) -> PathBuf {
        self.dir.join(format!("{id}.log.1"))
    }

    fn next_older_path(&self, id: &WorkerId) -> PathBuf {
        self.dir.join(format!("{id}.log.1.new"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, u64>> {
        // A number is replaced whole: a panic elsewhere cannot leave half of one.
        self.begins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory, readable by its owner alone.
    ///
    /// # Errors
    /// If it is not there and cannot be made.
    pub fn make_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// Opens a worker's log for appending, and makes it if it is not there.
    ///
    /// # Errors
    /// If directory or file cannot be made or opened.
    pub fn open(&self, id: &WorkerId) -> io::Result<File> {
        self.make_dir()?;
        OpenOptions::new().append(true).create(true).mode(0o600).open(self.path(id))
    }

    /// Opens a worker's log for what it writes in `run`. Each run but the first has a heading, on a line of its
    /// own however the run before broke off.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if the log cannot be read or written.
    pub fn open_for(&self, id: &WorkerId, run: Run) -> io::Result<File> {
        let mut log = self.open(id)?;
        if run > Run(1) {
            let line_end = if self.ends_within_line(id)? { "\n" } else { "" };
            log.write_all(format!("{line_end}{}\n", heading(run)).as_bytes())?;
        }
        Ok(log)
    }

    fn ends_within_line(&self, id: &WorkerId) -> io::Result<bool> {
        let _begins = self.lock();
        let whole = Whole::open(self, id)?;
        let mut last = *b"\n";
        if let Some(at) = whole.bytes().checked_sub(1) {
            whole.read_at(at, &mut last)?;
        }
        Ok(last != *b"\n")
    }

    /// Length of the present generation; 0 if there is none.
    pub fn bytes(&self, id: &WorkerId) -> u64 {
        fs::metadata(self.path(id)).map_or(0, |meta| meta.len())
    }

    /// The last `lines` lines, at most `bytes_max` of them; a first line that does not fit is left out,
    /// or cut if it is the only one. Invalid UTF-8 is replaced, control characters are left.
    ///
    /// # Errors
    /// If a file is there and cannot be read. A log that is not there has no lines.
    pub fn tail(&self, id: &WorkerId, lines: usize, bytes_max: u64) -> io::Result<Vec<String>> {
        let _begins = self.lock();
        let whole = Whole::open(self, id)?;
        whole.tail(0..whole.bytes(), lines, bytes_max)
    }

    /// The last `lines` lines of the run before the last one that stands in the log, bounded as those of
    /// [`tail`](Self::tail); `None` if there is no such run, or it is too old. Reads all that is there.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub fn tail_of_previous(
        &self,
        id: &WorkerId,
        lines: usize,
        bytes_max: u64,
    ) -> io::Result<Option<Vec<String>>> {
        let _begins = self.lock();
        let whole = Whole::open(self, id)?;
        let previous = whole.previous_run()?;
        previous.map(|run| whole.tail(run, lines, bytes_max)).transpose()
    }

    /// Moves what is there aside and begins a new generation; what was aside is gone. Of a log that is
    /// longer than [`limits::LOG_BYTES_MAX`] only the end is kept.
    ///
    /// Where the file system can take blocks out of a file's beginning (ext4, XFS), the last few stay, and
    /// nothing is lost however fast the worker writes. Elsewhere, and of a short log, all is taken by cutting
    /// the file to nothing: bytes that are written in the very moment between copy and cut are lost.
    ///
    /// # Errors
    /// If something cannot be read or written; the log is then as it was.
    pub fn rotate(&self, id: &WorkerId) -> io::Result<()> {
        let result = self.move_aside(id);
        if result.is_err() {
            // It is there only if making or naming it failed.
            let _ = fs::remove_file(self.next_older_path(id));
        }
        result
    }

    fn move_aside(&self, id: &WorkerId) -> io::Result<()> {
        let Some(mut log) = open_existing_for_writing(&self.path(id))? else { return Ok(()) };
        let next_older = self.next_older_path(id);
        let mut copy =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next_older)?;
        let older_from = length(&log)?.saturating_sub(limits::LOG_BYTES_MAX);
        log.seek(SeekFrom::Start(older_from))?;
        io::copy(&mut io::Read::by_ref(&mut log).take(limits::LOG_BYTES_MAX), &mut copy)?;
        let mut begins = self.lock();
        let begin = self.begin(&begins, id)?;
        if !is_at(&log, &self.path(id)) {
            return Err(io::ErrorKind::NotFound.into()); // it was deleted meanwhile
        }
        fs::rename(&next_older, self.older_path(id))?;
        let copied_to = log.stream_position()?;
        if let Ok(taken) = take_blocks(&log, copied_to) {
            begins.insert(id.clone(), begin + taken);
            return copy.set_len(taken.saturating_sub(older_from));
        }
        // What was written meanwhile.
        io::copy(&mut io::Read::by_ref(&mut log).take(limits::LOG_BYTES_MAX), &mut copy)?;
        begins.insert(id.clone(), begin + log.stream_position()?);
        log.set_len(0)
    }

    /// Cuts a log to nothing that grows faster than it can be copied; no more than its last
    /// [`limits::LOG_CUT_KEPT_BYTES`] are kept as the older generation. What is written in that very moment is lost.
    ///
    /// Cut first, and by one call: while a disk is busy each change of a file's name or length may have to wait for
    /// it, and the log grows meanwhile. It takes what was not yet brought to the disk out of the page cache, so that
    /// a flood costs no disk; taking out blocks would have to bring the rest there first.
    ///
    /// # Errors
    /// If it cannot be cut.
    pub fn cut(&self, id: &WorkerId) -> io::Result<()> {
        let mut begins = self.lock();
        let Some(log) = open_existing_for_writing(&self.path(id))? else { return Ok(()) };
        let (begin, end) = (self.begin(&begins, id)?, length(&log)?);
        let from = end.saturating_sub(limits::LOG_CUT_KEPT_BYTES);
        let mut kept = vec![0; usize::try_from(end - from).unwrap_or_default()];
        let read = log.read_exact_at(&mut kept, from);
        log.set_len(0)?;
        begins.insert(id.clone(), begin + end);
        let older_path = self.older_path(id);
        read.and_then(|()| overwrite(&older_path, &kept)).or_else(|_| {
            // It is not what stood before the present generation any more.
            remove_existing(&older_path)
        })
    }

    /// Removes both generations.
    ///
    /// # Errors
    /// If one is there and cannot be removed.
    pub fn delete(&self, id: &WorkerId) -> io::Result<()> {
        let mut begins = self.lock();
        begins.remove(id);
        remove_existing(&self.path(id))?;
        remove_existing(&self.older_path(id))
    }

    /// Where the present generation begins.
    fn begin(&self, begins: &BTreeMap<WorkerId, u64>, id: &WorkerId) -> io::Result<u64> {
        match begins.get(id) {
            Some(begin) => Ok(*begin),
            None => Ok(open_existing(&self.older_path(id))?.map_or(Ok(0), |older| length(&older))?),
        }
    }

    /// Where the last `lines` lines begin.
    pub(super) fn tail_position(&self, id: &WorkerId, lines: usize) -> io::Result<u64> {
        let begins = self.lock();
        let whole = Whole::open(self, id)?;
        let start = whole.start_of_tail(0..whole.bytes(), lines, limits::LOG_TAIL_BYTES_MAX)?;
        Ok(self.begin(&begins, id)? - whole.older_bytes + start)
    }

    /// Whether `position` is one of this log: not behind its end.
    pub(super) fn reaches(&self, id: &WorkerId, position: u64) -> io::Result<bool> {
        let begins = self.lock();
        let log = open_existing(&self.path(id))?.map_or(Ok(0), |log| length(&log))?;
        Ok(position <= self.begin(&begins, id)? + log)
    }

    /// Reads on at `position` and moves it. Nothing read: that is all for now.
    pub(super) fn read(&self, id: &WorkerId, position: &mut u64, block: &mut [u8]) -> io::Result<usize> {
        let begins = self.lock();
        let begin = self.begin(&begins, id)?;
        if *position < begin
            && let Some(older) = open_existing(&self.older_path(id))?
        {
            let older_begin = begin.saturating_sub(length(&older)?);
            *position = older_begin.max(*position);
            let read = older.read_at(block, *position - older_begin)?;
            *position += read as u64;
            if read > 0 {
                return Ok(read);
            }
        }
        *position = begin.max(*position);
        let Some(log) = open_existing(&self.path(id))? else { return Ok(0) };
        if *position - begin > length(&log)? {
            *position = begin; // somebody else has truncated it
        }
        let read = log.read_at(block, *position - begin)?;
        *position += read as u64;
        Ok(read)
    }
}

/// Both generations as one: offsets begin with the older.
struct Whole {
    older: Option<File>,
    older_bytes: u64,
    log: Option<File>,
    log_bytes: u64,
}

impl Whole {
    /// To be called, and used, under the lock.
    fn open(logs: &Logs, id: &WorkerId) -> io::Result<Self> {
        let bytes = |file: &Option<File>| file.as_ref().map_or(Ok(0), length);
        let older = open_existing(&logs.older_path(id))?;
        let log = open_existing(&logs.path(id))?;
        Ok(Self { older_bytes: bytes(&older)?, log_bytes: bytes(&log)?, older, log })
    }

    fn bytes(&self) -> u64 {
        self.older_bytes + self.log_bytes
    }

    fn read_at(&self, at: u64, block: &mut [u8]) -> io::Result<usize> {
        let (file, at, left) = match at.checked_sub(self.older_bytes) {
            Some(at) => (&self.log, at, self.log_bytes.saturating_sub(at)),
            None => (&self.older, at, self.older_bytes - at),
        };
        let Some(file) = file else { return Ok(0) };
        let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_at(&mut block[..most], at)
    }

    /// The last lines within `range`.
    fn tail(&self, range: Range<u64>, lines: usize, bytes_max: u64) -> io::Result<Vec<String>> {
        let end = range.end;
        let mut at = self.start_of_tail(range, lines, bytes_max)?;
        let mut bytes = vec![0; usize::try_from(end - at).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while at < end {
            let read = self.read_at(at, &mut bytes[filled..])?;
            if read == 0 {
                break;
            }
            filled += read;
            at += read as u64;
        }
        bytes.truncate(filled);
        // The rest of a character that the bound has cut.
        let cut = bytes.iter().take(3).take_while(|b| is_continuation(**b)).count();
        let text = String::from_utf8_lossy(&bytes[cut..]);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Where the run before the last one stands. A run has a heading, but for a worker's first one.
    fn previous_run(&self) -> io::Result<Option<Range<u64>>> {
        let mut block = vec![0; limits::LOG_BLOCK_BYTES];
        let (mut at, mut line_at, mut line) = (0, 0, Vec::new());
        let (mut run_at, mut previous) = (0, None);
        loop {
            let read = self.read_at(at, &mut block)?;
            if read == 0 {
                return Ok(previous);
            }
            for byte in &block[..read] {
                at += 1;
                if *byte != b'\n' {
                    // Of a line that is longer than a heading, no more than that is needed.
                    if line.len() <= HEADING_BYTES_MAX {
                        line.push(*byte);
                    }
                    continue;
                }
                if is_heading(&line) {
                    previous = Some(run_at..line_at);
                    run_at = at;
                }
                line.clear();
                line_at = at;
            }
        }
    }

    /// Reads `range` backwards until it has seen `lines` ends of lines or `bytes_max` bytes.
    fn start_of_tail(&self, range: Range<u64>, lines: usize, bytes_max: u64) -> io::Result<u64> {
        let end = range.end;
        let floor = end.saturating_sub(bytes_max).max(range.start);
        if lines == 0 {
            return Ok(end);
        }
        let mut block = vec![0; limits::LOG_BLOCK_BYTES];
        let (mut block_start, mut ends, mut first_line) = (end, 0, None);
        while block_start > floor {
            let block_end = block_start;
            // A block lies in one generation.
            let low = if block_end > self.older_bytes { floor.max(self.older_bytes) } else { floor };
            block_start = block_end.saturating_sub(block.len() as u64).max(low);
            let read = self.read_at(block_start, &mut block[..(block_end - block_start) as usize])?;
            for (i, _) in block[..read].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                let next_line = block_start + i as u64 + 1;
                if next_line == end {
                    continue; // the end of the last line
                }
                ends += 1;
                if ends == lines {
                    return Ok(next_line);
                }
                first_line = Some(next_line);
            }
        }
        Ok(if floor == range.start { floor } else { first_line.unwrap_or(floor) })
    }
}

/// What stands in a log between one run and the next.
pub(super) fn heading(run: Run) -> String {
    format!("--- run {run} ---")
}

/// Bytes of a [`heading`], with the largest number.
const HEADING_BYTES_MAX: usize = 32;

fn is_heading(line: &[u8]) -> bool {
    let run = line.strip_prefix(b"--- run ").and_then(|rest| rest.strip_suffix(b" ---"));
    run.is_some_and(|run| !run.is_empty() && run.iter().all(u8::is_ascii_digit))
}

/// Takes whole blocks out of the beginning of `file`, up to `end` at most, and says how many bytes. What others
/// append meanwhile stays, wherever their descriptors are.
fn take_blocks(file: &File, end: u64) -> io::Result<u64> {
    // It must not reach the end of the file; and this is a whole number of any file system's blocks.
    let block = limits::LOG_BLOCK_BYTES as u64;
    let bytes = end.saturating_sub(1) / block * block;
    fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, bytes)?;
    Ok(bytes)
}

fn length(file: &File) -> io::Result<u64> {
    file.metadata().map(|meta| meta.len())
}

/// Opens a file for reading; `None` if it is not there.
fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

fn open_existing_for_writing(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// Makes a file hold `bytes` and nothing else. One that is as long already is not cut first: some file systems bring
/// what follows that to the disk at once.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(bytes, 0)?;
    if length(&file)? == bytes.len() as u64 { Ok(()) } else { file.set_len(bytes.len() as u64) }
}

fn remove_existing(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether `file` is what lies at `path`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let which = |meta: fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata().map(which), fs::metadata(path).map(which)), (Ok(file), Ok(path)) if file == path)
}

/// Whether a byte continues a UTF-8 character.
pub(super) fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn log_with(text: &[u8]) -> (tempfile::TempDir, Logs, WorkerId, File) {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path().join("logs"));
        let id: WorkerId = "w-1".parse().unwrap();
        let mut file = logs.open(&id).unwrap();
        file.write_all(text).unwrap();
        (dir, logs, id, file)
    }

    #[test]
    fn a_tail_has_the_last_lines_whether_or_not_the_last_one_is_ended() {
        let (_dir, logs, id, mut file) = log_with(b"one\ntwo\r\n\nfour");
        assert_eq!(logs.tail(&id, 2, 100).unwrap(), ["", "four"]);
        file.write_all(b"\n").unwrap();
        assert_eq!(logs.tail(&id, 3, 100).unwrap(), ["two", "", "four"]);
        assert_eq!(logs.tail(&id, 0, 100).unwrap(), [""; 0]);
        assert_eq!(logs.tail(&"w-2".parse().unwrap(), 3, 100).unwrap(), [""; 0]);
    }

    #[test]
    fn a_tail_spans_the_older_generation() {
        let (_dir, logs, id, mut file) = log_with(b"one\ntwo\nth");
        logs.rotate(&id).unwrap();
        file.write_all(b"ree\nfour\n").unwrap();
        assert_eq!(logs.tail(&id, 3, 100).unwrap(), ["two", "three", "four"]);
        assert_eq!(logs.tail(&id, 9, 100).unwrap(), ["one", "two", "three", "four"]);
        logs.rotate(&id).unwrap();
        assert_eq!(logs.tail(&id, 9, 100).unwrap(), ["ree", "four"]);
        logs.delete(&id).unwrap();
        assert_eq!(fs::read_dir(logs.dir()).unwrap().count(), 0);
    }

    #[test]
    fn a_tail_keeps_its_bound_and_cuts_no_line_or_character_in_two() {
        let (_dir, logs, id, mut file) = log_with("äää\nbb\ncc\n".as_bytes());
        assert_eq!(logs.tail(&id, 9, 8).unwrap(), ["bb", "cc"]);
        file.write_all("€€€".as_bytes()).unwrap();
        assert_eq!(logs.tail(&id, 9, 5).unwrap(), ["€"]);
        file.write_all(b"\xff\n").unwrap();
        assert_eq!(logs.tail(&id, 1, 100).unwrap(), ["€€€\u{fffd}"]);
    }

    #[test]
    fn a_tail_longer_than_a_block_is_whole() {
        let lines: Vec<String> = (0..40_000).map(|i| format!("line {i}")).collect();
        let (_dir, logs, id, _file) = log_with((lines.join("\n") + "\n").as_bytes());
        assert_eq!(logs.tail(&id, 30_000, u64::MAX).unwrap(), lines[10_000..]);
    }

    #[test]
    fn a_reader_loses_nothing_when_the_log_is_rotated_before_it() {
        let (_dir, logs, id, mut file) = log_with(b"one\ntwo\n");
        let mut block = [0; 3];
        let mut position = logs.tail_position(&id, 1).unwrap();
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 3);
        assert_eq!(&block, b"two");
        logs.rotate(&id).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 1);
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 1);
        assert_eq!(block[0], b'x');
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 0);
    }

    #[test]
    fn the_run_before_the_last_one_is_found_across_generations() {
        let (_dir, logs, id, mut file) = log_with(b"one\ntwo");
        let previous = |lines| logs.tail_of_previous(&id, lines, 100).unwrap();
        assert_eq!(previous(9), None, "there is but one run");
        drop(logs.open_for(&id, Run(2)).unwrap());
        file.write_all(b"three\n--- run x ---\n").unwrap();
        assert_eq!(previous(9).unwrap(), ["one", "two"]);
        logs.rotate(&id).unwrap();
        drop(logs.open_for(&id, Run(3)).unwrap());
        assert_eq!(previous(9).unwrap(), ["three", "--- run x ---"]);
        assert_eq!(previous(1).unwrap(), ["--- run x ---"]);
        assert_eq!(logs.tail_of_previous(&id, 9, 16).unwrap().unwrap(), ["--- run x ---"]);
    }

    #[test]
    fn a_place_stays_right_when_the_log_is_rotated_and_tells_a_stranger() {
        let (_dir, logs, id, mut file) = log_with(b"one\n");
        logs.rotate(&id).unwrap();
        file.write_all(b"two\n").unwrap();
        logs.rotate(&id).unwrap();
        file.write_all(b"three\n").unwrap();
        let (mut position, mut block) = (4, [0; 64]);
        let read = logs.read(&id, &mut position, &mut block).unwrap();
        assert_eq!((&block[..read], position), (&b"two\n"[..], 8));
        assert_eq!([14, 15].map(|at| logs.reaches(&id, at).unwrap()), [true, false]);
    }

    #[test]
    fn of_a_log_far_over_its_bound_the_end_is_kept_and_positions_stay_right() {
        let (_dir, logs, id, mut file) = log_with(b"first\n");
        let mut position = logs.tail_position(&id, 0).unwrap();
        file.set_len(limits::LOG_BYTES_MAX + 1000).unwrap();
        file.write_all(b"last").unwrap();
        logs.rotate(&id).unwrap();
        let kept = fs::metadata(logs.older_path(&id)).unwrap().len() + logs.bytes(&id);
        assert_eq!(kept, limits::LOG_BYTES_MAX);
        let (mut block, mut read, mut seen) = (vec![0; 1 << 20], Vec::new(), 0);
        loop {
            let n = logs.read(&id, &mut position, &mut block).unwrap();
            if n == 0 {
                break;
            }
            seen += n as u64;
            read = block[..n].to_vec();
        }
        assert_eq!(seen, limits::LOG_BYTES_MAX);
        assert!(read.ends_with(b"last"));
    }

    #[test]
    fn of_a_log_that_is_cut_the_last_lines_are_kept_and_positions_stay_right() {
        let (_dir, logs, id, mut file) = log_with(b"first\n");
        file.set_len(2 * limits::LOG_BYTES_MAX).unwrap();
        file.write_all(b"\nlast\n").unwrap();
        let end = logs.tail_position(&id, 0).unwrap();
        logs.cut(&id).unwrap();
        assert_eq!(logs.bytes(&id), 0);
        assert_eq!(fs::metadata(logs.older_path(&id)).unwrap().len(), limits::LOG_CUT_KEPT_BYTES);
        file.write_all(b"next\n").unwrap();
        assert_eq!(logs.tail(&id, 2, 100).unwrap(), ["last", "next"]);
        let (mut position, mut block) = (end - 5, [0; 64]);
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 5);
        assert_eq!((&block[..5], position), (&b"last\n"[..], end));
    }

    #[test]
    fn what_cannot_be_moved_aside_stays_as_it_was_and_can_still_be_cut() {
        let (_dir, logs, id, mut file) = log_with(b"one\n");
        logs.rotate(&id).unwrap();
        file.write_all(b"two\n").unwrap();
        fs::create_dir(logs.next_older_path(&id)).unwrap(); // in the way
        assert!(logs.rotate(&id).is_err());
        assert_eq!(logs.tail(&id, 9, 100).unwrap(), ["one", "two"]);
        logs.cut(&id).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(logs.tail(&id, 9, 100).unwrap(), ["two", "three"]);
        let (mut position, mut block) = (0, [0; 64]);
        assert_eq!(logs.read(&id, &mut position, &mut block).unwrap(), 4);
        assert_eq!(position, 8, "the first line is told as lost");
    }

    #[test]
    fn what_is_written_while_a_long_log_is_rotated_is_there_once() {
        let (dir, logs, id, file) = log_with(b"");
        if take_blocks(&long_file(&dir), 100_000).is_err() {
            return; // not on this file system
        }
        let (mut position, mut block, mut seen) = (0, vec![0; 1 << 20], Vec::new());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = file;
                (0..400_000).for_each(|n| writeln!(file, "{n}").unwrap());
            });
            while !writer.is_finished() {
                if logs.bytes(&id) > 200_000 {
                    logs.rotate(&id).unwrap();
                }
                let read = logs.read(&id, &mut position, &mut block).unwrap();
                seen.extend_from_slice(&block[..read]);
            }
        });
        loop {
            let read = logs.read(&id, &mut position, &mut block).unwrap();
            if read == 0 {
                break;
            }
            seen.extend_from_slice(&block[..read]);
        }
        let text = String::from_utf8(seen).unwrap();
        let lines = text.lines().map(|line| line.parse::<u32>().unwrap());
        assert!(lines.eq(0..400_000));
    }

    fn long_file(dir: &tempfile::TempDir) -> File {
        let path = dir.path().join("long");
        fs::write(&path, vec![0; 200_000]).unwrap();
        OpenOptions::new().write(true).open(path).unwrap()
    }

    #[test]
    fn logs_are_for_their_owner_alone() {
        let (_dir, logs, id, _file) = log_with(b"");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(logs.dir()), mode(&logs.path(&id))), (0o700, 0o600));
        logs.rotate(&id).unwrap();
        assert_eq!(mode(&logs.older_path(&id)), 0o600);
    }
}
