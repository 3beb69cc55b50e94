//! One call: what is sent, what comes back, and what is sent again.

use std::fmt;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::typestate::{WithBody, WithoutBody};
use ureq::{Body, RequestBuilder, Timeout};

use super::stream::EventStream;
use super::{ClientError, HiveClient};
use crate::api::ErrorBody;
use crate::limits;

/// An answer and its whole body.
pub(super) type Answer = (Response<()>, Vec<u8>);

/// Text in a query.
pub(super) fn encoded(text: &str) -> impl fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

impl HiveClient {
    /// The answer to a GET, whatever it says. One whose connection ended is asked for once more.
    pub(super) fn ask(&self, path: &str) -> Result<Answer, ClientError> {
        let until = self.until();
        let attempt = || {
            let request = within(self.shown(self.agent.get(format!("{}{path}", self.url))), until)?;
            whole(request.call().map_err(failed)?)
        };
        attempt().or_else(|error| if error.is_cut() { attempt() } else { Err(error) })
    }

    /// The answer to a GET that says yes.
    pub(super) fn get(&self, path: &str) -> Result<Answer, ClientError> {
        said_yes(self.ask(path)?)
    }

    /// What a GET gives.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parsed(&self.get(path)?.1)
    }

    /// What a POST gives.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        parsed(&said_yes(whole(send(within(self.posting(path), self.until())?, body)?)?)?.1)
    }

    /// The same at another time than the client's own, under a key.
    pub(super) fn post_under<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: &str,
        until: Instant,
    ) -> Result<T, ClientError> {
        let request = within(self.posting(path).header("Idempotency-Key", key), until)?;
        parsed(&said_yes(whole(send(request, body)?)?)?.1)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), ClientError> {
        let request = within(self.shown(self.agent.delete(format!("{}{path}", self.url))), self.until())?;
        said_yes(whole(request.call().map_err(failed)?)?).map(drop)
    }

    /// A GET for a stream.
    pub(super) fn getting(&self, path: &str) -> RequestBuilder<WithoutBody> {
        self.shown(self.agent.get(format!("{}{path}", self.url)))
    }

    pub(super) fn posting(&self, path: &str) -> RequestBuilder<WithBody> {
        self.shown(self.agent.post(format!("{}{path}", self.url))).header("Content-Type", "application/json")
    }

    /// For an answer that is a stream of events, which may be silent for [`limits::CLIENT_SILENCE`], and last until
    /// `until`.
    pub(super) fn patient<B>(
        &self,
        request: RequestBuilder<B>,
        until: Option<Instant>,
    ) -> Result<RequestBuilder<B>, ClientError> {
        let left = until.map(left).transpose()?;
        let request = request.header("Accept", "text/event-stream").config().timeout_global(left);
        let request = request.timeout_recv_response(Some(self.timeout));
        Ok(request.timeout_per_read(Some(limits::CLIENT_SILENCE)).build())
    }

    fn until(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// With the token.
    fn shown<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.secret())),
            None => request,
        }
    }
}

fn left(until: Instant) -> Result<Duration, ClientError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ClientError::TimedOut) } else { Ok(left) }
}

fn within<B>(request: RequestBuilder<B>, until: Instant) -> Result<RequestBuilder<B>, ClientError> {
    Ok(request.config().timeout_global(Some(left(until)?)).build())
}

pub(super) fn send(
    to: RequestBuilder<WithBody>,
    body: &impl Serialize,
) -> Result<Response<Body>, ClientError> {
    let body = serde_json::to_vec(body).expect("wire types are valid JSON");
    to.send(&body[..]).map_err(failed)
}

/// The stream of an answer that says yes.
pub(super) fn events(answer: Response<Body>) -> Result<EventStream, ClientError> {
    if !answer.status().is_success() {
        return Err(refused(&whole(answer)?));
    }
    Ok(EventStream::new(answer.into_body().into_reader()))
}

/// An answer, if it says yes.
fn said_yes(answer: Answer) -> Result<Answer, ClientError> {
    if answer.0.status().is_success() { Ok(answer) } else { Err(refused(&answer)) }
}

/// What an answer says that says no.
pub(super) fn refused((head, body): &Answer) -> ClientError {
    let error = serde_json::from_slice(body).ok().map(|body: ErrorBody| body.error);
    ClientError::Refused { status: head.status().as_u16(), error }
}

/// Head and body of an answer.
fn whole(answer: Response<Body>) -> Result<Answer, ClientError> {
    let (head, body) = answer.into_parts();
    let mut bytes = Vec::new();
    let most = limits::CLIENT_ANSWER_BYTES_MAX;
    let read = body.into_reader().take(most + 1).read_to_end(&mut bytes);
    read.map_err(|e| failed(ureq::Error::from(e)))?;
    if bytes.len() as u64 > most {
        return Err(ClientError::BadAnswer("it is too long".to_owned()));
    }
    Ok((Response::from_parts(head, ()), bytes))
}

pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

pub(super) fn failed(error: ureq::Error) -> ClientError {
    match error {
        // Nothing was sent.
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            ClientError::Unreachable(io::ErrorKind::TimedOut)
        }
        ureq::Error::Timeout(_) => ClientError::TimedOut,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => ClientError::TimedOut,
        ureq::Error::Io(e) => ClientError::Unreachable(e.kind()),
        ureq::Error::HostNotFound => ClientError::Unreachable(io::ErrorKind::NotFound),
        ureq::Error::ConnectionFailed => ClientError::Unreachable(io::ErrorKind::ConnectionRefused),
        other => ClientError::BadAnswer(other.to_string()),
    }
}
