//! Names of hosts and their addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, bounded};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::deadline::Deadline;
use crate::limits;

/// Turns a host's name into addresses.
///
/// `localhost` and addresses are known without asking anybody. Any other name is looked up on a thread of
/// its own, for the system's resolver can neither be given a time nor be stopped. At most one such thread
/// lives: who asks for the name again waits for the lookup that is under way. It is the one thread that
/// is not joined; it holds nothing but the name.
#[derive(Debug)]
pub struct Names {
    deadline: Arc<Deadline>,
    under_way: Mutex<Option<Lookup>>,
}

#[derive(Debug)]
struct Lookup {
    name: (String, u16),
    answer: Receiver<io::Result<Vec<SocketAddr>>>,
    /// Readable when the answer is there.
    done: Arc<OwnedFd>,
}

impl Names {
    /// A name service whose every wait obeys `deadline`.
    pub fn new(deadline: Arc<Deadline>) -> Self {
        Self { deadline, under_way: Mutex::new(None) }
    }

    fn look_up(&self, name: (String, u16)) -> io::Result<Vec<SocketAddr>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let lookup = match under_way.take() {
            Some(lookup) if lookup.name == name => lookup,
            Some(other) if other.answer.is_empty() => {
                *under_way = Some(other);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            _ => Lookup::start(name)?,
        };
        let lookup = under_way.insert(lookup);
        self.deadline.wait(&lookup.done, PollFlags::IN, 1)?;
        let answer = lookup.answer.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        *under_way = None;
        // The system tells only in words why a name has no address.
        answer?.map_err(|_| io::ErrorKind::HostUnreachable.into())
    }
}

impl Lookup {
    fn start(name: (String, u16)) -> io::Result<Self> {
        let (answered, answer) = bounded(1);
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let lookup = Self { name: name.clone(), answer, done: Arc::clone(&done) };
        std::thread::Builder::new().name("resolver".into()).spawn(move || {
            // Nobody may be left to hear either.
            let _ = answered.send(name.to_socket_addrs().map(Iterator::collect));
            let _ = rustix::io::write(&done, &1_u64.to_ne_bytes());
        })?;
        Ok(lookup)
    }
}

/// Host and port of a URL, and their addresses if nobody has to be asked for them.
pub(crate) fn known_addresses(uri: &Uri) -> Option<(&str, u16, Option<Vec<SocketAddr>>)> {
    let host = uri.host()?.trim_matches(['[', ']']);
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(default);
    let known = match host.parse::<IpAddr>() {
        Ok(ip) => Some(vec![SocketAddr::new(ip, port)]),
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            Some(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()])
        }
        Err(_) => None,
    };
    Some((host, port, known))
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port, known) = known_addresses(uri).ok_or(ureq::Error::HostNotFound)?;
        let found = match known {
            Some(found) => found,
            None => self.look_up((host.to_owned(), port))?,
        };
        if found.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut addrs = self.empty();
        for addr in found.into_iter().take(limits::HOST_ADDRS_MAX) {
            addrs.push(addr);
        }
        Ok(addrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_lookup_that_is_cut_is_waited_for_the_next_time() {
        let deadline = Arc::new(Deadline::new().unwrap());
        let names = Names::new(Arc::clone(&deadline));
        let asked = || names.look_up(("127.0.0.1".to_owned(), 80));
        assert_eq!(asked().unwrap_err().kind(), io::ErrorKind::TimedOut, "no post has begun");
        let first = Arc::clone(&names.under_way.lock().unwrap().as_ref().unwrap().done);
        assert!(asked().is_err());
        let second = Arc::clone(&names.under_way.lock().unwrap().as_ref().unwrap().done);
        assert!(Arc::ptr_eq(&first, &second), "one lookup, however often it is asked for");
        deadline.begin(Duration::from_secs(60));
        assert_eq!(asked().unwrap(), [SocketAddr::from((Ipv4Addr::LOCALHOST, 80))]);
        assert!(names.under_way.lock().unwrap().is_none());
    }
}
