//! Questions and answers: one after the other on connections that are kept, with redirects followed by hand.

use std::io::{self, ErrorKind, Read as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use ureq::http::{HeaderMap, Response};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Body};

use super::Inner;
use super::head::{self, About};
use super::url::Url;
use crate::id::Token;
use crate::limits;
use crate::models::remote::{HubError, RemoteFile};
use crate::net::{Cut, Deadline, Line, Names};

const NO_TLS: HubError = HubError::BadAnswer("it speaks no TLS, or its certificate is not one to trust");

/// One exchange at a time; connections to the hub and to where it redirects are kept between them.
pub(super) struct Wire {
    pub(super) hub: Arc<Inner>,
    pub(super) cut: Cut,
    pub(super) deadline: Arc<Deadline>,
    line: Line,
    agent: Agent,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Asked<'a> {
    /// A list, or a commit.
    Json,
    /// A short file.
    Text,
    /// The first byte of a file of which nothing is known: how long it is comes with it.
    First,
    /// A part of a file.
    Bytes(&'a RemoteFile, Range<u64>),
}

impl Asked<'_> {
    fn range(&self) -> Option<Range<u64>> {
        match self {
            Self::Json | Self::Text => None,
            Self::First => Some(0..1),
            Self::Bytes(_, range) => Some(range.clone()),
        }
    }
}

/// An answer with 200 or 206.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// Where it came from, after all redirects.
    pub(super) at: Url,
}

/// A whole answer.
pub(super) struct Json {
    pub(super) body: Vec<u8>,
    /// Where the list goes on.
    pub(super) next: Option<Url>,
}

impl Wire {
    /// All that is asked ends at `until`, where that is given.
    ///
    /// # Errors
    /// If the process has no descriptor to spare.
    pub(super) fn new(
        hub: &Arc<Inner>,
        cut: &Cut,
        until: Option<Instant>,
        input_bytes: usize,
    ) -> io::Result<Self> {
        let deadline = cut.deadline()?;
        if let Some(until) = until {
            deadline.limit(until);
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .max_idle_connections(2)
            .max_idle_connections_per_host(1)
            .max_idle_age(limits::KEEP_ALIVE_IDLE)
            .max_response_header_size(limits::HEAD_BYTES_MAX)
            .input_buffer_size(input_bytes)
            .output_buffer_size(limits::HUB_REQUEST_BYTES_MAX)
            .build();
        let line = Line::new(Arc::clone(&deadline));
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(line.clone()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, Names::new(Arc::clone(&deadline)));
        Ok(Self { hub: Arc::clone(hub), cut: cut.clone(), deadline, line, agent })
    }

    /// Asks at `start` and follows redirects, all within one time.
    pub(super) fn ask(&self, start: &Url, asked: &Asked<'_>) -> Result<Answer, HubError> {
        if self.hub.config.is_offline {
            return Err(HubError::Offline);
        }
        let token = self.hub.config.tokens.now();
        self.deadline.begin(self.hub.config.times.question);
        let mut seen = vec![start.clone()];
        let mut at = start.clone();
        loop {
            let shown = token.as_ref().filter(|_| at.is_same_origin(self.hub.config.endpoint.root()));
            let response = self.exchange(&at, shown, asked)?;
            let headers = response.headers();
            let about = match asked {
                Asked::Json => About::Repository,
                Asked::Text | Asked::First => About::File,
                Asked::Bytes(file, _) => {
                    head::check_linked(headers, file)?;
                    About::File
                }
            };
            let next = match (response.status().as_u16(), asked.range()) {
                (200, _) | (206, Some(_)) => return Ok(Answer { response, at }),
                (301 | 302 | 303 | 307 | 308, _) => next(&at, headers, &seen)?,
                (status, _) => {
                    let error = head::refusal(status, headers, about, token.is_some(), Timestamp::now());
                    drain(response);
                    return Err(error);
                }
            };
            drain(response);
            seen.push(next.clone());
            at = next;
        }
    }

    /// The whole answer at `url`, which is for somebody else to parse.
    pub(super) fn json(&self, url: &Url) -> Result<Json, HubError> {
        let Answer { response, at } = self.ask(url, &Asked::Json)?;
        let mut links = response.headers().get_all("link").iter().filter_map(|link| link.to_str().ok());
        let next = match links.find_map(head::next_link) {
            Some(link) => {
                Some(at.join(link).ok_or(HubError::BadAnswer("its list of files goes on nowhere"))?)
            }
            None => None,
        };
        let body = self.whole(response, limits::HUB_PAGE_BYTES_MAX)?;
        Ok(Json { body, next })
    }

    /// The short file at `url`, which has at most so many bytes.
    pub(super) fn text(&self, url: &Url, bytes_max: u64) -> Result<Vec<u8>, HubError> {
        self.whole(self.ask(url, &Asked::Text)?.response, bytes_max)
    }

    fn whole(&self, response: Response<Body>, bytes_max: u64) -> Result<Vec<u8>, HubError> {
        let mut body = Vec::new();
        let mut reader = response.into_body().into_reader().take(bytes_max + 1);
        reader.read_to_end(&mut body).map_err(|error| self.failed(error.into()))?;
        if body.len() as u64 > bytes_max {
            return Err(HubError::TOO_LONG);
        }
        Ok(body)
    }

    /// One request and the head of its answer. A kept connection that the server closed at that moment says
    /// nothing about the server: the same request goes out once more over a new one.
    fn exchange(
        &self,
        at: &Url,
        token: Option<&Token>,
        asked: &Asked<'_>,
    ) -> Result<Response<Body>, HubError> {
        let opened = self.line.opened();
        let sent = match self.send(at, token, asked) {
            Err(ureq::Error::Io(error))
                if error.kind() != ErrorKind::TimedOut && self.line.opened() == opened =>
            {
                self.send(at, token, asked)
            }
            sent => sent,
        };
        sent.map_err(|error| self.failed(error))
    }

    fn send(
        &self,
        at: &Url,
        token: Option<&Token>,
        asked: &Asked<'_>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(at.uri().clone()).header("Accept-Encoding", "identity");
        if let Some(range) = asked.range() {
            request = request.header("Range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {}", token.secret()));
        }
        match self.hub.config.proxies.of(at) {
            Some(proxy) => request.config().proxy(Some(proxy.clone())).build().call(),
            None => request.call(),
        }
    }

    /// What `error` means; nothing of its text is kept.
    pub(super) fn failed(&self, error: ureq::Error) -> HubError {
        use ureq::Error;
        if self.cut.is_cut() {
            return HubError::Cut;
        }
        match error {
            Error::Io(error) => match error.kind() {
                ErrorKind::TimedOut => HubError::Stalled,
                // That is how rustls says it through a stream.
                ErrorKind::InvalidData => NO_TLS,
                kind => HubError::Broken(kind),
            },
            Error::Tls(_) | Error::Rustls(_) => NO_TLS,
            Error::HostNotFound => HubError::Broken(ErrorKind::HostUnreachable),
            Error::ConnectionFailed | Error::ConnectProxyFailed(_) => {
                HubError::Broken(ErrorKind::ConnectionRefused)
            }
            _ => HubError::BadAnswer("not HTTP as it should be"),
        }
    }
}

/// Where an answer at `at` redirects to.
fn next(at: &Url, headers: &HeaderMap, seen: &[Url]) -> Result<Url, HubError> {
    let next = head::text(headers, "location").and_then(|location| at.join(location));
    let next = next.ok_or(HubError::BadAnswer("it redirects to nowhere"))?;
    if at.is_https() && !next.is_https() {
        return Err(HubError::BadAnswer("it redirects from https to http"));
    }
    if seen.contains(&next) {
        return Err(HubError::BadAnswer("it redirects in a circle"));
    }
    if seen.len() > limits::HUB_REDIRECTS_MAX as usize {
        return Err(HubError::BadAnswer("it redirects too often"));
    }
    Ok(next)
}

/// Reads what nobody wants, so that the connection can be kept; if it is too long the connection is closed.
fn drain(response: Response<Body>) {
    let body = response.into_body();
    if body.content_length().is_some_and(|length| length <= limits::HUB_DRAIN_BYTES_MAX) {
        // An error costs the connection, nothing else.
        let _ = io::copy(&mut body.into_reader(), &mut io::sink());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_never_leaves_tls() {
        let at = Url::parse("https://hub/a").unwrap();
        let to = |location: &'static str| {
            let headers = [("location".parse().unwrap(), location.parse().unwrap())].into_iter().collect();
            next(&at, &headers, &[]).map(|url| url.uri().to_string())
        };
        assert_eq!(to("https://cdn/x?y"), Ok("https://cdn/x?y".into()));
        assert_eq!(to("//cdn/x"), Ok("https://cdn/x".into()));
        assert_eq!(to("http://hub/a"), Err(HubError::BadAnswer("it redirects from https to http")));
    }
}
