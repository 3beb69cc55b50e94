//! `rbee-hive logs`: what a worker wrote, and what it goes on to write.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGINT;

use super::client::{Hive, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::{CliError, Environment, Output, Task, task, value};
use crate::client::{ClientError, HiveClient};
use crate::id::WorkerId;
use crate::limits::{FOLLOW_RETURN_FIRST, FOLLOW_RETURNS, LOG_TAIL_LINES_MAX};
use crate::logging::is_hazard;

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Whose log is to be shown, and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    /// The name, or its beginning.
    worker_id: WorkerId,
    tail: usize,
    follow: bool,
    previous: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "logs",
    summary: "Show what a worker wrote",
    about: "Show what a worker wrote, also for a while after its end.",
    notes: "\
ID is a worker's name, or a beginning that only one has. Following ends with the
worker; Ctrl-C ends it with exit code 130. A line of more than 64 KiB is then
shown in pieces.
On a terminal control characters are shown as escapes; into a pipe go the lines
as they are.
",
    words: Some(Words { name: "ID", most: 1, set: worker_id }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 5] = [
    Flag {
        name: "tail",
        value: "N",
        env: "",
        default: "100",
        repeatable: false,
        help: "The last so many lines",
        set: |typed, text| value::number(text, 0..=LOG_TAIL_LINES_MAX).map(|v| typed.tail = v),
    },
    Flag {
        name: "follow",
        value: "",
        env: "",
        default: "what is there",
        repeatable: false,
        help: "Go on as the log grows, until the worker is gone",
        set: |typed, _| {
            typed.follow = true;
            Ok(())
        },
    },
    Flag {
        name: "previous",
        value: "",
        env: "",
        default: "all runs",
        repeatable: false,
        help: "Of the run before the last one: the one that crashed",
        set: |typed, _| {
            typed.previous = true;
            Ok(())
        },
    },
    URL,
    TOKEN_FILE,
];

/// Reads `ID`, or its beginning.
pub(super) fn worker_id(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    let id = text.to_str().and_then(|text| text.parse().ok());
    typed.worker_id = Some(id.ok_or("is no worker's name")?);
    Ok(())
}

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let missing = || CliError::usage("ID is missing").with_hint("name a worker: rbee-hive logs ID --follow");
    let worker_id = typed.worker_id.clone().ok_or_else(missing)?;
    if typed.follow && typed.previous {
        return Err(CliError::usage("a run that is over cannot be followed: --previous or --follow"));
    }
    let (tail, follow, previous) = (typed.tail, typed.follow, typed.previous);
    Ok(Command { hive: Hive::new(typed, env)?, worker_id, tail, follow, previous })
}

impl Task for Command {
    /// Shows it, and gives what is still to be printed on stdout. Ctrl-C ends the process.
    ///
    /// # Errors
    /// If no hive answers, it says no, or the stream breaks again and again.
    fn run(&self) -> Result<Output, CliError> {
        let mut out = io::stdout();
        let is_terminal = out.is_terminal();
        let client = self.hive.client()?;
        let id = self.whole_id(&client)?;
        if self.follow {
            signal_hook::flag::register_conditional_shutdown(
                SIGINT,
                INTERRUPTED,
                Arc::new(AtomicBool::new(true)),
            )
            .map_err(|error| CliError::runtime(format!("signals cannot be listened to: {error}")))?;
            self.follow(&client, &id, is_terminal, &mut out)?;
            return Ok(String::new().into());
        }
        let text =
            if self.previous { client.previous_logs(&id, self.tail) } else { client.logs(&id, self.tail) };
        let text = text.map_err(|error| self.explain(&error))?;
        let text: String = text.split_inclusive('\n').map(|line| shown(line, is_terminal)).collect();
        Ok(text.into())
    }
}

impl Command {
    /// The name that begins as what was typed. One that no living worker has may be of one that is gone.
    fn whole_id(&self, client: &HiveClient) -> Result<WorkerId, CliError> {
        let typed = &self.worker_id;
        let workers = client.workers().map_err(|error| self.hive.explain(&error))?;
        let names = workers.into_iter().map(|worker| worker.worker_id);
        let mut fitting = names.filter(|name| name.as_str().starts_with(typed.as_str())).peekable();
        match (fitting.next(), fitting.peek()) {
            (Some(one), None) => Ok(one),
            (Some(one), Some(another)) if one != *typed => {
                let error =
                    CliError::usage(format!("ID: {typed} is the beginning of several workers' names"));
                Err(error.with_hint(format!("write more of it: {one}, {another}")))
            }
            _ => Ok(typed.clone()),
        }
    }

    /// Writes each line as it comes. Comes back to a stream that breaks, after the last line that came.
    fn follow(
        &self,
        client: &HiveClient,
        id: &WorkerId,
        is_terminal: bool,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        let (mut last, mut broken, mut wait) = (None, 0, FOLLOW_RETURN_FIRST);
        let mut has_begun = false;
        loop {
            let error = match client.follow_logs(id, self.tail, last) {
                Err(error) => error,
                Ok(lines) => {
                    has_begun = true;
                    let mut failed = None;
                    for line in lines.once() {
                        let (place, line) = match line {
                            Ok(line) => line,
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        };
                        match out.write_all(shown(&line, is_terminal).as_bytes()).and_then(|()| out.flush()) {
                            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                            Err(error) => {
                                return Err(CliError::runtime(format!("stdout cannot be written: {error}")));
                            }
                            Ok(()) => {}
                        }
                        last = place.or(last);
                        (broken, wait) = (0, FOLLOW_RETURN_FIRST);
                    }
                    let Some(error) = failed else { return Ok(()) };
                    error
                }
            };
            let is_final = matches!(&error, ClientError::Refused { status, .. } if *status < 500);
            broken += 1;
            if is_final || !has_begun || broken > FOLLOW_RETURNS {
                return Err(self.explain(&error));
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
    }

    fn explain(&self, error: &ClientError) -> CliError {
        match error {
            ClientError::Refused { status: 404, error: Some(error) } => {
                CliError::runtime(error.message.replace(char::is_control, "?"))
            }
            _ => self.hive.explain(error),
        }
    }
}

/// A line as a terminal may have it: nothing in it moves the cursor, sets colours or asks the terminal anything.
/// What is no terminal gets it as it is.
fn shown(line: &str, is_terminal: bool) -> Cow<'_, str> {
    let is_hazard = |c: char| is_hazard(c) && c != '\t' && c != '\n';
    if !is_terminal || !line.contains(is_hazard) {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_hazard(c) { text.extend(c.escape_default()) } else { text.push(c) }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_does_not_own_the_terminal() {
        let line = "\u{1b}]0;title\u{7}\tzwölf\u{9b}2J\r\u{202e}\n";
        assert_eq!(shown(line, true), "\\u{1b}]0;title\\u{7}\tzwölf\\u{9b}2J\\r\\u{202e}\n");
        assert_eq!(shown(line, false), line);
    }
}
