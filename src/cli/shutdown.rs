//! `rbee-hive shutdown`: ends a hive, with its workers or without.

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::flags::Flag;
use super::{CliError, Environment};

/// Which hive ends, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    keep_workers: bool,
    json: bool,
}

pub(super) const FLAGS: [Flag<Typed>; 4] = [KEEP_WORKERS, JSON_LINE, URL, TOKEN_FILE];

const JSON_LINE: Flag<Typed> = Flag { default: "a line", help: "Print the answer as JSON", ..JSON };

const KEEP_WORKERS: Flag<Typed> = Flag {
    name: "keep-workers",
    value: "",
    env: "",
    default: "they are stopped",
    repeatable: false,
    help: "Leave the workers serving; the next hive adopts them",
    set: |typed, _| {
        typed.keep_workers = true;
        Ok(())
    },
};

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, keep_workers: typed.keep_workers, json: typed.json })
}

impl Command {
    /// Asks for the end, and gives what is to be printed on stdout. The end itself is not waited for.
    ///
    /// # Errors
    /// If no hive answers, or it says no.
    pub fn run(&self) -> Result<String, CliError> {
        let answer = self.hive.ask(|client| client.shutdown(self.keep_workers))?;
        if self.json {
            return Ok(serde_json::to_string(&answer).expect("wire types are valid JSON") + "\n");
        }
        let what = if self.keep_workers { "kept" } else { "to stop" };
        Ok(format!(
            "{} (workers {what}: {})\n",
            answer.message.replace(char::is_control, "?"),
            answer.workers
        ))
    }
}
