//! An origin in memory that misbehaves on request.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::models::remote::{Body, Connection, Digest, HubError, Origin, RemoteFile};
use crate::net::Cut;

/// Longest file of the tests.
const LONGEST: usize = 40 * 1024 * 1024;

/// Bytes that no two places have alike.
pub fn bytes(length: usize) -> Vec<u8> {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = (0..LONGEST / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        words.collect()
    });
    ALL[..length].to_vec()
}

pub fn sha256(bytes: &[u8]) -> RemoteFile {
    let sum = digest(&SHA256, bytes).as_ref().try_into().unwrap();
    RemoteFile { path: "model.gguf".into(), bytes: bytes.len() as u64, digest: Digest::Sha256(sum) }
}

pub fn git_blob(bytes: &[u8]) -> RemoteFile {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref().try_into().unwrap();
    RemoteFile { path: "config.json".into(), bytes: bytes.len() as u64, digest: Digest::GitBlob(sum) }
}

/// How a body goes, if it is one.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Sends from the beginning, whatever was asked for.
    pub ranges: bool,
    /// Ends after so many bytes.
    pub bytes: u64,
    pub end: End,
    /// Changes the first byte.
    pub corrupt: bool,
    /// Longest read.
    pub chunk: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum End {
    Eof,
    Fails(ErrorKind),
    /// Sends nothing more until it is cut.
    Hangs,
    Panics,
}

pub const WELL: Script =
    Script { ranges: true, bytes: u64::MAX, end: End::Eof, corrupt: false, chunk: usize::MAX };

type Answer<'a> = dyn Fn(usize, &Range<u64>) -> Result<Script, HubError> + Sync + 'a;

pub struct Shelf<'a> {
    bytes: &'a [u8],
    cut: &'a Cut,
    answer: Box<Answer<'a>>,
    /// Called with the number of bytes given, before more are.
    pub watch: Box<dyn Fn(u64) + Sync + 'a>,
    pub asked: Mutex<Vec<Range<u64>>>,
    pub given: AtomicU64,
    /// Bodies that are open now.
    pub open: AtomicUsize,
}

impl<'a> Shelf<'a> {
    /// Answers the nth question, from 0, as `answer` says.
    pub fn new(
        bytes: &'a [u8],
        cut: &'a Cut,
        answer: impl Fn(usize, &Range<u64>) -> Result<Script, HubError> + Sync + 'a,
    ) -> Self {
        Self {
            bytes,
            cut,
            answer: Box::new(answer),
            watch: Box::new(|_| {}),
            asked: Mutex::default(),
            given: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    pub fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().unwrap().clone()
    }

    pub fn given(&self) -> u64 {
        self.given.load(SeqCst)
    }
}

impl Origin for Shelf<'_> {
    fn connect(&self) -> io::Result<Box<dyn Connection + '_>> {
        Ok(Box::new(Line(self)))
    }
}

struct Line<'a>(&'a Shelf<'a>);

impl Connection for Line<'_> {
    fn open(&mut self, file: &RemoteFile, range: Range<u64>) -> Result<Body<'_>, HubError> {
        assert!(range.start < range.end && range.end <= file.bytes, "{range:?} is in the file");
        if self.0.cut.is_cut() {
            return Err(HubError::Cut);
        }
        let mut asked = self.0.asked.lock().unwrap();
        let nth = asked.len();
        asked.push(range.clone());
        drop(asked);
        let script = (self.0.answer)(nth, &range)?;
        self.0.open.fetch_add(1, SeqCst);
        let (from, end) = if script.ranges { (range.start, range.end) } else { (0, file.bytes) };
        let until = end.min(from.saturating_add(script.bytes));
        Ok(Body { from, bytes: Box::new(Sent { shelf: self.0, at: from, until, end, script }) })
    }
}

struct Sent<'a> {
    shelf: &'a Shelf<'a>,
    at: u64,
    /// Where it ends.
    until: u64,
    /// Where it should.
    end: u64,
    script: Script,
}

impl Read for Sent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shelf.cut.is_cut() {
            return Err(ErrorKind::TimedOut.into());
        }
        let room = buffer.len().min(self.script.chunk).min((self.until - self.at) as usize);
        if room == 0 {
            return match self.script.end {
                _ if self.until == self.end => Ok(0),
                End::Eof => Ok(0),
                End::Fails(kind) => Err(kind.into()),
                End::Panics => panic!("as asked"),
                End::Hangs => {
                    let _ = self.shelf.cut.pause(Duration::from_secs(600));
                    Err(ErrorKind::TimedOut.into())
                }
            };
        }
        let at = self.at as usize;
        buffer[..room].copy_from_slice(&self.shelf.bytes[at..at + room]);
        if std::mem::take(&mut self.script.corrupt) {
            buffer[0] ^= 1;
        }
        self.at += room as u64;
        (self.shelf.watch)(self.shelf.given.fetch_add(room as u64, SeqCst) + room as u64);
        Ok(room)
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.shelf.open.fetch_sub(1, SeqCst);
    }
}
