//! A blocking client of a hive, for the queen and for the commands of `rbee-hive`.
//!
//! From what a machine has to a worker that serves, and to its end:
//!
//! ```
//! use std::time::Duration;
//! use rbee_hive::api::SpawnRequest;
//! use rbee_hive::client::{CapacityQuery, HiveClient};
//!
//! # let example = rbee_hive::mock::example::hive();
//! # let url = example.url();
//! let hive = HiveClient::new(url)?;
//! println!("{} cores", hive.devices()?.cpu.cores);
//! assert!(hive.capacity(&CapacityQuery::new("hf:org/tiny"))?.fits);
//! let spawned = hive.spawn(&SpawnRequest::new("hf:org/tiny"))?;
//! let worker = hive.wait_ready(&spawned.worker_id, Duration::from_secs(60))?;
//! println!("ask {}", worker.url);
//! hive.stop(&worker.worker_id, false)?;
//! let last = hive.wait_gone(&worker.worker_id, Duration::from_secs(60))?;
//! assert_eq!(last.exit.expect("it has ended").reason, "stopped");
//! # Ok::<(), rbee_hive::client::ClientError>(())
//! ```
//!
//! It starts no thread: whoever calls waits, at most as long as [`HiveClient::with_timeout`] says. A host's name is
//! looked up on the caller's thread, too, where the system keeps to its own time. TLS is there for `https://` alone.
//!
//! **What is repeated.** A `GET` whose connection ends before the answer's end is asked once more. A spawn is sent with
//! an `Idempotency-Key`, and repeated under the same key as long as its answer is lost: the hive gives one worker to
//! one key. What remains unknown at the end is [`ClientError::Unknown`]. Nothing else is repeated.
//!
//! **Streams** ([`events`](HiveClient::events), [`progress`](HiveClient::progress),
//! [`follow_logs`](HiveClient::follow_logs)) come back after their last event when their connection ends, for
//! [`CLIENT_RETURN_WITHIN`](limits::CLIENT_RETURN_WITHIN), and end with the error after that.

use std::time::Duration;

use ureq::http::Uri;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Proxy};

use crate::id::Token;
use crate::limits;

mod capacity;
mod error;
mod events;
mod heartbeat;
mod hive;
mod kinds;
mod logs;
mod models;
mod names;
mod progress;
mod resume;
pub mod sse;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod wait;
mod workers;

pub use crate::http::Code;
pub use capacity::{Capacity, CapacityQuery};
pub use error::ClientError;
pub use events::{Event, Events};
pub use heartbeat::{Heard, NotAHeartbeat, Realm};
pub use logs::LogLines;
pub use progress::ProgressEvents;

/// A way to one hive. Cheap to clone; keeps its connection between two calls.
#[derive(Debug, Clone)]
pub struct HiveClient {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    token: Option<Token>,
    timeout: Duration,
}

impl HiveClient {
    /// A client of the hive at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    ///
    /// ```
    /// use rbee_hive::client::HiveClient;
    /// let hive = HiveClient::new("http://127.0.0.1:8600")?;
    /// assert!(HiveClient::new("127.0.0.1:8600").is_err());
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let uri = checked(url).ok_or(ClientError::BadUrl)?;
        let is_https = uri.scheme_str() == Some("https");
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
            // A hive without TLS is a neighbour.
            .proxy(is_https.then(Proxy::try_from_env).flatten())
            .timeout_connect(Some(limits::CLIENT_CONNECT))
            .max_idle_connections(1)
            .max_response_header_size(limits::HEAD_BYTES_MAX)
            .build();
        Ok(Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), names::OnThisThread),
            url: url.trim_end_matches('/').to_owned(),
            token: None,
            timeout: limits::CLIENT_TIMEOUT,
        })
    }

    /// The same client, which shows `token`.
    ///
    /// ```
    /// use rbee_hive::client::HiveClient;
    /// use rbee_hive::id::Token;
    /// # let example = rbee_hive::mock::example::hive();
    /// # let url = example.url();
    /// let token = Token::parse("s3cret").expect("visible ASCII characters");
    /// let hive = HiveClient::new(url)?.with_token(token);
    /// # hive.devices()?;
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// The same client, which waits so long for an answer, from the call's beginning to the answer's end: instead of
    /// [`CLIENT_TIMEOUT`](limits::CLIENT_TIMEOUT), which leaves a hive the time to ask the hub. For a stream it is the
    /// time until its beginning.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rbee_hive::client::HiveClient;
    /// # let example = rbee_hive::mock::example::hive();
    /// # let url = example.url();
    /// let hive = HiveClient::new(url)?.with_timeout(Duration::from_secs(5));
    /// # hive.devices()?;
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: timeout.min(limits::CLIENT_WAIT_MAX), ..self }
    }

    /// Where it asks, without a slash at the end.
    ///
    /// ```
    /// use rbee_hive::client::HiveClient;
    /// assert_eq!(HiveClient::new("https://gate/hive-3/")?.url(), "https://gate/hive-3");
    /// # Ok::<(), rbee_hive::client::ClientError>(())
    /// ```
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A URL that a hive can have.
fn checked(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|authority| !authority.host().is_empty())?;
    let is_plain = !authority.as_str().contains('@') && uri.query().is_none() && !url.contains('#');
    (has_scheme && is_plain).then_some(uri)
}
