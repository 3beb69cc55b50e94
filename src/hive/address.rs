//! Where the hive listens, where its workers do, and where it is reached by whom.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::time::Instant;

use crate::limits::{PREDECESSOR_LOOK, PREDECESSOR_WAIT};

use super::named;

/// Where the hive is reached, by whom.
pub(super) struct Urls {
    /// As it listens.
    pub(super) own: String,
    pub(super) for_workers: String,
    pub(super) for_queen: String,
}

impl Urls {
    pub(super) fn new(advertised: Option<&str>, address: SocketAddr, host_name: &str) -> Self {
        let own = format!("http://{address}");
        let (mut for_workers, mut for_queen) = (own.clone(), own.clone());
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            for_workers = format!("http://{loopback}:{}", address.port());
            for_queen = format!("http://{host_name}:{}", address.port());
        }
        if let Some(url) = advertised {
            url.clone_into(&mut for_workers);
            url.clone_into(&mut for_queen);
        }
        Self { own, for_workers, for_queen }
    }
}

/// Listens. The address may still be that of a hive that was killed a moment ago: see [`PREDECESSOR_WAIT`].
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + PREDECESSOR_WAIT;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(PREDECESSOR_LOOK);
            }
            bound => return bound.map_err(|error| named("--bind", &error)),
        }
    }
}

/// The address behind `--worker-host`.
pub(super) fn resolve(host: &str) -> io::Result<IpAddr> {
    if host == "localhost" {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let found = (host, 0).to_socket_addrs().map_err(|error| named("--worker-host", &error))?.next();
    found.map(|address| address.ip()).ok_or_else(|| io::Error::other("--worker-host: no address found"))
}
