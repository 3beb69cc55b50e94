//! What the hub has of a repository, and the one way to its bytes.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

/// A revision of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit, as it names a folder under `snapshots/`: one plain word of at most 64 characters.
    pub commit: String,
    /// All its files, sorted by path.
    pub files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it lies in the repository: relative, without `..`, an empty part or a control character.
    pub path: String,
    /// How long it is.
    pub bytes: u64,
    /// What it is.
    pub digest: Digest,
}

/// What tells a file's bytes from all others; `Display` is the name of its blob in the cache (the hub's
/// `ETag`), lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-256 of the bytes: of large files, which the hub keeps in LFS.
    Sha256([u8; 32]),
    /// The id of the git blob: SHA-1 of `blob <length>\0` and the bytes.
    GitBlob([u8; 20]),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::Sha256(bytes) => bytes,
            Self::GitBlob(bytes) => bytes,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where files are fetched from.
pub trait Origin: Sync {
    /// A way of one's own: one exchange at a time, on a connection that is kept between them.
    ///
    /// # Errors
    /// If the process has no descriptor to spare.
    fn connect(&self) -> io::Result<Box<dyn Connection + '_>>;
}

/// One connection to an [`Origin`].
pub trait Connection: Send {
    /// Asks for the bytes `range` of `file`; not empty, within the file.
    ///
    /// Dropping the body before its end closes the connection; the next call opens another.
    ///
    /// # Errors
    /// If they cannot be had, now or at all.
    fn open(&mut self, file: &RemoteFile, range: Range<u64>) -> Result<Body<'_>, HubError>;
}

/// The bytes that were asked for.
pub struct Body<'a> {
    /// Where they begin: as asked, or 0 from a server that knows no ranges.
    pub from: u64,
    /// They, to the end of the range (or of the file) and never beyond: what comes after it is not read. A
    /// connection that ends too soon, a stall of [`crate::limits::TRANSFER_STALL`] and a cut are errors.
    pub bytes: Box<dyn Read + Send + 'a>,
}

/// Why the hub does not give what was asked for. Holds nothing that it sent but a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubError {
    /// `HF_HUB_OFFLINE` is set.
    Offline,
    /// Nobody wants it any more.
    Cut,
    /// No connection, or it broke.
    Broken(io::ErrorKind),
    /// Nothing came for too long.
    Stalled,
    /// It is not well, or wants us to come back later: 408, 429, 5xx.
    Busy {
        /// What it said.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// There is no such repository; without a token it may be a private one.
    NoRepository {
        /// Whether a token was shown.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    NoRevision,
    /// The revision has no such file.
    NoFile,
    /// One has to be let in.
    Denied {
        /// Whether a token was shown.
        with_token: bool,
    },
    /// It does not speak as a hub does: what is wrong.
    BadAnswer(&'static str),
}

impl HubError {
    /// What was to be short is not.
    pub const TOO_LONG: Self = Self::BadAnswer("it is longer than it may be");
    /// It says of a file that it has another digest.
    pub const OTHER_FILE: Self = Self::BadAnswer("the file is another one than its list says");

    /// Whether it may be better the next time.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Stalled | Self::Busy { .. })
    }
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline => f.write_str("HF_HUB_OFFLINE is set: nothing is fetched"),
            Self::Cut => f.write_str("the download was cancelled"),
            Self::Broken(kind) => write!(f, "the connection to the hub failed: {kind}"),
            Self::Stalled => f.write_str("the hub sent nothing for too long"),
            Self::Busy { status: 429, .. } => f.write_str("the hub says that it is asked too often (429)"),
            Self::Busy { status, .. } => write!(f, "the hub is not well ({status})"),
            Self::NoRepository { with_token: true } => {
                f.write_str("the hub has no such repository, or the token may not see it")
            }
            Self::NoRepository { with_token: false } => f.write_str(
                "the hub has no such repository; if it is a private one, set HF_TOKEN or run `hf auth login`",
            ),
            Self::NoRevision => f.write_str("the repository has no such revision"),
            Self::NoFile => f.write_str("the repository has no such file"),
            Self::Denied { with_token: true } => f.write_str(
                "the hub denies access: the token may not read this repository; ask for access on its page",
            ),
            Self::Denied { with_token: false } => f.write_str(
                "the hub denies access: ask for it on the repository's page, then set HF_TOKEN or run `hf auth login`",
            ),
            Self::BadAnswer(what) => write!(f, "the answer is no hub's: {what}"),
        }
    }
}

impl std::error::Error for HubError {}
