//! `rbee-hive stop`: ends workers.

use std::collections::BTreeSet;

use serde_json::json;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::{CliError, Environment, Output, Task, logs, task};
use crate::client::{ClientError, Code};
use crate::id::WorkerId;
use crate::limits::STOP_WAIT;

/// Which, and how.
#[derive(Debug)]
struct Command {
    hive: Hive,
    /// Names, or their beginnings.
    worker_ids: Vec<WorkerId>,
    force: bool,
    no_wait: bool,
    json: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "stop",
    summary: "End workers",
    about: "End workers, and wait until they are gone.",
    notes: "\
ID is a worker's name, or a beginning that only one has. A worker gets the time
that `serve --shutdown-timeout` says to end by itself, then SIGKILL. Ctrl-C ends
the waiting, not the stop.
",
    words: Some(Words { name: "ID", most: STOPS_MAX, set: logs::worker_id }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

/// Workers that one command line can end.
const STOPS_MAX: usize = 1024;

const LIST: &str = "`rbee-hive ps` lists the workers";

const FLAGS: [Flag<Typed>; 5] = [
    Flag::switch("force", "they may end by themselves", "Kill them at once", |typed, _| {
        typed.force = true;
        Ok(())
    }),
    Flag::switch("no-wait", "it waits for their end", "Return as soon as the hive knows", |typed, _| {
        typed.no_wait = true;
        Ok(())
    }),
    Flag { default: "their names", help: "Print their names as JSON", ..JSON },
    URL,
    TOKEN_FILE,
];

fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    if typed.worker_ids.is_empty() {
        return Err(CliError::usage("ID is missing").with_hint(LIST));
    }
    let (force, no_wait, json) = (typed.force, typed.no_wait, typed.json);
    Ok(Command { hive: Hive::new(typed, env)?, worker_ids: typed.worker_ids.clone(), force, no_wait, json })
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        let client = self.hive.client()?;
        // All are found before the first is stopped: a slip stops nobody.
        let found = self.hive.whole_ids(&client, &self.worker_ids)?;
        let none = |typed| CliError::runtime(format!("there is no worker {typed}")).with_hint(LIST);
        let ids = self.worker_ids.iter().zip(found).map(|(typed, found)| found.ok_or_else(|| none(typed)));
        let ids = ids.collect::<Result<BTreeSet<_>, _>>()?;
        for id in &ids {
            match client.stop(id, self.force) {
                // It was there a moment ago, and has ended by itself.
                Err(error) if error.code() == Some(Code::WorkerNotFound) => {}
                stopped => stopped.map_err(|error| self.hive.explain_worker(&error))?,
            }
        }
        if !self.no_wait {
            for id in &ids {
                client.wait_gone(id, STOP_WAIT).map_err(|error| self.late(id, &error))?;
            }
        }
        if self.json {
            return Ok((json!({ "stopped": ids }).to_string() + "\n").into());
        }
        Ok(ids.iter().map(|id| format!("{id}\n")).collect::<String>().into())
    }
}

impl Command {
    fn late(&self, id: &WorkerId, error: &ClientError) -> CliError {
        match error {
            ClientError::TimedOut => {
                let message = format!("{id} is not gone after {} s", STOP_WAIT.as_secs());
                CliError::runtime(message).with_hint("--force kills it at once")
            }
            error => self.hive.explain_worker(error),
        }
    }
}
