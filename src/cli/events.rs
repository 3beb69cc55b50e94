//! `rbee-hive events`: what goes on in a hive.

use std::io;

use jiff::Timestamp;
use serde::Serialize;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::logs::{FOLLOW, still_read, until_ctrl_c};
use super::ps;
use super::table::size;
use super::{CliError, Environment, Output, Task, task};
use crate::api::{DownloadEvent, HiveEvent, Progress, State, Worker};
use crate::client::Event;
use crate::logging::is_hazard;

/// Whose, and how they are shown.
#[derive(Debug)]
struct Command {
    hive: Hive,
    follow: bool,
    json: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "events",
    summary: "Show what goes on",
    about: "Show the workers and downloads of a hive as they are, and with -f each change as\nit happens.",
    notes: "\
`picture` says that all there is follows: at the beginning, and where changes
were missed because the hive was away. Ctrl-C ends it with exit code 130.
",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 4] = [
    Flag { default: "what there is", help: "Go on with each change", ..FOLLOW },
    Flag { default: "a line for people", help: "Print each as a line of JSON", ..JSON },
    URL,
    TOKEN_FILE,
];

fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, follow: typed.follow, json: typed.json })
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        if self.follow {
            until_ctrl_c()?;
        }
        let mut out = io::stdout();
        for event in self.hive.ask(|hive| hive.events())? {
            let event = event.map_err(|error| self.hive.explain(&error))?;
            let line = if self.json { as_json(&event) } else { for_people(&event, Timestamp::now()) };
            if !still_read(&mut out, &(line + "\n"))? {
                break;
            }
            // It ends the picture.
            if matches!(event, Event::Hive(_)) && !self.follow {
                break;
            }
        }
        Ok(String::new().into())
    }
}

/// An event for programs: its name first, then what the API has.
#[derive(Serialize)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
enum Line<'a> {
    Picture,
    Worker(&'a Worker),
    Download(&'a DownloadEvent),
    Hive(&'a HiveEvent),
}

fn as_json(event: &Event) -> String {
    let line = match event {
        Event::Picture => Line::Picture,
        Event::Worker(worker) => Line::Worker(worker),
        Event::Download(download) => Line::Download(download),
        Event::Hive(hive) => Line::Hive(hive),
    };
    serde_json::to_string(&line).expect("wire types are valid JSON")
}

fn for_people(event: &Event, now: Timestamp) -> String {
    let what = match event {
        Event::Picture => "picture".to_owned(),
        Event::Worker(worker) => format!("worker    {}", about(worker)),
        Event::Download(download) => {
            let how = match &download.progress {
                Progress::Downloading { bytes_downloaded, bytes_total, .. } => {
                    format!("{} of {}", size(*bytes_downloaded), size(*bytes_total))
                }
                Progress::Verifying => "verifying".to_owned(),
                Progress::Complete { local_path } => format!("complete: {local_path}"),
                Progress::Error { code, message } => format!("failed: {message} ({code})"),
            };
            format!("download  {} {how}", download.download_id)
        }
        Event::Hive(hive) => format!("hive      {} {}", hive.hive_id, hive.status.as_str()),
    };
    format!("{now:.3} {}", what.replace(is_hazard, "?"))
}

/// A worker in a line: why it ended or crashed, if it did.
fn about(worker: &Worker) -> String {
    let Worker { worker_id, device, model_ref, .. } = worker;
    let (state, _) = ps::state(worker);
    let slots = match worker.state.serves() {
        true => format!(
            " {}/{}",
            worker.slots_total - worker.slots_available.min(worker.slots_total),
            worker.slots_total
        ),
        false => String::new(),
    };
    let is_over = worker.state == State::Gone || state == "backoff";
    let why = match worker.exit.as_ref().filter(|_| is_over) {
        Some(exit) => format!(": {}", exit.message.as_deref().unwrap_or(&exit.reason)),
        None => String::new(),
    };
    format!("{worker_id} {state}{slots} {device} {model_ref}{why}")
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::{NOW, worker};
    use super::*;
    use crate::api::Exit;

    #[test]
    fn a_line_tells_who_does_what_and_why_it_ended() {
        let line = |worker| for_people(&Event::Worker(Box::new(worker)), NOW.parse().unwrap());
        assert_eq!(
            line(worker()),
            "2026-01-02T03:04:05.000Z worker    w-d1a11e39bb68 ready 1/2 gpu0 \
             hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M"
        );
        let exit =
            Exit { code: None, signal: None, reason: "oom".to_owned(), message: None, log: Vec::new() };
        let gone = Worker {
            state: State::Gone,
            exit: Some(exit),
            model_ref: "hf:o/\u{1b}[2J".to_owned(),
            ..worker()
        };
        assert!(line(gone).ends_with(" w-d1a11e39bb68 gone gpu0 hf:o/?[2J: oom"));
    }
}
