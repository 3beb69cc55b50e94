//! Why there is no answer, or what it was instead.

use std::fmt;
use std::io;

use crate::api::{ErrorObject, State, Worker};
use crate::http::Code;
use crate::logging::is_hazard;

/// Why a hive was not asked, or what it answered instead.
#[derive(Debug, Clone)]
pub enum ClientError {
    /// The URL is not one of a hive: it has neither `http` nor `https`, or a user, or a query.
    BadUrl,
    /// The `Idempotency-Key` is none: it has 1 to 255 visible ASCII characters. Nothing was sent.
    BadKey,
    /// No hive answers there: nobody listens, the name is unknown, or the connection ended before an answer.
    Unreachable(io::ErrorKind),
    /// It did not answer within [`HiveClient::with_timeout`](super::HiveClient::with_timeout), or was silent for
    /// [`CLIENT_SILENCE`](crate::limits::CLIENT_SILENCE).
    TimedOut,
    /// It said no.
    Refused {
        /// The status of the answer.
        status: u16,
        /// What it says about that, if it speaks as a hive does.
        error: Option<ErrorObject>,
    },
    /// It said yes, and failed later.
    Failed {
        /// For programs: `UPPER_SNAKE`.
        code: String,
        /// For a person.
        message: String,
    },
    /// What was waited for did not come: the worker as it was last seen. One that ended is
    /// [`Gone`](State::Gone), and its `exit` has the reason and the last lines of its log.
    NotReady(Box<Worker>),
    /// It was asked for a worker, and its answer was lost: it may have spawned one, or may not. Within 10 minutes
    /// [`HiveClient::spawn_with_key`](super::HiveClient::spawn_with_key) with this key gives that worker, or spawns
    /// it now; whoever does neither looks at [`HiveClient::workers`](super::HiveClient::workers).
    Unknown {
        /// The `Idempotency-Key` that it was asked with.
        key: String,
        /// How the last attempt ended.
        cause: Box<ClientError>,
    },
    /// What answers is no hive, or one of another version: what is wrong with the answer.
    BadAnswer(String),
}

impl ClientError {
    /// The code of a refusal, or of a failure that came later, if this version knows it; its text is in
    /// [`object`](Self::object).
    ///
    /// ```
    /// use rbee_hive::client::{ClientError, Code};
    /// # let hive = rbee_hive::mock::example::hive();
    /// let error = hive.worker(&"w-0".parse()?).unwrap_err();
    /// assert_eq!(error.code(), Some(Code::WorkerNotFound));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Failed { code, .. } => Code::parse(code),
            Self::Unknown { cause, .. } => cause.code(),
            _ => Code::parse(&self.object()?.code),
        }
    }

    /// What a hive said about its refusal: code, message, details, and the id under which its log says more.
    pub fn object(&self) -> Option<&ErrorObject> {
        match self {
            Self::Refused { error, .. } => error.as_ref(),
            _ => None,
        }
    }

    /// Whether the connection ended, or nobody was there, or nothing was said: another attempt may find it mended.
    pub(super) fn is_of_the_line(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether a connection was there, and ended without an answer.
    pub(super) fn is_cut(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Unreachable(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl => f.write_str("no URL of a hive; write one like http://127.0.0.1:8600"),
            Self::BadKey => f.write_str("no Idempotency-Key: it has 1 to 255 visible ASCII characters"),
            Self::Unreachable(kind) => write!(f, "no hive answers: {kind}"),
            Self::TimedOut => f.write_str("the hive does not answer in time"),
            // Shown: it may be anybody who answers.
            Self::Refused { error: Some(error), .. } => {
                write!(f, "the hive says no: {} ({})", shown(&error.message), shown(&error.code))
            }
            Self::Failed { code, message } => write!(f, "{} ({})", shown(message), shown(code)),
            Self::Refused { status, error: None } => write!(f, "the answer is no hive's: status {status}"),
            Self::NotReady(worker) => not_ready(worker, f),
            Self::Unknown { cause, .. } => {
                write!(f, "it is unknown whether the hive has spawned a worker: {cause}")
            }
            Self::BadAnswer(what) => write!(f, "the answer is no hive's: {}", shown(what)),
        }
    }
}

fn not_ready(worker: &Worker, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let id = &worker.worker_id;
    if worker.state != State::Gone {
        return write!(f, "the worker {id} takes too long: it is {}", worker.state.as_str());
    }
    write!(f, "the worker {id} has ended")?;
    let Some(exit) = &worker.exit else { return Ok(()) };
    write!(f, ": {}", shown(&exit.reason))?;
    match &exit.message {
        Some(message) => write!(f, ", {}", shown(message)),
        None => Ok(()),
    }
}

/// A text as a terminal may have it: without what would control that.
fn shown(text: &str) -> String {
    let show = |c: char| if is_hazard(c) { c.escape_debug().collect::<String>() } else { c.to_string() };
    text.chars().map(show).collect()
}

impl std::error::Error for ClientError {}
