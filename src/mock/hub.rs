//! A stand-in for the Hugging Face hub: serves repositories from memory or from folders as the hub does, and
//! does it badly on request.
//!
//! A thread for each connection, on sockets of its own: a server that must cut, stall, lie about lengths and
//! send for ever cannot be the crate's own, which can do none of that. As with the hub there are two servers:
//! large files are redirected to a second port, the CDN, by a location that is signed and wants no token. A
//! token that comes there all the same is noted, and refused as a storage does it.
//!
//! The digests here are computed without the code that is tested against them.

mod body;
mod fault;
pub mod folder;
mod log;
mod repository;
mod route;
mod serve;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

pub use fault::{Fault, FaultRule, HELP as FAULTS_HELP, HubCode, Place, Times};
pub use log::{Seen, Side};
pub use repository::{Access, Repository};

use crate::id::Token;
use crate::limits;
use crate::thread::Joined;
use serve::Shared;

/// How it is; the default knows no token, sends as fast as it can, and says nothing.
#[derive(Debug, Clone)]
pub struct Options {
    /// What opens repositories that are not [`Access::Public`].
    pub token: Option<Token>,
    /// Entries on a page of a repository's tree.
    pub page: usize,
    /// Bytes a second of a file on each connection.
    pub rate: Option<u64>,
    /// Whether a line of each request goes to standard output.
    pub print: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { token: None, page: limits::MOCK_HUB_PAGE, rate: None, print: false }
    }
}

/// The running stand-in; dropping it closes every connection.
pub struct Hub {
    url: String,
    cdn_url: String,
    shared: Arc<Shared>,
    _threads: [Joined; 2],
}

impl Hub {
    /// Listens on two free ports of loopback.
    ///
    /// # Errors
    /// If the system has no thread or descriptor to give.
    pub fn start(options: Options) -> io::Result<Self> {
        Self::listen(TcpListener::bind("127.0.0.1:0")?, options)
    }

    /// Takes requests from `listener`; the CDN is on another port of the same address.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub fn listen(listener: TcpListener, options: Options) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let cdn = TcpListener::bind((addr.ip(), 0))?;
        let (url, cdn_url) = (format!("http://{addr}"), format!("http://{}", cdn.local_addr()?));
        let shared = Arc::new(Shared::new(options, url.clone(), cdn_url.clone()));
        let threads = [
            serve::start(listener, Side::Hub, Arc::clone(&shared))?,
            serve::start(cdn, Side::Cdn, Arc::clone(&shared))?,
        ];
        Ok(Self { url, cdn_url, shared, _threads: threads })
    }

    /// What `HF_ENDPOINT` is set to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where large files come from.
    pub fn cdn_url(&self) -> &str {
        &self.cdn_url
    }

    /// Serves `repository` as `name` (`org/repo`) and returns its commit. One that is there already moves on:
    /// its branches follow, its old commits stay.
    pub fn add(&self, name: &str, repository: Repository) -> String {
        self.shared.repositories().add(name, repository)
    }

    /// From now on a request at `place` suffers `fault`, so many `times`; faults that are set together combine.
    ///
    /// `path` is the end of `org/repo/path/of/file`, or of `org/repo` where the request is for no file; an
    /// empty one is any. A fault that has nothing to strike at (a cut beyond the end) waits for one that has.
    pub fn fault(&self, place: Place, path: &str, fault: Fault, times: Times) {
        self.add_rule(FaultRule { place, path: path.to_owned(), fault, times });
    }

    /// [`Hub::fault`] of a rule that was read.
    pub fn add_rule(&self, rule: FaultRule) {
        self.shared.rules().push(rule);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.shared.rules().clear();
    }

    /// All requests in the order of their arrival, those under way too. Of more than
    /// [`limits::MOCK_HUB_REQUESTS_KEPT`] the oldest are forgotten.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.log.seen()
    }

    /// Forgets the requests that have ended.
    pub fn forget_requests(&self) {
        self.shared.log.forget();
    }

    /// Waits until the requests are as `wanted`, at most for `timeout`; whether they are.
    /// Looked at with every change: a request that comes or ends, a piece that is sent.
    pub fn wait_for(&self, timeout: Duration, wanted: impl FnMut(&[Seen]) -> bool) -> bool {
        self.shared.log.wait_for(timeout, wanted)
    }

    /// Whether a token ever came to the CDN.
    pub fn cdn_saw_token(&self) -> bool {
        self.shared.log.cdn_saw_token()
    }
}

#[cfg(test)]
mod tests;
