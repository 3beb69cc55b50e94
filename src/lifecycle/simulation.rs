//! Made-up incidents against the real fleet: a world of processes that answer late, twice or never, that
//! ignore signals, crash, and lose races, in time that costs nothing.
//!
//! A run is a list of [`Step`]s of four bytes each, so that a seed, a fuzzer and a shrinker can all make
//! one. After each step the invariants are checked; at the end the faults stop, and everything must come to
//! its end in bounded time.

use std::fmt;

use crate::id::Entropy;

#[cfg(test)]
mod order;
mod world;

#[cfg(test)]
pub(crate) use order::order;
use world::World;
#[cfg(test)]
pub(super) use world::ledger;

/// A seeded source of random numbers (SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// The source with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// One thing that happens: what, to which worker, and how, all taken modulo what there is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step(pub [u8; 4]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Spawn { probed: bool, key: Option<u8>, manners: u8, hint: u8 },
    Callback { who: u8, old_run: bool },
    Beat { who: u8, busy: Option<bool>, available: Option<u8> },
    Stop { who: u8, force: bool },
    Crash { who: u8, code: bool },
    Advance { ms: u64 },
    Sleep { secs: u64 },
    Stray { who: u8, what: u8 },
    Drain { drain: bool, stop_idle: bool },
    Cascade { force: bool },
    Restart { keep: bool },
}

impl Step {
    fn act(self) -> Act {
        let [op, who, how, more] = self.0;
        match op % 32 {
            0..=5 => Act::Spawn {
                probed: how & 1 == 1,
                key: (how & 6 == 6).then_some(more % 4),
                manners: who,
                hint: more,
            },
            6..=9 => Act::Callback { who, old_run: how.is_multiple_of(8) },
            10..=13 => Act::Beat {
                who,
                busy: (how & 1 == 1).then_some(how & 2 == 2),
                available: (how & 4 == 4).then_some(more % 3),
            },
            14..=15 => Act::Stop { who, force: how.is_multiple_of(4) },
            16..=18 => Act::Crash { who, code: how & 1 == 1 },
            19..=26 => Act::Advance { ms: 1 << (how % 14) },
            27 => Act::Sleep { secs: u64::from(more) + 2 },
            28..=30 => Act::Stray { who, what: how },
            _ if how.is_multiple_of(16) => Act::Cascade { force: more.is_multiple_of(2) },
            _ if how % 4 == 1 => Act::Restart { keep: more.is_multiple_of(2) },
            _ if how.is_multiple_of(4) => Act::Drain { drain: more & 1 == 1, stop_idle: more & 3 == 3 },
            _ => Act::Advance { ms: u64::from(more) * 100 },
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.0, self.act())
    }
}

/// Plays `steps`, then calms the world and waits for the end of everything.
///
/// # Errors
/// What was broken, for a person.
pub fn play(seed: u64, steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(seed);
    for step in steps {
        world.step(step.act())?;
    }
    world.calm_down()
}

/// The steps of a seed.
pub fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Seeded::new(seed);
    (0..count)
        .map(|_| Step(random.next_u64().to_le_bytes()[..4].try_into().expect("four of eight")))
        .collect()
}

/// The shortest list found that still fails, by leaving out ever smaller parts.
pub fn shrink(seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let mut part = steps.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at + part <= steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..at + part);
            if play(seed, &fewer).is_err() {
                steps = fewer;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RBEE_SIM_SEEDS` and `RBEE_SIM_STEPS` ask for more, `RBEE_SIM_FIRST` for others.
    fn wanted(name: &str, usual: u64) -> u64 {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    }

    fn run_seed(seed: u64, count: usize) {
        let all = steps(seed, count);
        let outcome = std::panic::catch_unwind(|| play(seed, &all));
        let message = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(message)) => message,
            Err(_) => panic!("seed {seed} panicked with {count} steps"),
        };
        let few = shrink(seed, all);
        let again = play(seed, &few).expect_err("a shrunk list fails like the whole");
        panic!("seed {seed}: {message}\nshortest: {again}\n{few:#?}");
    }

    #[test]
    fn ten_thousand_seeds_of_incidents_break_no_invariant_and_all_come_to_an_end() {
        let first = wanted("RBEE_SIM_FIRST", 0);
        let seeds = wanted("RBEE_SIM_SEEDS", 10_000);
        let count = wanted("RBEE_SIM_STEPS", 300) as usize;
        let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
        std::thread::scope(|scope| {
            for lane in 0..threads {
                scope.spawn(move || {
                    (first..first + seeds)
                        .skip(lane as usize)
                        .step_by(threads as usize)
                        .for_each(|seed| run_seed(seed, count))
                });
            }
        });
    }
}
