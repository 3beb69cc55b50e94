//! The relay: one thread that tells the queen how the hive is.
//!
//! Nothing is queued. A change only says that there is something new; what is posted is the newest
//! picture at that moment, whole. So a queen that was away, slow or wrong is right again after one
//! message, and it delays nobody but this thread. [`schedule`] says when, [`crate::net`] for how long and
//! through what.

use std::fmt;
use std::io::{self, Read as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, at, bounded, select_biased};
use log::{info, warn};
use ureq::http::Uri;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Proxy, ProxyProtocol};

use crate::api::Heartbeat;
use crate::health::{Condition, Conditions};
use crate::id::{SystemEntropy, Token};
use crate::latest::Latest;
use crate::limits;
use crate::net::{Deadline, Line, Names};
use crate::thread::Joined;

mod schedule;

pub use schedule::{Schedule, Turn};

/// Where heartbeats go: `http` or `https`, with a host and a path, without a user.
///
/// `Display` shows scheme, host and port alone: a path or a query may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueenUrl(Uri);

/// A text that is no [`QueenUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAQueenUrl;

impl fmt::Display for NotAQueenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a queen's URL is http:// or https://, a host without a user, and perhaps a port and a path",
        )
    }
}

impl std::error::Error for NotAQueenUrl {}

impl FromStr for QueenUrl {
    type Err = NotAQueenUrl;

    /// Without a path, `/heartbeat` is appended; with one, the URL is used as it stands.
    fn from_str(text: &str) -> Result<Self, NotAQueenUrl> {
        let uri: Uri = text.parse().map_err(|_| NotAQueenUrl)?;
        let good = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if !good {
            return Err(NotAQueenUrl);
        }
        if uri.path() != "/" {
            return Ok(Self(uri));
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(format!("/heartbeat{query}").parse().map_err(|_| NotAQueenUrl)?);
        Uri::from_parts(parts).map(Self).map_err(|_| NotAQueenUrl)
    }
}

impl QueenUrl {
    fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for QueenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}", self.0.authority().map_or("", |authority| authority.as_str()))
    }
}

/// What a user sets of the relay.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Where heartbeats go.
    pub url: QueenUrl,
    /// What opens the queen.
    pub token: Option<Token>,
    /// `--heartbeat-interval`.
    pub interval: Duration,
    /// Where it is said that the queen cannot be reached.
    pub conditions: Conditions,
}

/// The running relay.
///
/// Dropping it ends it without a last word: a post under way is given up at once.
#[must_use = "dropping it ends the relay"]
pub struct Relay {
    changes: Sender<()>,
    /// Takes the last word; none once it was said.
    ended: Option<Sender<Heartbeat>>,
    deadline: Arc<Deadline>,
    token: Arc<Latest<Option<Token>>>,
    posts: Arc<Posts>,
    thread: Option<Joined>,
}

/// How heartbeats went, without a lock: read while one is under way.
#[derive(Debug, Default)]
pub struct Posts {
    taken: AtomicU64,
    failed: AtomicU64,
    failed_in_a_row: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    last_taken_ms: AtomicU64,
}

impl Posts {
    /// Those that the queen took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Those that she did not.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Those that she has not taken since the last one that she took.
    pub fn failed_in_a_row(&self) -> u64 {
        self.failed_in_a_row.load(Ordering::Relaxed)
    }

    /// When she last took one.
    pub fn last_taken_at(&self) -> Option<SystemTime> {
        let ms = self.last_taken_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    fn note(&self, is_taken: bool) {
        if is_taken {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.last_taken_ms.store(u64::try_from(since.as_millis()).unwrap_or(0), Ordering::Relaxed);
            self.taken.fetch_add(1, Ordering::Relaxed);
            self.failed_in_a_row.store(0, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.failed_in_a_row.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Relay {
    /// Starts the thread, which posts at once, then every interval and after changes.
    ///
    /// `newest` makes a heartbeat of the newest picture. It is called on the relay's thread, once a post;
    /// its `sequence` is replaced by the relay's own, which begins with 1 and grows by one a post.
    ///
    /// # Errors
    /// If the system has no descriptor or thread to give.
    pub fn start(config: RelayConfig, newest: Box<dyn Fn() -> Heartbeat + Send>) -> io::Result<Self> {
        let (changes, changed) = bounded(1);
        let (ended, last) = bounded(1);
        let deadline = Arc::new(Deadline::new()?);
        let token = Arc::new(Latest::new(config.token));
        let poster = Poster::new(config.url, Arc::clone(&token), Arc::clone(&deadline));
        let (interval, conditions) = (config.interval, config.conditions);
        let posts = Arc::<Posts>::default();
        let noted = Arc::clone(&posts);
        let body = move || run(poster, interval, (&conditions, &noted), &newest, &changed, &last);
        let thread = Joined::spawn_vital("relay", || {}, body)?;
        Ok(Self { changes, ended: Some(ended), deadline, token, posts, thread: Some(thread) })
    }

    /// Some worker's state has changed. Never waits; changes that come while one is known are the same.
    pub fn changed(&self) {
        // Full: the thread has not looked yet, and will.
        let _ = self.changes.try_send(());
    }

    /// How heartbeats went so far.
    pub fn posts(&self) -> &Arc<Posts> {
        &self.posts
    }

    /// Shows the queen `token` from the next post on.
    pub fn set_token(&self, token: Option<Token>) {
        self.token.set(token);
    }

    /// Ends the relay with `last`, whose `sequence` is replaced too.
    ///
    /// A post under way has [`limits::RELAY_CUT`] to end, then `last` has [`limits::RELAY_LAST_WORD`]. It
    /// is tried once. Returns when the thread has ended.
    pub fn finish(mut self, last: Heartbeat) {
        self.deadline.cut(limits::RELAY_CUT);
        if let Some(ended) = self.ended.take() {
            // There is room for the one that is ever sent; a thread that has ended needs none.
            let _ = ended.send(last);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended.take().is_some() {
            self.deadline.cut(Duration::ZERO);
        }
        drop(self.thread.take());
    }
}

fn run(
    mut poster: Poster,
    interval: Duration,
    (conditions, posts): (&Conditions, &Posts),
    newest: &(dyn Fn() -> Heartbeat + Send),
    changed: &Receiver<()>,
    last: &Receiver<Heartbeat>,
) {
    let mut entropy = SystemEntropy::new();
    let mut schedule = Schedule::new(Instant::now(), interval);
    let last = loop {
        select_biased! {
            recv(last) -> last => break last,
            recv(at(schedule.due())) -> _ => {
                let began = Instant::now();
                let posted = poster.post(newest(), |deadline| deadline.begin(limits::RELAY_TIMEOUT));
                posts.note(posted.is_ok());
                match posted {
                    Ok(()) => {
                        conditions.clear(Condition::QueenUnreachable);
                        if let Some(Turn::Found) = schedule.posted(began) {
                            info!("queen takes heartbeats again queen={}", poster.url);
                        }
                    }
                    Err(why) => {
                        conditions.set(Condition::QueenUnreachable, "");
                        if let Some(Turn::Lost) = schedule.failed(Instant::now(), &mut entropy) {
                            warn!("queen does not take heartbeats queen={} why={why}", poster.url);
                        }
                    }
                }
            }
            recv(changed) -> _ => schedule.changed(Instant::now()),
        }
    };
    // Without a last word the relay was dropped.
    let Ok(last) = last else { return };
    if let Err(why) = poster.post(last, |deadline| deadline.begin_last(limits::RELAY_LAST_WORD)) {
        warn!("queen did not take the last heartbeat queen={} why={why}", poster.url);
    }
}

/// Why a post failed, for the log. Holds nothing that the queen sent but its status.
enum Failure {
    Status(u16),
    Transfer(ureq::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status_{status}"),
            Self::Transfer(ureq::Error::Io(e)) => write!(f, "{:?}", e.kind()),
            // Quoted and escaped: it may repeat what came in.
            Self::Transfer(e) => write!(f, "{:?}", e.to_string()),
        }
    }
}

/// Makes and sends one heartbeat after the other.
struct Poster {
    url: QueenUrl,
    token: Arc<Latest<Option<Token>>>,
    deadline: Arc<Deadline>,
    line: Line,
    agent: Agent,
    sequence: u64,
}

impl Poster {
    fn new(url: QueenUrl, token: Arc<Latest<Option<Token>>>, deadline: Arc<Deadline>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy_for(&url))
            .max_idle_connections(1)
            .max_idle_age(limits::KEEP_ALIVE_IDLE)
            .max_response_header_size(limits::HEAD_BYTES_MAX)
            .input_buffer_size(limits::RELAY_BUFFER_BYTES)
            .output_buffer_size(limits::RELAY_BUFFER_BYTES)
            .build();
        let line = Line::new(Arc::clone(&deadline));
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(line.clone()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, Names::new(Arc::clone(&deadline)));
        Self { url, token, deadline, line, agent, sequence: 0 }
    }

    /// Posts `heartbeat` once, within the time that `begin` sets. A kept connection that the queen closed
    /// at that moment says nothing about the queen: the same body goes out once more over a new one.
    fn post(&mut self, mut heartbeat: Heartbeat, begin: impl FnOnce(&Deadline)) -> Result<(), Failure> {
        self.sequence += 1;
        heartbeat.sequence = self.sequence;
        let body = serde_json::to_vec(&heartbeat).expect("wire types are valid JSON");
        begin(&self.deadline);
        let opened = self.line.opened();
        match self.send(&body) {
            Err(Failure::Transfer(ureq::Error::Io(e)))
                if e.kind() != io::ErrorKind::TimedOut && self.line.opened() == opened =>
            {
                self.send(&body)
            }
            done => done,
        }
    }

    fn send(&self, body: &[u8]) -> Result<(), Failure> {
        let mut request = self.agent.post(self.url.0.clone()).header("Content-Type", "application/json");
        if let Some(token) = &*self.token.get() {
            request = request.header("Authorization", format!("Bearer {}", token.secret()));
        }
        let answer = request.send(body).map_err(Failure::Transfer)?;
        let status = answer.status();
        // Read to its end, the connection can be kept; an answer that is longer, breaks off or never
        // ends costs the connection, not the heartbeat: its status is known.
        let _ = io::copy(
            &mut answer.into_body().into_reader().take(limits::RELAY_ANSWER_BYTES_MAX),
            &mut io::sink(),
        );
        if status.is_success() { Ok(()) } else { Err(Failure::Status(status.as_u16())) }
    }
}

/// The proxy of the environment, for `https` beyond this machine: a plain queen is a neighbour.
fn proxy_for(url: &QueenUrl) -> Option<Proxy> {
    if url.0.scheme_str() != Some("https") || url.is_loopback() {
        return None;
    }
    Proxy::try_from_env()
        .filter(|proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_gets_one_and_shows_no_secret() {
        let whole = |text: &str| text.parse::<QueenUrl>().map(|url| url.0.to_string());
        assert_eq!(whole("http://queen:8500"), Ok("http://queen:8500/heartbeat".into()));
        assert_eq!(whole("http://queen:8500/"), Ok("http://queen:8500/heartbeat".into()));
        assert_eq!(whole("https://[::1]?key=s3cret"), Ok("https://[::1]/heartbeat?key=s3cret".into()));
        assert_eq!(whole("https://queen/v2/hives"), Ok("https://queen/v2/hives".into()));
        let url: QueenUrl = "https://queen:1/s3cret?key=s3cret".parse().unwrap();
        assert_eq!(url.to_string(), "https://queen:1");
        for wrong in ["", "queen", "queen:8500", "/heartbeat", "ftp://queen", "http://me:pw@queen", "http://"]
        {
            assert_eq!(whole(wrong), Err(NotAQueenUrl), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_by_address() {
        let is_loopback = |text: &str| text.parse::<QueenUrl>().unwrap().is_loopback();
        assert!(
            is_loopback("http://localhost:1")
                && is_loopback("http://[::1]")
                && is_loopback("http://127.9.9.9")
        );
        assert!(!is_loopback("http://localhost.example.com") && !is_loopback("http://192.0.2.1"));
    }
}
