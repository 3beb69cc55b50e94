//! `rbee-hive drain` and `rbee-hive undrain`: whether a hive takes new workers.

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::{CliError, Environment, Output, Task, json, task};

/// Which way.
#[derive(Debug)]
struct Command {
    hive: Hive,
    drain: bool,
    stop_idle: bool,
    json: bool,
}

pub(super) const DRAIN: Spec<Typed> = Spec {
    name: "drain",
    summary: "Take no new workers",
    about: "Have a hive refuse new workers, until `rbee-hive undrain`. Those that it has\nserve on.",
    notes: "",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env, true)),
};

pub(super) const UNDRAIN: Spec<Typed> = Spec {
    name: "undrain",
    summary: "Take new workers again",
    about: "Have a hive take new workers again after `rbee-hive drain`.",
    notes: "",
    words: None,
    flags: FLAGS.split_at(1).1,
    read: |typed, env| task(command(&typed, env, false)),
};

const FLAGS: [Flag<Typed>; 4] = [
    Flag::switch(
        "stop-idle",
        "they serve on",
        "Stop workers without a request, now and later",
        |typed, _| {
            typed.stop_idle = true;
            Ok(())
        },
    ),
    Flag { default: "a line", help: "Print the answer as JSON", ..JSON },
    URL,
    TOKEN_FILE,
];

fn command(typed: &Typed, env: Environment<'_>, drain: bool) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, drain, stop_idle: typed.stop_idle, json: typed.json })
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        let answer = self.hive.ask(|hive| match (self.drain, self.stop_idle) {
            (true, true) => hive.drain_idle(),
            (drain, _) => hive.drain(drain),
        })?;
        if self.json {
            return Ok(json(&answer));
        }
        let what = if answer.draining { "drained: it takes no new workers" } else { "it takes new workers" };
        Ok(format!("{what} (it has {})\n", answer.workers).into())
    }
}
