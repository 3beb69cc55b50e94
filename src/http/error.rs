//! Everything a request can be refused for, and the one table from there to status and code.

use serde_json::{Value, json};

use crate::api::{ErrorBody, ErrorObject};
use crate::http::Answer;

/// Why a request is refused: a status and a code in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body is no JSON, or not of the right shape.
    InvalidJson,
    /// An argument is wrong: `details.field` says which.
    InvalidArgument,
    /// The bytes are no HTTP request that we accept.
    BadRequest,
    /// No usable `Authorization`.
    MissingApiKey,
    /// A wrong token.
    InvalidApiKey,
    /// A right token for something else.
    Forbidden,
    /// No such path.
    NotFound,
    /// No such worker.
    WorkerNotFound,
    /// No such device.
    DeviceNotFound,
    /// No such model.
    ModelNotFound,
    /// No such download.
    DownloadNotFound,
    /// No such kind.
    KindNotFound,
    /// The path is there, the method is not: `Allow` says which are.
    MethodNotAllowed,
    /// The request came too slowly.
    RequestTimeout,
    /// The hub asks for a token, or for another one.
    ModelAccessDenied,
    /// A worker uses the model, or somebody fetches it.
    ModelInUse,
    /// Somebody asked for its end.
    Cancelled,
    /// The worker's state does not allow it.
    WorkerState,
    /// The kind's program is not on this machine.
    KindNotInstalled,
    /// A GPU has too little memory.
    InsufficientVram,
    /// The machine has too little memory.
    InsufficientRam,
    /// A body over the limit.
    PayloadTooLarge,
    /// The file is no model.
    ModelInvalid,
    /// `Expect` asks for what we do not do.
    ExpectationFailed,
    /// Too many wrong tokens from an address.
    TooManyAttempts,
    /// A head over the limit.
    HeadTooLarge,
    /// Our mistake.
    Internal,
    /// A transfer coding that we do not speak.
    NotImplemented,
    /// The hub answered badly, or not at all.
    Upstream,
    /// The disk has too little room.
    InsufficientDisk,
    /// The cascade runs.
    ShuttingDown,
    /// The hive takes no spawns, on request.
    Draining,
    /// All ports of the range are taken.
    NoFreePort,
    /// Too much at once.
    Overloaded,
    /// A protocol version that we do not speak.
    VersionNotSupported,
}

impl Code {
    /// All of them, by status.
    pub const ALL: [Self; 35] = [
        Self::InvalidJson,
        Self::InvalidArgument,
        Self::BadRequest,
        Self::MissingApiKey,
        Self::InvalidApiKey,
        Self::Forbidden,
        Self::ModelAccessDenied,
        Self::NotFound,
        Self::WorkerNotFound,
        Self::DeviceNotFound,
        Self::ModelNotFound,
        Self::DownloadNotFound,
        Self::KindNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::ModelInUse,
        Self::Cancelled,
        Self::WorkerState,
        Self::KindNotInstalled,
        Self::InsufficientVram,
        Self::InsufficientRam,
        Self::PayloadTooLarge,
        Self::ExpectationFailed,
        Self::ModelInvalid,
        Self::TooManyAttempts,
        Self::HeadTooLarge,
        Self::Internal,
        Self::NotImplemented,
        Self::Upstream,
        Self::ShuttingDown,
        Self::Draining,
        Self::NoFreePort,
        Self::Overloaded,
        Self::VersionNotSupported,
        Self::InsufficientDisk,
    ];

    /// The one that is called so on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.wire().1 == text)
    }

    /// HTTP status and the code on the wire.
    pub fn wire(self) -> (u16, &'static str) {
        match self {
            Self::InvalidJson => (400, "INVALID_JSON"),
            Self::InvalidArgument => (400, "INVALID_ARGUMENT"),
            Self::BadRequest => (400, "BAD_REQUEST"),
            Self::MissingApiKey => (401, "MISSING_API_KEY"),
            Self::InvalidApiKey => (401, "INVALID_API_KEY"),
            Self::Forbidden => (403, "FORBIDDEN"),
            Self::ModelAccessDenied => (403, "MODEL_ACCESS_DENIED"),
            Self::NotFound => (404, "NOT_FOUND"),
            Self::WorkerNotFound => (404, "WORKER_NOT_FOUND"),
            Self::DeviceNotFound => (404, "DEVICE_NOT_FOUND"),
            Self::ModelNotFound => (404, "MODEL_NOT_FOUND"),
            Self::DownloadNotFound => (404, "DOWNLOAD_NOT_FOUND"),
            Self::KindNotFound => (404, "KIND_NOT_FOUND"),
            Self::MethodNotAllowed => (405, "METHOD_NOT_ALLOWED"),
            Self::RequestTimeout => (408, "REQUEST_TIMEOUT"),
            Self::ModelInUse => (409, "MODEL_IN_USE"),
            Self::Cancelled => (409, "CANCELLED"),
            Self::WorkerState => (409, "WORKER_STATE"),
            Self::KindNotInstalled => (409, "KIND_NOT_INSTALLED"),
            Self::InsufficientVram => (409, "INSUFFICIENT_VRAM"),
            Self::InsufficientRam => (409, "INSUFFICIENT_RAM"),
            Self::PayloadTooLarge => (413, "PAYLOAD_TOO_LARGE"),
            Self::ExpectationFailed => (417, "EXPECTATION_FAILED"),
            Self::ModelInvalid => (422, "MODEL_INVALID"),
            Self::TooManyAttempts => (429, "TOO_MANY_ATTEMPTS"),
            Self::HeadTooLarge => (431, "HEAD_TOO_LARGE"),
            Self::Internal => (500, "INTERNAL"),
            Self::NotImplemented => (501, "NOT_IMPLEMENTED"),
            Self::Upstream => (502, "UPSTREAM"),
            Self::ShuttingDown => (503, "SHUTTING_DOWN"),
            Self::Draining => (503, "DRAINING"),
            Self::NoFreePort => (503, "NO_FREE_PORT"),
            Self::Overloaded => (503, "OVERLOADED"),
            Self::VersionNotSupported => (505, "VERSION_NOT_SUPPORTED"),
            Self::InsufficientDisk => (507, "INSUFFICIENT_DISK"),
        }
    }
}

/// A refusal with what a person and a program need to know. Holds nothing that the client sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    code: Code,
    message: String,
    details: Value,
    headers: Vec<(&'static str, String)>,
}

impl ApiError {
    /// A refusal without details. `message` must not repeat what the client sent.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: json!({}), headers: Vec::new() }
    }

    /// 400 for the argument `field`.
    pub fn argument(field: &str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message).with_details(json!({ "field": field }))
    }

    /// Adds `details`.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// Adds a header line.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The reason.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The refusal as an answer under `correlation`.
    pub fn into_answer(self, correlation: uuid::Uuid) -> Answer {
        let (status, code) = self.code.wire();
        let body = ErrorBody {
            error: ErrorObject {
                code: code.to_owned(),
                message: self.message,
                details: self.details,
                correlation_id: correlation.to_string(),
            },
        };
        let mut answer = Answer::json(status, &body);
        if status == 401 {
            answer = answer.with_header("WWW-Authenticate", "Bearer");
        }
        for (name, value) in self.headers {
            answer = answer.with_header(name, value);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_word_of_its_own_and_is_known_by_it() {
        let mut places: Vec<usize> = Code::ALL.iter().map(|code| *code as usize).collect();
        places.sort_unstable();
        assert!(places.iter().copied().eq(0..=Code::VersionNotSupported as usize), "all of them, once");
        assert!(Code::ALL.iter().all(|code| Code::parse(code.wire().1) == Some(*code)));
        assert!(Code::parse("NEVER_HEARD_OF").is_none());
    }
}
