//! A blocking client of a hive, for the queen and for the commands of `rbee-hive`.
//!
//! ```no_run
//! let hive = rbee_hive::client::HiveClient::new("http://127.0.0.1:8600")?;
//! println!("{} cores", hive.devices()?.cpu.cores);
//! # Ok::<(), rbee_hive::client::ClientError>(())
//! ```

use std::fmt;
use std::io::{self, Read as _};

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Response, Uri};
use ureq::typestate::WithBody;
use ureq::{Agent, Body, Proxy, RequestBuilder};

use crate::api::{
    self, CapacityAnswer, Devices, DownloadRequest, DownloadResponse, DrainRequest, DrainResponse, ErrorBody,
    ErrorObject, KindInfo, KindList, Model, ModelList, Progress, ProvisionRequest, ProvisionResponse,
    ShutdownRequest, ShutdownResponse, ShutdownWorkers, Worker, WorkerList,
};
use crate::id::{Token, WorkerId};
use crate::limits;

mod logs;
mod progress;
pub mod sse;
mod stream;

pub use logs::LogLines;
pub use progress::ProgressEvents;
use stream::EventStream;

/// A way to one hive. Cheap to clone; keeps its connection between two calls.
#[derive(Debug, Clone)]
pub struct HiveClient {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    token: Option<Token>,
}

/// Why a hive was not asked, or what it answered instead.
#[derive(Debug)]
pub enum ClientError {
    /// The URL is not one of a hive: it has neither `http` nor `https`, or a user, or a query.
    BadUrl,
    /// No hive answers there: nobody listens, or the name is unknown.
    Unreachable(io::ErrorKind),
    /// It did not answer within [`limits::CLIENT_TIMEOUT`], or was silent for [`limits::CLIENT_SILENCE`].
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
    /// What answers is no hive, or one of another version: what is wrong with the answer.
    BadAnswer(String),
}

/// What is asked about a model; what is `None` is left to the hive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapacityQuery {
    /// As spawn takes it: `hf:org/repo:QUANT`, `file:/path`.
    pub model: String,
    /// `cpu`, `gpu0`, or several GPUs joined by commas.
    pub device: Option<String>,
    /// Context tokens, shared by all slots.
    pub ctx: Option<u32>,
    /// Slots.
    pub parallel: Option<u32>,
    /// How the worker would be launched.
    pub kind: Option<String>,
}

impl CapacityQuery {
    fn path(&self) -> String {
        let mut path = format!("/v1/capacity?model={}", encoded(&self.model));
        let numbers = [("ctx", self.ctx), ("parallel", self.parallel)];
        for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
            path.push_str(&format!("&{name}={number}"));
        }
        let texts = [("device", &self.device), ("kind", &self.kind)];
        for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            path.push_str(&format!("&{name}={}", encoded(text)));
        }
        path
    }
}

fn encoded(text: &str) -> impl fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// Whether a model fits, and what that takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// A worker would be admitted now.
    pub fits: bool,
    /// For a person, if it does not fit.
    pub message: Option<String>,
    /// The figures.
    #[serde(flatten)]
    pub answer: CapacityAnswer,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl => f.write_str("no URL of a hive; write one like http://127.0.0.1:8600"),
            Self::Unreachable(kind) => write!(f, "no hive answers: {kind}"),
            Self::TimedOut => f.write_str("the hive does not answer in time"),
            // Shown: it may be anybody who answers.
            Self::Refused { error: Some(error), .. } => {
                write!(f, "the hive says no: {} ({})", shown(&error.message), shown(&error.code))
            }
            Self::Failed { code, message } => write!(f, "{} ({})", shown(message), shown(code)),
            Self::Refused { status, error: None } => write!(f, "the answer is no hive's: status {status}"),
            Self::BadAnswer(what) => write!(f, "the answer is no hive's: {}", shown(what)),
        }
    }
}

/// A text as a terminal may have it: without what would control that.
fn shown(text: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_debug().collect::<String>() } else { c.to_string() };
    text.chars().map(show).collect()
}

impl std::error::Error for ClientError {}

impl HiveClient {
    /// A client of the hive at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let uri: Uri = url.parse().map_err(|_| ClientError::BadUrl)?;
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or(ClientError::BadUrl)?;
        let is_https = uri.scheme_str() == Some("https");
        if !(is_https || uri.scheme_str() == Some("http"))
            || authority.as_str().contains('@')
            || uri.query().is_some()
            || url.contains('#')
        {
            return Err(ClientError::BadUrl);
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
            // A hive without TLS is a neighbour.
            .proxy(is_https.then(Proxy::try_from_env).flatten())
            .timeout_connect(Some(limits::CLIENT_CONNECT))
            .timeout_global(Some(limits::CLIENT_TIMEOUT))
            .max_idle_connections(1)
            .max_response_header_size(limits::HEAD_BYTES_MAX)
            .build();
        Ok(Self { agent: config.into(), url: url.trim_end_matches('/').to_owned(), token: None })
    }

    /// The same client, which shows `token`.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// `GET /v1/devices`.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn devices(&self) -> Result<Devices, ClientError> {
        let (_, body) = self.get("/v1/devices")?;
        parsed(&body)
    }

    /// `GET /v1/capacity`: whether a worker would be admitted now.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`]; that it does not fit is an answer.
    pub fn capacity(&self, query: &CapacityQuery) -> Result<Capacity, ClientError> {
        match self.get(&query.path()) {
            Ok((head, _)) => Ok(Capacity { fits: true, message: None, answer: told(&head)? }),
            Err(ClientError::Refused { status: 409, error: Some(error) })
                if error.code.starts_with("INSUFFICIENT_") =>
            {
                let answer = serde_json::from_value(error.details)
                    .map_err(|e| ClientError::BadAnswer(e.to_string()))?;
                Ok(Capacity { fits: false, message: Some(error.message), answer })
            }
            Err(error) => Err(error),
        }
    }

    /// `POST /v1/models/download`: begins to fetch `model`, or joins who does.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn download(&self, model: &str) -> Result<DownloadResponse, ClientError> {
        let request = DownloadRequest { model_ref: model.to_owned() };
        let (_, body) = said_yes(send(self.post("/v1/models/download"), &request)?)?;
        parsed(&body)
    }

    /// `GET /v1/models/download/progress`: how far the download `id` is, first as it is now, then each change;
    /// after `last_event_id` where one is given, if the hive still knows that.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn progress(&self, id: &str, last_event_id: Option<u64>) -> Result<ProgressEvents, ClientError> {
        let path = format!("/v1/models/download/progress?id={}", encoded(id));
        self.stream(&path, last_event_id).map(ProgressEvents)
    }

    /// `GET /v1/workers`: those that live, by name.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn workers(&self) -> Result<Vec<Worker>, ClientError> {
        let (_, body) = self.get("/v1/workers")?;
        parsed(&body).map(|list: WorkerList| list.workers)
    }

    /// `GET /v1/workers/<id>/logs`: the last `tail` lines of a worker's log, each with its end.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn logs(&self, id: &WorkerId, tail: usize) -> Result<String, ClientError> {
        self.text(&format!("/v1/workers/{id}/logs?tail={tail}"))
    }

    /// The same of the run before the last one that stands in the log.
    ///
    /// # Errors
    /// As [`logs`](Self::logs); 404 `NOT_FOUND` where there is no such run.
    pub fn previous_logs(&self, id: &WorkerId, tail: usize) -> Result<String, ClientError> {
        self.text(&format!("/v1/workers/{id}/logs?tail={tail}&previous=true"))
    }

    /// The same as it grows, until the worker is gone; after the place `last_event_id` where one is given, if the
    /// log still has that.
    ///
    /// # Errors
    /// As [`logs`](Self::logs).
    pub fn follow_logs(
        &self,
        id: &WorkerId,
        tail: usize,
        last_event_id: Option<u64>,
    ) -> Result<LogLines, ClientError> {
        let path = format!("/v1/workers/{id}/logs?tail={tail}&follow=true");
        self.stream(&path, last_event_id).map(LogLines)
    }

    /// `POST /v1/workers/provision`: has a kind's program installed, and waits for it however long that takes.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn provision(&self, request: &ProvisionRequest) -> Result<ProvisionResponse, ClientError> {
        for event in self.provision_progress(request)? {
            if let (_, Progress::Error { code, message }) = event? {
                return Err(ClientError::Failed { code, message });
            }
        }
        // Now it is here, and this tells where.
        let (_, body) = said_yes(send(self.post("/v1/workers/provision"), request)?)?;
        parsed(&body)
    }

    /// The same as it goes on: how far it is, first as it is now, then each change. It goes on, too, when nobody
    /// looks any more.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn provision_progress(&self, request: &ProvisionRequest) -> Result<ProgressEvents, ClientError> {
        let answer = send(patient(self.post("/v1/workers/provision")), request)?;
        events(answer).map(ProgressEvents)
    }

    /// `DELETE /v1/workers/kinds`: has what was installed of a kind removed.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn remove_kind(&self, kind: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/workers/kinds?kind={}", encoded(kind)))
    }

    /// `DELETE /v1/models/download`: ends a download for all who wait for it; what is here stays for resuming.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn cancel_download(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/models/download?id={}", encoded(id)))
    }

    /// `GET /v1/workers/kinds`: what the hive can launch.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn kinds(&self) -> Result<Vec<KindInfo>, ClientError> {
        let (_, body) = self.get("/v1/workers/kinds")?;
        parsed(&body).map(|list: KindList| list.kinds)
    }

    /// `GET /v1/models`: what is in the model cache.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn models(&self) -> Result<Vec<Model>, ClientError> {
        let (_, body) = self.get("/v1/models")?;
        parsed(&body).map(|list: ModelList| list.models)
    }

    /// `DELETE /v1/models`: removes `model` from the cache.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn delete_model(&self, model: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/models?ref={}", encoded(model)))
    }

    /// `POST /v1/drain`: has the hive refuse spawns, or take them again; its workers serve on.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn drain(&self, drain: bool) -> Result<DrainResponse, ClientError> {
        self.drain_as(DrainRequest { drain, stop_idle: false })
    }

    /// The same, and workers without a request are stopped, now and later.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn drain_idle(&self) -> Result<DrainResponse, ClientError> {
        self.drain_as(DrainRequest { drain: true, stop_idle: true })
    }

    fn drain_as(&self, request: DrainRequest) -> Result<DrainResponse, ClientError> {
        let (_, body) = said_yes(send(self.post("/v1/drain"), &request)?)?;
        parsed(&body)
    }

    /// A stream of events that may be silent for [`limits::CLIENT_SILENCE`], and last.
    fn stream(&self, path: &str, last_event_id: Option<u64>) -> Result<EventStream, ClientError> {
        let url = format!("{}{path}", self.url);
        let mut request = patient(self.shown(self.agent.get(url)));
        if let Some(last) = last_event_id {
            request = request.header("Last-Event-ID", last.to_string());
        }
        events(request.call().map_err(failed)?)
    }

    /// `POST /v1/shutdown`: ends the hive; with `keep_workers` its workers go on serving, for the next hive.
    ///
    /// # Errors
    /// Any but [`ClientError::BadUrl`].
    pub fn shutdown(&self, keep_workers: bool) -> Result<ShutdownResponse, ClientError> {
        let workers = if keep_workers { ShutdownWorkers::Keep } else { ShutdownWorkers::Stop };
        let (_, body) = said_yes(send(self.post("/v1/shutdown"), &ShutdownRequest { workers })?)?;
        parsed(&body)
    }

    fn post(&self, path: &str) -> RequestBuilder<WithBody> {
        self.shown(self.agent.post(format!("{}{path}", self.url))).header("Content-Type", "application/json")
    }

    fn text(&self, path: &str) -> Result<String, ClientError> {
        let (_, body) = self.get(path)?;
        String::from_utf8(body).map_err(|_| ClientError::BadAnswer("it is no text".to_owned()))
    }

    /// The answer to a GET, if it says yes, and its body.
    fn get(&self, path: &str) -> Result<(Response<()>, Vec<u8>), ClientError> {
        let request = self.shown(self.agent.get(format!("{}{path}", self.url)));
        said_yes(request.call().map_err(failed)?)
    }

    fn delete(&self, path: &str) -> Result<(), ClientError> {
        let request = self.shown(self.agent.delete(format!("{}{path}", self.url)));
        said_yes(request.call().map_err(failed)?).map(drop)
    }

    /// With the token.
    fn shown<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.secret())),
            None => request,
        }
    }
}

fn send(to: RequestBuilder<WithBody>, body: &impl Serialize) -> Result<Response<Body>, ClientError> {
    let body = serde_json::to_vec(body).expect("wire types are valid JSON");
    to.send(&body[..]).map_err(failed)
}

/// For an answer that is a stream of events, which may last.
fn patient<B>(request: RequestBuilder<B>) -> RequestBuilder<B> {
    let request = request.header("Accept", "text/event-stream").config().timeout_global(None);
    let request = request.timeout_recv_response(Some(limits::CLIENT_TIMEOUT));
    request.timeout_per_read(Some(limits::CLIENT_SILENCE)).build()
}

fn events(answer: Response<Body>) -> Result<EventStream, ClientError> {
    if !answer.status().is_success() {
        return Err(refused(answer));
    }
    Ok(EventStream::new(answer.into_body().into_reader()))
}

/// An answer and its body, if it says yes.
fn said_yes(answer: Response<Body>) -> Result<(Response<()>, Vec<u8>), ClientError> {
    if answer.status().is_success() { whole(answer) } else { Err(refused(answer)) }
}

/// What an answer says that says no.
fn refused(answer: Response<Body>) -> ClientError {
    let (head, body) = match whole(answer) {
        Ok(answer) => answer,
        Err(error) => return error,
    };
    let error = serde_json::from_slice(&body).ok().map(|body: ErrorBody| body.error);
    ClientError::Refused { status: head.status().as_u16(), error }
}

/// What `GET /v1/capacity` says where the model fits.
fn told(head: &Response<()>) -> Result<CapacityAnswer, ClientError> {
    let text = |name: &str| {
        let value = head.headers().get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| ClientError::BadAnswer(format!("{name} is missing")))
    };
    let bytes =
        |name: &str| text(name)?.parse().map_err(|_| ClientError::BadAnswer(format!("{name} is no number")));
    Ok(CapacityAnswer {
        device: text(api::DEVICE_HEADER)?.to_owned(),
        required_bytes: bytes(api::REQUIRED_HEADER)?,
        available_bytes: bytes(api::AVAILABLE_HEADER)?,
        breakdown: None,
        suggestions: Vec::new(),
        weights_bytes_max: None,
    })
}

/// Head and body of an answer.
fn whole(answer: Response<Body>) -> Result<(Response<()>, Vec<u8>), ClientError> {
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

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

fn failed(error: ureq::Error) -> ClientError {
    match error {
        ureq::Error::Timeout(_) => ClientError::TimedOut,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => ClientError::TimedOut,
        ureq::Error::Io(e) => ClientError::Unreachable(e.kind()),
        ureq::Error::HostNotFound => ClientError::Unreachable(io::ErrorKind::NotFound),
        ureq::Error::ConnectionFailed => ClientError::Unreachable(io::ErrorKind::ConnectionRefused),
        other => ClientError::BadAnswer(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// Asks for devices what answers every request with `answer`, and gives the request as well.
    fn ask(answer: &str) -> (Result<Devices, ClientError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HiveClient::new(&url).unwrap().with_token(Token::parse("s3cret").unwrap());
        std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                // The client may have enough of it before its end.
                let _ = stream.write_all(answer.as_bytes());
                String::from_utf8(request).unwrap()
            });
            let answer = client.devices();
            (answer, server.join().unwrap())
        })
    }

    fn json(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    #[test]
    fn devices_are_asked_for_with_the_token() {
        let body = r#"{"cpu":{"cores":8,"ram_gb":1,"ram_total_bytes":2,"ram_available_bytes":1},"gpus":[],
                       "models":0,"workers":0,"disk":null,"backends":["cpu"],"news":1}"#;
        let (devices, request) = ask(&json("200 OK", body));
        assert_eq!(devices.unwrap().cpu.cores, 8);
        assert!(request.starts_with("GET /v1/devices HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("\r\nauthorization: bearer s3cret\r\n"), "{request}");
    }

    #[test]
    fn a_refusal_has_its_code_and_a_stranger_is_known() {
        let body = r#"{"error":{"code":"INVALID_API_KEY","message":"no\u001b[2J","correlation_id":"x"}}"#;
        let error = ask(&json("401 Unauthorized", body)).0.unwrap_err();
        assert!(
            matches!(&error, ClientError::Refused { status: 401, error: Some(e) } if e.code == "INVALID_API_KEY")
        );
        assert_eq!(error.to_string(), r"the hive says no: no\u{1b}[2J (INVALID_API_KEY)");
        for answer in ["302 Found\r\nLocation: http://elsewhere", "404 Not Found"] {
            let error = ask(&json(answer, "<html>")).0.unwrap_err();
            assert!(matches!(error, ClientError::Refused { error: None, .. }), "{error}");
        }
        for answer in [json("200 OK", "<html>"), json("200 OK", "{}"), "SSH-2.0-x\r\n".to_owned()] {
            let error = ask(&answer).0.unwrap_err();
            assert!(matches!(error, ClientError::BadAnswer(_)), "{error}");
        }
        let flood = " ".repeat(usize::try_from(limits::CLIENT_ANSWER_BYTES_MAX).unwrap() + 1);
        assert!(matches!(ask(&json("200 OK", &flood)).0, Err(ClientError::BadAnswer(_))));
    }

    #[test]
    fn where_nobody_listens_no_hive_answers() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = HiveClient::new(&format!("http://{free}")).unwrap().devices().unwrap_err();
        assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
    }

    #[test]
    fn a_url_is_http_without_user_or_query() {
        for wrong in
            ["", "hive", "hive:8600", "ftp://hive", "http://u:p@hive", "http://hive?x", "http://hive#x"]
        {
            assert!(matches!(HiveClient::new(wrong), Err(ClientError::BadUrl)), "{wrong}");
        }
        assert_eq!(HiveClient::new("https://gate/hive-3/").unwrap().url, "https://gate/hive-3");
    }
}
