//! `rbee-hive shutdown`: ends a hive, with its workers or without.

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::{CliError, Environment, Output, Task, json, task};

/// Which hive ends, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    keep_workers: bool,
    json: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "shutdown",
    summary: "End a hive, with its workers or without",
    about: "End a hive. Its workers are stopped first, unless they are to be kept.",
    notes: "\
With --keep-workers they go on serving, and the next hive that is started on the
same data directory adopts them: that is how a hive is upgraded. If none is
within ten minutes (or --orphan-timeout, if that is longer), they are ended.
",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 4] = [KEEP_WORKERS, JSON_LINE, URL, TOKEN_FILE];

const JSON_LINE: Flag<Typed> = Flag { default: "a line", help: "Print the answer as JSON", ..JSON };

const KEEP_WORKERS: Flag<Typed> = Flag::switch(
    "keep-workers",
    "they are stopped",
    "Leave the workers serving; the next hive adopts them",
    |typed, _| {
        typed.keep_workers = true;
        Ok(())
    },
);

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, keep_workers: typed.keep_workers, json: typed.json })
}

impl Task for Command {
    /// Asks for the end, and gives what is to be printed on stdout. The end itself is not waited for.
    ///
    /// # Errors
    /// If no hive answers, or it says no.
    fn run(&self) -> Result<Output, CliError> {
        let answer = self.hive.ask(|client| client.shutdown(self.keep_workers))?;
        if self.json {
            return Ok(json(&answer));
        }
        let what = if self.keep_workers { "kept" } else { "to stop" };
        let message = answer.message.replace(char::is_control, "?");
        Ok(format!("{message} (workers {what}: {})\n", answer.workers).into())
    }
}
