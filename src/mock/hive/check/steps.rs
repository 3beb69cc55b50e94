//! What is tried on a worker that serves, one function a check.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::limits;

use super::Verdict::{Fail, NotChecked, Note, Ok as Holds};
use super::ear::{Call, What};
use super::{Check, Over, ask, seconds};

impl Check<'_> {
    pub(super) fn health(&mut self) -> Result<(), Over> {
        match ask::health(self.worker()?.addr) {
            Ok(200) => self.report.say("health", Holds, "200"),
            Ok(status) => self.report.say("health", Fail, status.to_string()),
            Err(why) => self.report.say("health", Fail, why),
        }
        Ok(())
    }

    pub(super) fn heartbeats(&mut self) -> Result<(), Over> {
        let within = self.options.beat_within;
        let mut longest = Duration::ZERO;
        for n in 1..=3 {
            let since = Instant::now();
            let Some(call) = self.next(since + within, is_heartbeat)? else {
                let seen = format!("number {n} did not come within {}", seconds(within));
                self.report.say("heartbeat", Fail, seen);
                return Ok(());
            };
            longest = longest.max(call.at.saturating_duration_since(since));
        }
        self.report.say("heartbeat", Holds, format!("three, {} apart at most", seconds(longest)));
        Ok(())
    }

    pub(super) fn work(&mut self) -> Result<(), Over> {
        let Some((path, body)) = &self.options.work else {
            self.report.say("busy-seen", NotChecked, "no --work is given");
            return Ok(());
        };
        if self.heard.last.is_busy().is_none() {
            self.report.say("busy-seen", NotChecked, "its heartbeats say nothing of its work");
            return Ok(());
        }
        let addr = self.worker()?.addr;
        let slots = self.heard.slots_total.unwrap_or(1).min(limits::CHECK_WORKS_MAX.into());
        let asked: Result<Vec<_>, _> = (0..slots).map(|_| ask::work(addr, path, body)).collect();
        let asked = match asked {
            Ok(asked) => asked,
            Err(why) => {
                self.report.say("busy-seen", Fail, why);
                return Ok(());
            }
        };
        let since = Instant::now();
        let within = self.options.beat_within;
        let busy = self.next_said(since + within, true)?;
        let answers: Vec<_> =
            asked.into_iter().map(|asked| asked.status(since + limits::CHECK_WORK_WAIT)).collect();
        let took = since.elapsed();
        let free = self.next_said(Instant::now() + within, false)?;
        let wrong = answers.into_iter().find(|answer| !matches!(answer, Ok(200..=299)));
        let (verdict, seen) = match (wrong, busy, free) {
            (Some(Ok(status)), ..) => (Fail, format!("the work was answered with {status}")),
            (Some(Err(why)), ..) => (Fail, format!("the work: {why}")),
            (None, Some(busy), Some(_)) => {
                (Holds, format!("busy {} after {slots} requests, free after them", seconds(busy.at - since)))
            }
            (None, Some(_), None) => {
                (Fail, format!("busy, but not free again {} after the work", seconds(within)))
            }
            (None, None, _) if took >= within => {
                (Fail, format!("no heartbeat said so in {} of work", seconds(took)))
            }
            (None, None, _) => {
                let why = "a hive would not have known: send a heartbeat as soon as the last slot is taken";
                (Note, format!("the work was done in {} and no heartbeat said so: {why}", seconds(took)))
            }
        };
        self.report.say("busy-seen", verdict, seen);
        Ok(())
    }

    /// A heartbeat that says that it is busy, or that it is not.
    fn next_said(&mut self, deadline: Instant, busy: bool) -> Result<Option<Call>, Over> {
        while let Some(call) = self.next(deadline, is_heartbeat)? {
            if self.heard.last.is_busy() == Some(busy) {
                return Ok(Some(call));
            }
        }
        Ok(None)
    }

    pub(super) fn refuses(&mut self, check: &'static str, status: u16) -> Result<(), Over> {
        self.ear.answer_with(status);
        let deadline = Instant::now() + self.options.beat_within;
        let refused = self.next(deadline, |call| is_heartbeat(call) && call.status == status)?;
        self.ear.answer_with(200);
        match refused {
            Some(_) => self.comes_again(check, Instant::now()),
            None => self.say_silent(check),
        }
    }

    pub(super) fn cut(&mut self) -> Result<(), Over> {
        self.ear.go_away();
        let listener = self.ear.listener()?;
        let deadline = Instant::now() + self.options.beat_within;
        let called = self.worker()?.awaits_connection(&listener, deadline);
        if called {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(limits::EXCHANGE_TIMEOUT))?;
            // Whatever comes of it: it is cut after the first bytes.
            let _ = stream.read(&mut [0]);
        }
        drop(listener);
        let since = Instant::now();
        self.ear.come_back()?;
        if called { self.comes_again("hive-cut", since) } else { self.say_silent("hive-cut") }
    }

    pub(super) fn away(&mut self) -> Result<(), Over> {
        self.ear.go_away();
        let time = self.options.away;
        let gone = self.next(Instant::now() + time, |_| false);
        let since = Instant::now();
        self.ear.come_back()?;
        gone?;
        self.comes_again("hive-away", since)
    }

    /// Whether a heartbeat comes after `since`; one that came before and was not looked at yet is none.
    fn comes_again(&mut self, check: &'static str, since: Instant) -> Result<(), Over> {
        let is_next = |call: &Call| is_heartbeat(call) && call.status == 200 && call.at >= since;
        match self.next(since + self.options.beat_within, is_next)? {
            Some(call) => {
                let time = seconds(call.at.saturating_duration_since(since));
                self.report.say(check, Holds, format!("the next one came after {time}"));
            }
            None => self.say_silent(check)?,
        }
        Ok(())
    }

    fn say_silent(&mut self, check: &'static str) -> Result<(), Over> {
        let within = seconds(self.options.beat_within);
        self.report.say(check, Fail, format!("no heartbeat within {within}{}", self.last_words()));
        Ok(())
    }

    pub(super) fn shutdown(&mut self) -> Result<(), Over> {
        let worker = self.worker()?;
        let answer = ask::shutdown(worker.addr, Some(&worker.token));
        let left = self.leaves()?;
        let (verdict, seen) = match (answer, left) {
            (Ok(status @ 200..=299), Some(left)) => (Holds, format!("{status}, and {left}")),
            (Ok(status), Some(left)) => (Fail, format!("{status}, though {left}")),
            (Err(why), Some(left)) => (Note, format!("{left}, but {why}: a hive sends SIGTERM then")),
            (Ok(status), None) => (Fail, format!("{status}, and still there after {}", self.grace())),
            (Err(why), None) => (Fail, format!("{why}, and still there after {}", self.grace())),
        };
        self.report.say("shutdown", verdict, seen);
        Ok(())
    }

    pub(super) fn shutdown_guard(&mut self) -> Result<(), Over> {
        const OPEN: &str = "whoever reaches its port can end it";
        let (verdict, seen) = match ask::shutdown(self.worker()?.addr, None) {
            Ok(status @ (401 | 403)) => (Holds, status.to_string()),
            answer => match (self.leaves()?, answer) {
                (Some(left), _) => (Note, format!("{left}: {OPEN}")),
                (None, Ok(status)) => (Note, format!("{status}, and it stays")),
                (None, Err(why)) => (Note, format!("{why}, and it stays")),
            },
        };
        self.report.say("shutdown-guard", verdict, seen);
        Ok(())
    }

    pub(super) fn sigterm(&mut self) -> Result<(), Over> {
        self.worker()?.terminate();
        match self.leaves()? {
            Some(left) => self.report.say("sigterm", Holds, left),
            None => self.report.say("sigterm", Fail, format!("still there after {}", self.grace())),
        }
        Ok(())
    }
}

fn is_heartbeat(call: &Call) -> bool {
    call.what == What::Heartbeat
}
