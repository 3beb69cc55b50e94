//! `rbee-hive logs`: what a worker wrote, and what it goes on to write.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGINT;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::pull::INTERRUPTED;
use super::{CliError, Environment, Output, Task, task, value};
use crate::client::{ClientError, HiveClient};
use crate::id::WorkerId;
use crate::limits::LOG_TAIL_LINES_MAX;
use crate::logging::is_hazard;

/// Whose log is to be shown, and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    /// The name, or its beginning.
    worker_id: WorkerId,
    tail: usize,
    follow: bool,
    previous: bool,
    json: bool,
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

const FLAGS: [Flag<Typed>; 6] = [
    Flag {
        name: "tail",
        value: "N",
        env: "",
        default: "100",
        repeatable: false,
        help: "The last so many lines",
        set: |typed, text| value::number(text, 0..=LOG_TAIL_LINES_MAX).map(|v| typed.tail = v),
    },
    FOLLOW,
    Flag::switch(
        "previous",
        "all runs",
        "Of the run before the last one: the one that crashed",
        |typed, _| {
            typed.previous = true;
            Ok(())
        },
    ),
    Flag { default: "the lines", help: "Print each line, with its end, as a JSON string", ..JSON },
    URL,
    TOKEN_FILE,
];

pub(super) const FOLLOW: Flag<Typed> = Flag::switch(
    "follow",
    "what is there",
    "Go on as the log grows, until the worker is gone",
    |typed, _| {
        typed.follow = true;
        Ok(())
    },
);

/// Reads `ID`, or its beginning.
pub(super) fn worker_id(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    let id = text.to_str().and_then(|text| text.parse().ok());
    typed.worker_ids.push(id.ok_or("is no worker's name")?);
    Ok(())
}

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let missing = || CliError::usage("ID is missing").with_hint("name a worker: rbee-hive logs ID --follow");
    let worker_id = typed.worker_ids.first().cloned().ok_or_else(missing)?;
    if typed.follow && typed.previous {
        return Err(CliError::usage("a run that is over cannot be followed: --previous or --follow"));
    }
    let (tail, follow, previous, json) = (typed.tail, typed.follow, typed.previous, typed.json);
    Ok(Command { hive: Hive::new(typed, env)?, worker_id, tail, follow, previous, json })
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
        // One that no living worker has may be of one that is gone.
        let found = self.hive.whole_ids(&client, std::slice::from_ref(&self.worker_id))?;
        let id = found.into_iter().flatten().next().unwrap_or_else(|| self.worker_id.clone());
        if self.follow {
            until_ctrl_c()?;
            self.follow(&client, &id, is_terminal, &mut out)?;
            return Ok(String::new().into());
        }
        let text =
            if self.previous { client.previous_logs(&id, self.tail) } else { client.logs(&id, self.tail) };
        let text = text.map_err(|error| self.hive.explain_worker(&error))?;
        let text: String = text.split_inclusive('\n').map(|line| self.shown(line, is_terminal)).collect();
        Ok(text.into())
    }
}

impl Command {
    fn shown<'a>(&self, line: &'a str, is_terminal: bool) -> Cow<'a, str> {
        if self.json {
            // With its end, which a piece of a long line lacks.
            return (serde_json::to_string(line).expect("a text is valid JSON") + "\n").into();
        }
        shown(line, is_terminal)
    }

    /// Writes each line as it comes.
    fn follow(
        &self,
        client: &HiveClient,
        id: &WorkerId,
        is_terminal: bool,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        let explained = |error: ClientError| self.hive.explain_worker(&error);
        for line in client.follow_logs(id, self.tail, None).map_err(explained)? {
            let (_, line) = line.map_err(explained)?;
            if !still_read(out, &self.shown(&line, is_terminal))? {
                break;
            }
        }
        Ok(())
    }
}

/// From now on Ctrl-C ends the process at once, with the exit code that says so.
pub(super) fn until_ctrl_c() -> Result<(), CliError> {
    let end = signal_hook::flag::register_conditional_shutdown(
        SIGINT,
        INTERRUPTED.into(),
        Arc::new(AtomicBool::new(true)),
    );
    end.map(drop).map_err(|error| CliError::runtime(format!("signals cannot be listened to: {error}")))
}

/// Writes to stdout at once, and tells whether somebody still reads it.
pub(super) fn still_read(out: &mut impl Write, text: &str) -> Result<bool, CliError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::runtime(format!("stdout cannot be written: {error}"))),
        Ok(()) => Ok(true),
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
