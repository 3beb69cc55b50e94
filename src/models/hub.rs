//! The hub's client: what a repository has, and the bytes of its files.
//!
//! Speaks what `huggingface_hub` speaks: `/api/models/…/revision/…` tells a commit, `/api/models/…/tree/…` its files,
//! `/…/resolve/…` leads to the bytes, often by a redirect to another host with a signed address. Redirects are
//! followed here and not by ureq: [`wire`] decides at each step what is shown to whom.
//!
//! Invariants: the token goes to the scheme, host and port of the endpoint and nowhere else; from `https` no
//! redirect leads to `http`; nothing that was sent gets into an error or the log but a status; every body is read up
//! to a limit; every wait ends with its [`Cut`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reference::HubRef;
use super::remote::{HubError, RemoteFile, Revision};
use crate::limits::{HUB_BUFFER_BYTES, HUB_PAGES_MAX};
use crate::net::Cut;

mod bytes;
mod config;
mod head;
mod origin;
mod page;
mod plain;
mod proxy;
mod reader;
#[cfg(test)]
mod tests;
mod url;
mod wire;

pub use config::HubConfig;
pub(crate) use origin::HubOrigin;
pub(crate) use reader::HubReader;

use origin::HubConnection;
use page::Files;
use wire::Wire;

/// A hub, as its configuration says where it is. Cheap to clone; opens no connection by itself.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: HubConfig,
}

/// How long it is waited for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    /// For an answer's head, or a whole answer that is JSON, all redirects together.
    question: Duration,
    /// For the next byte of a file.
    stall: Duration,
}

impl Hub {
    /// The hub that `config` means.
    pub fn new(config: HubConfig) -> Self {
        Self(Arc::new(Inner { config }))
    }

    /// A hub that is waited for as long as a test has time.
    #[cfg(test)]
    pub(crate) fn with_times(config: HubConfig, question: Duration, stall: Duration) -> Self {
        Self::new(HubConfig { times: Times { question, stall }, ..config })
    }

    /// Whether `HF_HUB_OFFLINE` is set: every question is then [`HubError::Offline`].
    pub fn is_offline(&self) -> bool {
        self.0.config.is_offline
    }

    /// The commit that the revision of `hub` is at, and its files; waits until `until` for all of it.
    ///
    /// # Errors
    /// If the hub does not tell, or tells what no hub does.
    pub(crate) fn revision(&self, hub: &HubRef, cut: &Cut, until: Instant) -> Result<Revision, HubError> {
        let wire = Wire::new(&self.0, cut, Some(until), HUB_BUFFER_BYTES)
            .map_err(|error| HubError::Broken(error.kind()))?;
        let repository = format!("/api/models/{}/{}", hub.org(), hub.repo());
        let info =
            wire.json(&self.0.url(&format!("{repository}/revision/{}", url::part(hub.revision())))?)?;
        let commit = page::commit(&info.body)?;
        let mut files = Files::default();
        let mut at = self.0.url(&format!("{repository}/tree/{commit}?recursive=true"))?;
        for _ in 0..HUB_PAGES_MAX {
            let page = wire.json(&at)?;
            files.add(&page.body)?;
            match page.next {
                None => return Ok(Revision { commit, files: files.finish() }),
                Some(next) if next.is_same_origin(&at) => at = next,
                Some(_) => return Err(HubError::BadAnswer("its list of files goes on elsewhere")),
            }
        }
        Err(HubError::BadAnswer("its list of files has too many pages"))
    }

    /// Where the files of `commit` come from; `cut` ends all that is under way there.
    pub(crate) fn origin(&self, hub: &HubRef, commit: &str, cut: &Cut) -> HubOrigin {
        HubOrigin::new(&self.0, &origin::base(hub, commit), cut)
    }

    /// Reads `file` of `commit` from its beginning, for who wants its header and waits until `until` for it: see
    /// [`HubReader`].
    ///
    /// # Errors
    /// If the process has no descriptor to spare.
    pub(crate) fn reader(
        &self,
        hub: &HubRef,
        commit: &str,
        file: &RemoteFile,
        cut: &Cut,
        until: Instant,
    ) -> io::Result<HubReader> {
        let base = origin::base(hub, commit);
        let connection = HubConnection::new(&self.0, base.into(), cut, Some(until), HUB_BUFFER_BYTES)?;
        Ok(HubReader::new(connection, file.clone()))
    }
}

/// Everything that the hub may send, as `bytes`.
///
/// # Panics
/// If a parser does, or lets something out that may not be trusted.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(bytes: &[u8]) {
    let mut files = Files::default();
    if files.add(bytes).is_ok() {
        for file in files.finish() {
            let is_plain = |part: &str| !matches!(part, "" | "." | "..");
            assert!(file.path.split('/').all(is_plain), "a path leads nowhere else");
            assert!(file.bytes <= crate::limits::HUB_FILE_BYTES_MAX);
        }
    }
    if let Ok(commit) = page::commit(bytes) {
        assert!(!commit.is_empty() && !commit.contains(['/', '.']), "a commit is a folder's name");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((range, whole)) = head::content_range(text) {
        assert!(!range.is_empty() && whole.is_none_or(|whole| range.end <= whole));
    }
    let here = url::Url::parse("https://hub:1/a/b?c").expect("it is one");
    for location in [Some(text), head::next_link(text)].into_iter().flatten() {
        if let Some(there) = here.join(location) {
            assert_eq!(url::Url::parse(&there.uri().to_string()), Some(there), "it reads as it is written");
        }
    }
    let headers = ["ratelimit", "retry-after"].iter().filter_map(|name| {
        Some((ureq::http::HeaderName::from_static(name), ureq::http::HeaderValue::from_bytes(bytes).ok()?))
    });
    let now = jiff::Timestamp::UNIX_EPOCH;
    let refused = head::refusal(429, &headers.collect(), head::About::File, false, now);
    if let HubError::Busy { retry_after: Some(wait), .. } = refused {
        assert!(wait <= crate::limits::RETRY_AFTER_MAX);
    }
}

impl Inner {
    /// The address of `rest` on the hub.
    fn url(&self, rest: &str) -> Result<url::Url, HubError> {
        self.config.endpoint.url(rest).ok_or(HubError::BadAnswer("a name that makes no address"))
    }
}
