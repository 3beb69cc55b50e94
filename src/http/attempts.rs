//! Wrong tokens, counted by where they come from: whoever shows too many is not listened to for a while.
//!
//! Only a wrong token counts. Without one nothing is guessed: a browser or a probe that has none is told 401 as often
//! as it asks. Callbacks of workers are counted apart, so that a worker that goes on with the token of a launch that is
//! over keeps nobody else on its machine from the hive.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits::{ATTEMPTS_BLOCK, ATTEMPTS_MAX, ATTEMPTS_SOURCES_MAX, ATTEMPTS_WINDOW};

/// Where a token came from, and what it was to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// An IPv4 address, or the first 64 bits of an IPv6 address: whoever has one of those has all of them.
    network: IpAddr,
    callbacks: bool,
}

impl Source {
    /// Of `address`, for a callback of a worker or for anything else.
    pub fn new(address: IpAddr, callbacks: bool) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            v4 @ IpAddr::V4(_) => v4,
        };
        Self { network, callbacks }
    }
}

/// Who has shown wrong tokens, and how many. Reads no clock: whoever asks brings the time.
///
/// Invariant: `ends` has the end of each source's window or block, and nothing else.
#[derive(Debug, Default)]
pub struct Attempts {
    sources: BTreeMap<Source, Failures>,
    ends: BTreeSet<(Instant, Source)>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// The end of the window, or of the block that [`ATTEMPTS_MAX`] of them lead to.
    end: Instant,
}

impl Attempts {
    /// For how long `source` is not listened to; `None`: it is.
    pub fn blocked_for(&self, source: Source, now: Instant) -> Option<Duration> {
        let failures = self.sources.get(&source).filter(|failures| failures.count >= ATTEMPTS_MAX)?;
        failures.end.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// `source` has shown a wrong token. Tells whether it is blocked by that, from now on.
    pub fn failed(&mut self, source: Source, now: Instant) -> bool {
        let before = self.sources.remove(&source);
        if let Some(before) = before {
            self.ends.remove(&(before.end, source));
        } else if self.sources.len() >= ATTEMPTS_SOURCES_MAX {
            // The one that would be forgotten soonest makes room.
            let first = self.ends.pop_first();
            first.map(|(_, source)| self.sources.remove(&source));
        }
        let failures = match before.filter(|before| before.end > now) {
            None => Failures { count: 1, end: now + ATTEMPTS_WINDOW },
            Some(Failures { count, end }) if count + 1 == ATTEMPTS_MAX => {
                Failures { count: ATTEMPTS_MAX, end: end.max(now + ATTEMPTS_BLOCK) }
            }
            // A block is not made longer by what was under way when it began.
            Some(Failures { count, end }) => {
                Failures { count: count.saturating_add(1).min(ATTEMPTS_MAX), end }
            }
        };
        self.sources.insert(source, failures);
        self.ends.insert((failures.end, source));
        failures.count == ATTEMPTS_MAX && before.is_none_or(|before| before.count < ATTEMPTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(address: &str) -> Source {
        Source::new(address.parse().unwrap(), false)
    }

    #[test]
    fn the_one_after_too_many_is_blocked_for_the_whole_time_and_then_free_again() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let (guesser, other) = (source("192.0.2.1"), source("192.0.2.2"));
        let last = start + ATTEMPTS_WINDOW - Duration::from_millis(1);
        for n in 1..ATTEMPTS_MAX {
            assert!(!attempts.failed(guesser, start), "{n}");
        }
        assert_eq!(attempts.blocked_for(guesser, last), None);
        assert!(attempts.failed(guesser, last), "told once");
        assert!(!attempts.failed(guesser, last), "what was under way");
        assert_eq!(attempts.blocked_for(guesser, last), Some(ATTEMPTS_BLOCK));
        assert_eq!(attempts.blocked_for(other, last), None);
        let after = last + ATTEMPTS_BLOCK;
        assert_eq!(attempts.blocked_for(guesser, after), None);
        assert!(!attempts.failed(guesser, after), "it begins anew");
        assert_eq!(attempts.blocked_for(guesser, after), None);
    }

    #[test]
    fn failures_that_are_far_apart_do_not_add_up() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for _ in 0..10 * ATTEMPTS_MAX {
            assert!(!attempts.failed(source("192.0.2.1"), now));
            now += ATTEMPTS_WINDOW / (ATTEMPTS_MAX - 1) + Duration::from_nanos(1);
        }
    }

    #[test]
    fn an_address_is_counted_as_what_one_machine_has() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8:1:2::3"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::3"), source("2001:db8:1:3::3"));
        let address = "192.0.2.1".parse().unwrap();
        assert_ne!(Source::new(address, true), Source::new(address, false));
    }

    #[test]
    fn whoever_has_many_addresses_takes_no_more_memory_and_frees_no_other_sooner_than_the_oldest() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let guesser = source("192.0.2.1");
        while !attempts.failed(guesser, now) {}
        for n in 0..4 * ATTEMPTS_SOURCES_MAX as u128 {
            let address = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (n << 64));
            attempts.failed(Source::new(address.into(), false), now + Duration::from_millis(1));
            assert!(attempts.sources.len() <= ATTEMPTS_SOURCES_MAX);
            assert_eq!(attempts.sources.len(), attempts.ends.len());
        }
        assert_eq!(attempts.blocked_for(guesser, now), None, "a block that ends first goes first");
    }

    proptest! {
        /// Beside a list of all that ever failed.
        #[test]
        fn who_is_blocked_has_failed_so_often_within_the_window_before(
            steps in prop::collection::vec((0..3_u8, 0..4000_u64, any::<bool>()), 1..400),
        ) {
            let (mut attempts, mut now) = (Attempts::default(), Instant::now());
            let mut told: Vec<(Source, Instant)> = Vec::new();
            let mut blocked: BTreeMap<Source, Instant> = BTreeMap::new();
            for (who, ms, asks) in steps {
                now += Duration::from_millis(ms);
                let who = Source::new(IpAddr::from([192, 0, 2, who]), false);
                let left = blocked.get(&who).and_then(|end| end.checked_duration_since(now));
                let left = left.filter(|left| !left.is_zero());
                prop_assert_eq!(attempts.blocked_for(who, now), left);
                if asks || left.is_some() {
                    continue;
                }
                told.push((who, now));
                let recent = |at: Instant| at + ATTEMPTS_WINDOW > now;
                let recently = told.iter().filter(|(source, at)| *source == who && recent(*at)).count();
                let blocks = attempts.failed(who, now);
                prop_assert!(!blocks || recently >= ATTEMPTS_MAX as usize, "{} in the window", recently);
                // A window begins with its first failure: two of them may share the failures of one.
                prop_assert!(blocks || recently < 2 * ATTEMPTS_MAX as usize, "{} in the window", recently);
                if blocks {
                    told.retain(|(source, _)| *source != who);
                    blocked.insert(who, now + ATTEMPTS_BLOCK);
                }
                prop_assert_eq!(attempts.sources.len(), attempts.ends.len());
            }
        }
    }
}
