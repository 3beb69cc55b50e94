//! How many connections share a file: one first, then twice as many for as long as that brings clearly more. Pure:
//! the time and what was measured are arguments.
//!
//! ```text
//!  connecting ─────▶ measuring ─────▶ resting      all lines bring bytes, or RAMP_CONNECT_MAX has passed;
//!      ▲               │  ▲ │            │         then for one look it is measured how much
//!      │   twice       │  └─┘            │
//!      └───────────────┘  ▲ same again   │         not clearly more than with half as many: back to those,
//!                         └──────────────┘         and only after a rest it is tried again
//! ```
//! Same again: where this machine's own work is the bound, where too little is left, and where there are as many
//! as there may be.

use std::time::{Duration, Instant};

use crate::limits::{
    PIECE_BYTES, RAMP_CONNECT_MAX, RAMP_CORE_PERCENT_MAX, RAMP_GAIN_PERCENT, RAMP_LOOK, RAMP_LOOK_MAX,
    RAMP_MACHINE_PERCENT_MAX, RAMP_REST_LOOKS, TRANSFER_CONNECTIONS_MAX,
};

/// What there is to know of a transfer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Bytes that came since it began.
    pub came: u64,
    /// Bytes that are missing.
    pub left: u64,
    /// Lines that brought bytes.
    pub flowing: usize,
    /// What the processor worked for it since it began: reading, writing and hashing.
    pub worked: Duration,
}

/// The number of connections.
#[derive(Debug)]
pub struct Ramp {
    lines: usize,
    max: usize,
    /// Of a core; with more at work there are connections enough.
    busy_percent_max: u64,
    look: Duration,
    phase: Phase,
    /// What `lines` must beat.
    before: Option<Before>,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    lines: usize,
    bytes_per_s: f64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Connecting { until: Instant },
    Measuring { since: Instant, came: u64, worked: Duration },
    Resting { until: Instant },
}

impl Ramp {
    /// So many connections, which are being made, on a machine with so many cores.
    pub fn new(now: Instant, lines: usize, cores: usize) -> Self {
        Self {
            lines,
            max: TRANSFER_CONNECTIONS_MAX,
            busy_percent_max: RAMP_CORE_PERCENT_MAX.min(RAMP_MACHINE_PERCENT_MAX * cores as u64),
            look: RAMP_LOOK,
            phase: Phase::Connecting { until: now + RAMP_CONNECT_MAX },
            before: None,
        }
    }

    /// How many there should be.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// When it is worth a look, if no line begins to flow before.
    pub fn due(&self) -> Instant {
        match self.phase {
            Phase::Connecting { until } | Phase::Resting { until } => until,
            Phase::Measuring { since, .. } => since + self.look,
        }
    }

    /// There may be at most `max` from now on: the server takes no more.
    pub fn limit(&mut self, max: usize) {
        self.max = self.max.min(max.max(1));
        if self.lines > self.max {
            self.lines = self.max;
            self.before = None;
        }
    }

    /// All connections were lost: begins with one, as many as there may be.
    pub fn restart(&mut self, now: Instant) {
        self.lines = 1;
        self.before = None;
        self.phase = Phase::Connecting { until: now + RAMP_CONNECT_MAX };
    }

    /// Looks at what the connections bring.
    pub fn look(&mut self, now: Instant, seen: &Seen) {
        match self.phase {
            Phase::Connecting { until } => {
                if seen.flowing >= self.lines || (now >= until && seen.flowing > 0) {
                    self.measure(now, seen);
                } else if now >= until {
                    self.phase = Phase::Connecting { until: now + RAMP_CONNECT_MAX };
                }
            }
            Phase::Resting { until } if now >= until => self.measure(now, seen),
            Phase::Measuring { since, came, worked } if now >= since + self.look => {
                let seconds = now.duration_since(since).as_secs_f64();
                let bytes_per_s = (seen.came - came) as f64 / seconds;
                let busy = seen.worked.saturating_sub(worked).as_secs_f64() / seconds;
                self.decide(now, seen, bytes_per_s, busy);
            }
            Phase::Resting { .. } | Phase::Measuring { .. } => {}
        }
    }

    fn decide(&mut self, now: Instant, seen: &Seen, bytes_per_s: f64, busy: f64) {
        if let Some(before) = self.before.take()
            && bytes_per_s * 100.0 < before.bytes_per_s * RAMP_GAIN_PERCENT as f64
        {
            self.lines = before.lines;
            self.phase = Phase::Resting { until: now + self.look * RAMP_REST_LOOKS };
            self.look = (self.look * 2).min(RAMP_LOOK_MAX);
            return;
        }
        let more = (self.lines * 2).min(self.max);
        let ours = busy * 100.0 > self.busy_percent_max as f64;
        if more == self.lines || ours || seen.left < more as u64 * PIECE_BYTES {
            return self.measure(now, seen);
        }
        self.before = Some(Before { lines: self.lines, bytes_per_s });
        self.lines = more;
        self.phase = Phase::Connecting { until: now + RAMP_CONNECT_MAX };
    }

    fn measure(&mut self, now: Instant, seen: &Seen) {
        self.phase = Phase::Measuring { since: now, came: seen.came, worked: seen.worked };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;
    const GIB: u64 = 1 << 30;
    const STEP: Duration = Duration::from_millis(1);

    /// As measured with SHA-NI: a core moves and hashes about a GB in a second.
    const WORK_S: f64 = 1e-9;

    /// A network in made-up time: what a line may bring, what all may bring together, how long a line takes to
    /// connect; and the machine at its end.
    struct Net {
        line: f64,
        all: f64,
        connect: Duration,
        cores: usize,
    }

    struct Outcome {
        seconds: f64,
        most: usize,
        last: usize,
    }

    impl Net {
        fn fetch(&self, bytes: u64) -> Outcome {
            let began = Instant::now();
            let (mut now, mut came) = (began, 0.0);
            let mut ramp = Ramp::new(now, 1, self.cores);
            let mut lines: Vec<Instant> = Vec::new();
            let mut most = 0;
            while came < bytes as f64 {
                lines.resize(ramp.lines(), now + self.connect);
                let flowing = lines.iter().filter(|from| **from <= now).count();
                came += (self.line * flowing as f64).min(self.all) * STEP.as_secs_f64();
                now += STEP;
                ramp.look(
                    now,
                    &Seen {
                        came: came as u64,
                        left: bytes.saturating_sub(came as u64),
                        flowing,
                        worked: Duration::from_secs_f64(came * WORK_S),
                    },
                );
                assert!(ramp.due() > now - STEP, "it is never overdue");
                most = most.max(ramp.lines());
            }
            Outcome { seconds: now.duration_since(began).as_secs_f64(), most, last: ramp.lines() }
        }
    }

    #[test]
    fn capped_connections_become_eight_at_once() {
        let net = Net { line: 20.0 * MB, all: 1e12, connect: Duration::from_millis(2), cores: 2 };
        let outcome = net.fetch(GIB);
        assert_eq!(outcome.last, TRANSFER_CONNECTIONS_MAX);
        let ideal = GIB as f64 / (8.0 * 20.0 * MB);
        assert!(outcome.seconds < 1.04 * ideal, "{} of {ideal}", outcome.seconds);
    }

    #[test]
    fn a_machine_of_many_cores_has_time_for_eight_fast_connections() {
        let net = |cores| Net { line: 80.0 * MB, all: 1e12, connect: Duration::ZERO, cores };
        assert_eq!(net(16).fetch(4 * GIB).last, TRANSFER_CONNECTIONS_MAX);
        assert!(net(1).fetch(4 * GIB).last < TRANSFER_CONNECTIONS_MAX);
    }

    #[test]
    fn a_fast_link_keeps_one_connection() {
        let net = Net { line: 900.0 * MB, all: 900.0 * MB, connect: Duration::ZERO, cores: 2 };
        assert_eq!(net.fetch(8 * GIB).most, 1);
        let others_work_too = Net { line: 400.0 * MB, all: 400.0 * MB, ..net };
        assert_eq!(others_work_too.fetch(8 * GIB).most, 1);
    }

    #[test]
    fn a_link_that_one_connection_fills_goes_back_to_it_and_rarely_tries_again() {
        let net = Net { line: 100.0 * MB, all: 100.0 * MB, connect: Duration::from_millis(50), cores: 2 };
        let outcome = net.fetch(4 * GIB);
        assert_eq!((outcome.most, outcome.last), (2, 1));
    }

    #[test]
    fn connections_are_as_many_as_fill_the_link() {
        let net = Net { line: 10.0 * MB, all: 35.0 * MB, connect: Duration::from_millis(100), cores: 2 };
        let outcome = net.fetch(GIB);
        assert_eq!((outcome.most, outcome.last), (8, 4));
    }

    #[test]
    fn a_file_of_few_pieces_gets_no_more_connections_than_pieces() {
        let net = Net { line: MB, all: 1e12, connect: Duration::ZERO, cores: 2 };
        assert_eq!(net.fetch(3 * PIECE_BYTES).most, 2);
        assert_eq!(net.fetch(PIECE_BYTES).most, 1);
    }

    #[test]
    fn a_limit_stays_when_it_begins_anew() {
        let now = Instant::now();
        let mut ramp = Ramp::new(now, 1, 2);
        ramp.limit(0);
        ramp.restart(now);
        let seen = |came| Seen { came, left: GIB, flowing: 1, worked: Duration::ZERO };
        ramp.look(now, &seen(1));
        ramp.look(now + RAMP_LOOK, &seen(1 << 20));
        assert_eq!(ramp.lines(), 1);
    }

    #[test]
    fn silence_is_no_reason_for_more_connections() {
        let mut now = Instant::now();
        let mut ramp = Ramp::new(now, 1, 2);
        for _ in 0..100 {
            now += RAMP_CONNECT_MAX;
            ramp.look(now, &Seen { left: GIB, ..Seen::default() });
        }
        assert_eq!(ramp.lines(), 1);
    }
}
