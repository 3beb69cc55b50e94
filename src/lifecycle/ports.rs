//! Which port belongs to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Instant;

use crate::limits::PORT_AVOID;

/// A worker's right to a port. Not `Clone`: it moves along with the worker and is given back once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease that is dropped is a port lost"]
pub struct Lease(u16);

impl Lease {
    /// The port.
    pub fn port(&self) -> u16 {
        self.0
    }
}

/// The ports of `--worker-ports`.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    leased: BTreeSet<u16>,
    /// Ports on which somebody else was found, and until when they are left alone.
    avoided: BTreeMap<u16, Instant>,
    /// Where the next search begins, so that a port rests before it is given again.
    next: u16,
}

impl Ports {
    /// All of `range` is free.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let next = *range.start();
        Self { range, leased: BTreeSet::new(), avoided: BTreeMap::new(), next }
    }

    /// Leases `hint` if it is free, else the next port that is; `usable` may refuse one, which is then
    /// left alone for a while. `None` if there is no other.
    pub fn take(
        &mut self,
        hint: Option<u16>,
        now: Instant,
        usable: &mut dyn FnMut(u16) -> bool,
    ) -> Option<Lease> {
        self.avoided.retain(|_, until| *until > now);
        let (start, end) = (*self.range.start(), *self.range.end());
        let hinted = hint.filter(|port| self.range.contains(port));
        for port in hinted.into_iter().chain(self.next..=end).chain(start..self.next) {
            if self.leased.contains(&port) || self.avoided.contains_key(&port) {
                continue;
            }
            if !usable(port) {
                self.avoided.insert(port, now + PORT_AVOID);
                continue;
            }
            self.leased.insert(port);
            self.next = if port == end { start } else { port + 1 };
            return Some(Lease(port));
        }
        None
    }

    /// Leases the port of a worker that has it already, also one outside the range. `None` if another one has it.
    pub fn keep(&mut self, port: u16) -> Option<Lease> {
        self.leased.insert(port).then_some(Lease(port))
    }

    /// The group that had the port is dead.
    pub fn give_back(&mut self, Lease(port): Lease) {
        let was_leased = self.leased.remove(&port);
        debug_assert!(was_leased, "a lease exists once");
    }

    /// Somebody else listens on the port: it is given back, and left alone for a while.
    pub fn give_back_as_taken(&mut self, lease: Lease, now: Instant) {
        self.avoided.insert(lease.port(), now + PORT_AVOID);
        self.give_back(lease);
    }

    /// How many are leased.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(_: u16) -> bool {
        true
    }

    #[test]
    fn each_port_is_given_once_and_rests_before_it_is_given_again() {
        let now = Instant::now();
        let mut ports = Ports::new(10..=12);
        let a = ports.take(None, now, &mut any).unwrap();
        let b = ports.take(Some(12), now, &mut any).unwrap();
        assert_eq!((a.port(), b.port()), (10, 12));
        ports.give_back(a);
        let c = ports.take(None, now, &mut any).unwrap();
        let d = ports.take(None, now, &mut any).unwrap();
        assert_eq!((c.port(), d.port()), (10, 11));
        assert_eq!(ports.take(None, now, &mut any), None);
    }

    #[test]
    fn a_port_of_somebody_else_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut ports = Ports::new(10..=11);
        let lease = ports.take(None, now, &mut |port| port != 10).unwrap();
        assert_eq!(lease.port(), 11);
        assert_eq!(ports.take(None, now, &mut any), None);
        assert_eq!(ports.take(None, now + PORT_AVOID, &mut any).unwrap().port(), 10);
    }

    #[test]
    fn a_port_that_is_kept_is_given_to_nobody_else() {
        let now = Instant::now();
        let mut ports = Ports::new(10..=11);
        let (inside, outside) = (ports.keep(10).unwrap(), ports.keep(80).unwrap());
        assert_eq!(ports.keep(10), None);
        let other = ports.take(None, now, &mut any).unwrap();
        assert_eq!((other.port(), ports.take(None, now, &mut any)), (11, None));
        ports.give_back(inside);
        ports.give_back(outside);
        assert_eq!((ports.leased(), ports.take(Some(80), now, &mut any).unwrap().port()), (1, 10));
    }

    #[test]
    fn a_hint_outside_the_range_is_no_hint() {
        let mut ports = Ports::new(10..=11);
        assert_eq!(ports.take(Some(80), Instant::now(), &mut any).unwrap().port(), 10);
    }

    #[test]
    fn the_highest_port_of_all_does_not_overflow() {
        let mut ports = Ports::new(u16::MAX..=u16::MAX);
        let lease = ports.take(None, Instant::now(), &mut any).unwrap();
        ports.give_back(lease);
        assert!(ports.take(None, Instant::now(), &mut any).is_some());
    }
}
