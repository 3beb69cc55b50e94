//! Names of hosts, looked up on the caller's own thread.

use std::net::ToSocketAddrs as _;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::limits;
use crate::net::known_addresses;

/// Addresses and `localhost` are known without asking anybody. Any other name is asked for of the system, which has
/// its own time for that: ureq's own resolver would start a thread for each connection, to keep to a time.
#[derive(Debug)]
pub(super) struct OnThisThread;

impl Resolver for OnThisThread {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port, known) = known_addresses(uri).ok_or(ureq::Error::HostNotFound)?;
        let found = match known {
            Some(found) => found,
            None => (host, port).to_socket_addrs().map_err(|_| ureq::Error::HostNotFound)?.collect(),
        };
        if found.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut addrs = self.empty();
        found.into_iter().take(limits::HOST_ADDRS_MAX).for_each(|addr| addrs.push(addr));
        Ok(addrs)
    }
}
