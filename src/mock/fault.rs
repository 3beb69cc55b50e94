//! Ways in which a mock worker may break its protocol, by name. They combine.

use std::time::Duration;

use crate::{duration, limits};

/// Names and meanings, as `--help` shows them; values in capitals are durations unless it says otherwise.
pub const FAULTS: &[(&str, &str)] = &[
    ("ignore-term", "stays on SIGTERM"),
    ("ignore-shutdown", "answers POST /v1/shutdown with 200 and stays"),
    ("never-ready", "listens and never becomes ready"),
    ("crash-at-start[=CODE]", "exits at once with a code from 0 to 255, default 1"),
    ("crash-after=DUR", "dies by SIGABRT"),
    ("exit-after=DUR", "exits with 0, unasked"),
    ("silent", "sends no heartbeat after the first"),
    ("deaf", "accepts connections and never answers"),
    ("slow-exit=DUR", "takes its time to exit"),
    ("grandchild", "leaves a child in its group that stays on SIGTERM"),
    ("daemon", "leaves a child in a session of its own"),
    ("hold-port", "leaves a child in its group that holds the listening socket"),
    ("flood[=LINES]", "writes so many lines to its log before it is ready, default 150000"),
    ("unready-health", "answers GET /health with 500"),
    ("no-state", "says neither state nor slots"),
    ("never-busy", "says that all slots are free whatever it does"),
    ("wrong-id", "calls under another worker's name"),
    ("no-token", "calls without its token"),
    ("print-token", "writes its token to its log"),
    ("give-up", "exits with 1 when the hive does not answer 200"),
    ("open-shutdown", "takes POST /v1/shutdown from anyone"),
];

/// The faults of one worker; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// `ignore-term`
    pub ignore_term: bool,
    /// `ignore-shutdown`
    pub ignore_shutdown: bool,
    /// `never-ready`
    pub never_ready: bool,
    /// `crash-at-start`: the exit code.
    pub crash_at_start: Option<u8>,
    /// `crash-after`
    pub crash_after: Option<Duration>,
    /// `exit-after`
    pub exit_after: Option<Duration>,
    /// `silent`
    pub silent: bool,
    /// `deaf`
    pub deaf: bool,
    /// `slow-exit`
    pub slow_exit: Option<Duration>,
    /// `grandchild`
    pub grandchild: bool,
    /// `daemon`
    pub daemon: bool,
    /// `hold-port`
    pub hold_port: bool,
    /// `flood`: lines.
    pub flood: Option<u64>,
    /// `unready-health`
    pub unready_health: bool,
    /// `no-state`
    pub no_state: bool,
    /// `never-busy`
    pub never_busy: bool,
    /// `wrong-id`
    pub wrong_id: bool,
    /// `no-token`
    pub no_token: bool,
    /// `print-token`
    pub print_token: bool,
    /// `give-up`
    pub give_up: bool,
    /// `open-shutdown`
    pub open_shutdown: bool,
}

impl Faults {
    /// Adds the fault `NAME[=VALUE]`.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let wrong = || format!("fault {text:?} is unknown, or its value is wrong");
        let time = || value.and_then(duration::parse).ok_or_else(wrong);
        let number = |default: u64| value.map_or(Ok(default), |v| v.parse().map_err(|_| wrong()));
        match (name, value) {
            ("crash-at-start", _) => {
                self.crash_at_start = Some(number(1)?.try_into().map_err(|_| wrong())?);
            }
            ("crash-after", _) => self.crash_after = Some(time()?),
            ("exit-after", _) => self.exit_after = Some(time()?),
            ("slow-exit", _) => self.slow_exit = Some(time()?),
            ("flood", _) => self.flood = Some(number(limits::MOCK_FLOOD_LINES)?),
            ("ignore-term", None) => self.ignore_term = true,
            ("ignore-shutdown", None) => self.ignore_shutdown = true,
            ("never-ready", None) => self.never_ready = true,
            ("silent", None) => self.silent = true,
            ("deaf", None) => self.deaf = true,
            ("grandchild", None) => self.grandchild = true,
            ("daemon", None) => self.daemon = true,
            ("hold-port", None) => self.hold_port = true,
            ("unready-health", None) => self.unready_health = true,
            ("no-state", None) => self.no_state = true,
            ("never-busy", None) => self.never_busy = true,
            ("wrong-id", None) => self.wrong_id = true,
            ("no-token", None) => self.no_token = true,
            ("print-token", None) => self.print_token = true,
            ("give-up", None) => self.give_up = true,
            ("open-shutdown", None) => self.open_shutdown = true,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Adds the faults of a list that is separated by commas; empty entries are none.
    ///
    /// # Errors
    /// As [`Faults::add`], for the first that is wrong.
    pub fn add_list(&mut self, list: &str) -> Result<(), String> {
        list.split(',').map(str::trim).filter(|text| !text.is_empty()).try_for_each(|text| self.add(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_help_is_known() {
        for (usage, _) in FAULTS {
            let name = usage.split(['=', '[']).next().unwrap();
            let mut faults = Faults::default();
            let with_value = faults.add(&format!("{name}=2"));
            let alone = Faults::default().add(name);
            assert_eq!(with_value.is_ok(), usage.contains('='), "{usage}");
            assert_eq!(alone.is_ok(), !usage.contains('=') || usage.contains('['), "{usage}");
        }
    }

    #[test]
    fn faults_combine_and_mistakes_are_named() {
        let mut faults = Faults::default();
        faults.add_list("silent, crash-after=250ms,,crash-at-start").unwrap();
        let wanted = Faults {
            silent: true,
            crash_after: Some(Duration::from_millis(250)),
            crash_at_start: Some(1),
            ..Faults::default()
        };
        assert_eq!(faults, wanted);
        for wrong in ["loud", "silent=1", "crash-after", "crash-after=soon", "crash-at-start=256"] {
            assert!(faults.add(wrong).unwrap_err().contains(wrong));
        }
    }
}
