//! `rbee-hive spawn`: starts a worker, and waits for it if that is wanted.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use super::capacity::{self, CTX, DEVICE, KIND, PARALLEL};
use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL, model};
use super::command::{Flag, Spec, Words};
use super::pull::{self, INTERRUPTED, show::Show};
use super::{CliError, Environment, Output, Task, json, ps, task, value};
use crate::api::{SpawnRequest, State, Worker};
use crate::client::{ClientError, Event};
use crate::limits::SPAWN_WAITS;
use crate::logging::is_hazard;

/// What is to be started, and how that is shown.
#[derive(Debug)]
struct Command {
    hive: Hive,
    request: SpawnRequest,
    wait: bool,
    timeout: Duration,
    json: bool,
    /// `TERM` says that lines cannot be drawn again.
    is_dumb: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "spawn",
    summary: "Start a worker",
    about: "Start a worker for a model, and print its name.",
    notes: "\
MODEL is hf:org/repo, hf:org/repo:QUANT or file:/path; what is not in the cache
is fetched first.
With --wait what the worker does goes to stderr until it is ready; if it does
not get there, the reason and the last lines of its log, and the exit code is 1.
Ctrl-C ends the waiting alone: the worker goes on starting.
",
    words: Some(Words { name: "MODEL", most: 1, set: capacity::model }),
    flags: &FLAGS,
    read: |typed, env| task(command(typed, env)),
};

const FLAGS: [Flag<Typed>; 15] = [
    Flag::switch("wait", "it returns at once", "Wait until the worker is ready", |typed, _| {
        typed.wait = true;
        Ok(())
    }),
    Flag {
        name: "timeout",
        value: "DUR",
        env: "",
        default: "as long as the hive gives it",
        repeatable: false,
        help: "Wait at most so long",
        set: |typed, text| value::duration(text, &SPAWN_WAITS).map(|v| typed.timeout = v),
    },
    Flag {
        help: "Where: cpu, gpu0, gpu0:1, or gpu0,gpu1 to split it",
        default: "where it fits best",
        ..DEVICE
    },
    Flag { help: "How to launch it", default: "what the model takes", ..KIND },
    CTX,
    PARALLEL,
    Flag {
        name: "memory",
        value: "SIZE",
        env: "",
        default: "as estimated",
        repeatable: false,
        help: "What it takes, such as 6GiB, in place of the estimate",
        set: |typed, text| value::size(text).map(|v| typed.spawn.memory_bytes = Some(v)),
    },
    Flag::switch(
        "make-room",
        "nobody is stopped for it",
        "Stop idle workers if that lets it fit",
        |typed, _| {
            typed.spawn.make_room = true;
            Ok(())
        },
    ),
    Flag::switch("pinned", "it may be stopped", "Never stop it to make room for another", |typed, _| {
        typed.spawn.pinned = true;
        Ok(())
    }),
    Flag {
        name: "port",
        value: "PORT",
        env: "",
        default: "the first free one",
        repeatable: false,
        help: "The port to take if it is free",
        set: |typed, text| value::number(text, 1..=u16::MAX).map(|v| typed.spawn.port_hint = Some(v)),
    },
    Flag {
        name: "env",
        value: "NAME=VALUE",
        env: "",
        default: "none",
        repeatable: true,
        help: "A variable for it, if the kind allows that; repeatable",
        set: variable,
    },
    Flag {
        name: "arg",
        value: "ARG",
        env: "",
        default: "none",
        repeatable: true,
        help: "A further argument (--arg=--threads --arg=8); repeatable",
        set: |typed, text| {
            let arg = text.to_str().ok_or("is no text")?.to_owned();
            typed.spawn.extra_args.get_or_insert_default().push(arg);
            Ok(())
        },
    },
    Flag { default: "its name", help: "Print the answer, or the worker, as JSON", ..JSON },
    URL,
    TOKEN_FILE,
];

fn variable(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    let (name, value) = text.to_str().and_then(|text| text.split_once('=')).ok_or("must be NAME=VALUE")?;
    typed.spawn.env.get_or_insert_default().insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn command(typed: Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let model_ref = model(&typed, "rbee-hive spawn hf:org/repo:Q4_K_M --wait")?;
    let hive = Hive::new(&typed, env)?;
    let query = typed.query;
    let request = SpawnRequest {
        model_ref,
        device: query.device,
        kind: query.kind,
        ctx: query.ctx,
        parallel: query.parallel,
        ..typed.spawn
    };
    let is_dumb = env("TERM").is_none_or(|term| term == "dumb");
    Ok(Command { hive, request, wait: typed.wait, timeout: typed.timeout, json: typed.json, is_dumb })
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        let begun = Instant::now();
        let spawned = self.hive.ask(|hive| hive.spawn(&self.request))?;
        let id = &spawned.worker_id;
        if !self.wait {
            let _ = writeln!(
                io::stderr(),
                "{id} is {}, and will serve at {}",
                spawned.state.as_str(),
                spawned.url.replace(is_hazard, "?")
            );
            return Ok(if self.json { json(&spawned) } else { format!("{id}\n").into() });
        }
        leave_alone(format!("{id} goes on starting; `rbee-hive stop {id}` ends it"))
            .map_err(|error| CliError::runtime(format!("signals cannot be listened to: {error}")))?;
        let client = self.hive.client()?;
        let (mut nowhere, mut err) = (io::sink(), io::stderr());
        let mut show = Show::new(&mut nowhere, &mut err, pull::look(false, self.is_dumb));
        let mut last = String::new();
        let waited = client.wait_ready_with(id, self.timeout, |event| match event {
            Event::Download(download) => show.on_event(&download.progress, Instant::now()),
            Event::Worker(worker) => {
                let line = doing(worker).unwrap_or_else(|| last.clone());
                if line != last {
                    show.clear();
                    let _ = writeln!(io::stderr(), "{:>7.1} s  {line}", begun.elapsed().as_secs_f64());
                    last = line;
                }
            }
            Event::Picture | Event::Hive(_) => {}
        });
        show.clear();
        match waited {
            Ok(worker) if self.json => Ok(json(&worker)),
            Ok(worker) => {
                let _ = writeln!(io::stderr(), "{id} serves at {}", worker.url.replace(is_hazard, "?"));
                Ok(format!("{id}\n").into())
            }
            Err(ClientError::NotReady(worker)) => Err(failure(&worker)),
            Err(error) => Err(self.hive.explain_worker(&error)),
        }
    }
}

/// What a worker does, in a line. Nothing while it is not yet found out why it crashed.
fn doing(worker: &Worker) -> Option<String> {
    let (state, _) = ps::state(worker);
    let line = match (state, worker.restart_count) {
        ("backoff", _) => format!("crashed: {}", worker.exit.as_ref()?.message.as_ref()?),
        // Its reason is what the command ends with.
        ("stopping" | "gone", _) => state.to_owned(),
        (_, 0) => format!("{state} on {}", worker.device),
        (_, restart) => format!("{state} on {}, restart {restart}", worker.device),
    };
    Some(line.replace(is_hazard, "?"))
}

/// Why it is not ready, after the last lines of its log.
fn failure(worker: &Worker) -> CliError {
    let id = &worker.worker_id;
    let plain = |text: &str| text.replace(is_hazard, "?");
    let Some(exit) = worker.exit.as_ref().filter(|_| worker.state == State::Gone) else {
        let (state, _) = ps::state(worker);
        return CliError::runtime(format!("{id} is not ready in time: it is {state}"))
            .with_hint(format!("`rbee-hive logs {id}` shows what it does, `rbee-hive stop {id}` ends it"));
    };
    for line in &exit.log {
        let _ = writeln!(io::stderr(), "  | {}", plain(line));
    }
    let why = match (&exit.message, exit.code, &exit.signal) {
        (Some(message), _, _) => plain(message),
        (None, Some(code), _) => format!("{}, exit code {code}", plain(&exit.reason)),
        (None, None, Some(signal)) => format!("{}, {}", plain(&exit.reason), plain(signal)),
        (None, None, None) => plain(&exit.reason),
    };
    CliError::runtime(format!("{id} did not become ready: {why}"))
        .with_hint(format!("`rbee-hive logs {id}` shows all that it wrote"))
}

/// Has Ctrl-C end this process, and say what goes on without it.
fn leave_alone(what: String) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            let _ = writeln!(io::stderr(), "\n{what}");
            std::process::exit(INTERRUPTED.into());
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::worker;
    use super::*;
    use crate::api::{Exit, Phase};

    #[test]
    fn a_failure_says_what_a_person_understands() {
        let exit = |message: Option<&str>, code, signal: Option<&str>| Exit {
            code,
            signal: signal.map(str::to_owned),
            reason: "exited".to_owned(),
            message: message.map(str::to_owned),
            log: Vec::new(),
        };
        let said = |exit| failure(&Worker { state: State::Gone, exit: Some(exit), ..worker() }).message;
        let id = "w-d1a11e39bb68 did not become ready";
        assert_eq!(
            said(exit(Some("the model file is truncated"), Some(1), None)),
            format!("{id}: the model file is truncated")
        );
        assert_eq!(said(exit(None, Some(7), None)), format!("{id}: exited, exit code 7"));
        let late = failure(&Worker { state: State::Spawning, phase: Some(Phase::Loading), ..worker() });
        assert_eq!(late.message, "w-d1a11e39bb68 is not ready in time: it is loading");
    }
}
