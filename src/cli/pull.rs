//! `rbee-hive pull`: has a hive fetch a model, and shows how far it is.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL, model};
use super::command::{Flag, Spec, Words};
use super::{CliError, Environment, Output, Task, task};
use crate::api::Progress;
use crate::client::{ClientError, HiveClient};
use crate::limits::{PULL_RETURN_FIRST, PULL_RETURNS};
use crate::net::Cut;
use crate::thread::Joined;

pub(super) mod show;
#[cfg(test)]
mod tests;

use show::{Look, Show};

/// Columns of a terminal that does not tell.
const WIDTH: usize = 80;
/// What a shell says of a command that Ctrl-C ended.
pub(super) const INTERRUPTED: u8 = 130;

/// What is to be fetched, and how it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    model: String,
    json: bool,
    /// `TERM` says that lines cannot be drawn again.
    is_dumb: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "pull",
    summary: "Fetch a model from the Hugging Face hub",
    about: "Fetch a model from the Hugging Face hub into the hive's cache, and print where\nit is.",
    notes: "\
MODEL is hf:org/repo, hf:org/repo:QUANT or hf:org/repo:path/file.gguf, each with
@revision if it is not to be main. Without a quantisation it is Q4_K_M, else
Q8_0, else the first; without a GGUF its safetensors.
How far it is goes to stderr, the path to stdout. Ctrl-C cancels the download;
the next pull goes on where it stopped.
",
    words: Some(Words { name: "MODEL", most: 1, set: super::capacity::model }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 3] = [JSON_LINES, URL, TOKEN_FILE];

pub(super) const JSON_LINES: Flag<Typed> = Flag {
    default: "a bar, or lines",
    help: "Print each event as a line of JSON, as the API has it",
    ..JSON
};

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let model = model(typed, "rbee-hive pull hf:org/repo:Q4_K_M")?;
    let is_dumb = env("TERM").is_none_or(|term| term == "dumb");
    Ok(Command { hive: Hive::new(typed, env)?, model, json: typed.json, is_dumb })
}

impl Task for Command {
    /// Fetches it, shows on stderr (`--json`: on stdout) how far it is, and gives what is to be printed on stdout
    /// at the end: where the model is.
    ///
    /// # Errors
    /// If no hive answers, it says no, the download fails, or somebody pressed Ctrl-C.
    fn run(&self) -> Result<Output, CliError> {
        let look = look(self.json, self.is_dumb);
        let (mut out, mut err) = (io::stdout(), io::stderr());
        let mut show = Show::new(&mut out, &mut err, look);
        let client = self.hive.client()?;
        let mut pull = Pull::new(&client, &self.model);
        let _signals = listen(client.clone(), pull.stop.clone())
            .map_err(|error| CliError::runtime(format!("signals cannot be listened to: {error}")))?;
        let ended = pull.follow(&mut show);
        show.clear();
        match ended {
            Ok(path) => Ok(last_line(&show, path).into()),
            Err(error) => Err(self.explain(&error)),
        }
    }
}

impl Command {
    fn explain(&self, failure: &Failure) -> CliError {
        let (code, message) = match failure {
            Failure::Stopped => {
                let hint = "run it again to go on where it stopped";
                return CliError { exit_code: INTERRUPTED, ..CliError::runtime("cancelled") }.with_hint(hint);
            }
            Failure::Client(error) => return self.hive.explain(error),
            Failure::Download { code, message } => (code, message),
        };
        let error = CliError::runtime(message.replace(char::is_control, "?"));
        error.with_hint(match code.as_str() {
            "MODEL_NOT_FOUND" => "look for it on the hub; `rbee-hive pull --help` tells how it is written",
            "MODEL_ACCESS_DENIED" => "ask for access on its page of the hub, and set HF_TOKEN for the hive",
            "INSUFFICIENT_DISK" => "`rbee-hive models` tells what there is, `rbee-hive rm MODEL` deletes it",
            _ => "run it again to go on where it stopped",
        })
    }
}

fn last_line(show: &Show<'_>, path: String) -> String {
    if show.is_json() { String::new() } else { path.replace(char::is_control, "?") + "\n" }
}

/// How progress is shown on stderr; `is_dumb`: as [`Command`] has it.
pub(super) fn look(json: bool, is_dumb: bool) -> Look<'static> {
    match (json, io::stderr().is_terminal() && !is_dumb) {
        (true, _) => Look::Json,
        (false, true) => Look::Bar(&terminal_width),
        (false, false) => Look::Lines,
    }
}

fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(WIDTH)
}

/// What the hive said to our wish.
enum Begun {
    Cached(String),
    Download(String),
}

/// Why a download did not end well.
#[derive(Debug)]
enum Failure {
    Client(ClientError),
    /// The hive says so.
    Download {
        code: String,
        message: String,
    },
    /// Somebody pressed Ctrl-C.
    Stopped,
}

/// What ends it before its end.
#[derive(Debug, Clone, Default)]
struct Stop {
    cut: Cut,
    /// What is to be cancelled, once the hive has named it; changes if the hive has forgotten it.
    id: Arc<Mutex<Option<String>>>,
}

impl Stop {
    /// Cancels the download; the hive then ends its stream, and with it [`Pull::follow`]. One that has not begun is
    /// cancelled when it has.
    fn stop(&self, client: &HiveClient) {
        self.cut.cut();
        let id = self.id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(id) = id {
            // Where the hive is gone, nothing is left to be cancelled.
            let _ = client.cancel_download(&id);
        }
    }
}

/// Stops at the first SIGINT or SIGTERM; a second one ends the process at once.
fn listen(client: HiveClient, stop: Stop) -> io::Result<Joined> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let handle = signals.handle();
    Joined::spawn(
        "signals",
        move || handle.close(),
        move || {
            if signals.forever().next().is_some() {
                stop.stop(&client);
            }
        },
    )
}

/// A download that is followed to its end.
struct Pull<'a> {
    client: &'a HiveClient,
    model: &'a str,
    stop: Stop,
    /// What the hive calls it, until it has forgotten that.
    id: Option<String>,
    has_begun: bool,
    last_event_id: Option<u64>,
}

impl<'a> Pull<'a> {
    fn new(client: &'a HiveClient, model: &'a str) -> Self {
        Self { client, model, stop: Stop::default(), id: None, has_begun: false, last_event_id: None }
    }

    fn begin(client: &HiveClient, model: &str) -> Result<Begun, ClientError> {
        let begun = client.download(model)?;
        Ok(match begun.local_path {
            Some(path) => Begun::Cached(path),
            None => Begun::Download(begun.download_id),
        })
    }

    /// Begins it, shows its events to the end, and gives where the model is. Comes back to a stream that breaks; where the
    /// hive has been started anew meanwhile, asks for the model once more.
    fn follow(&mut self, show: &mut Show<'_>) -> Result<String, Failure> {
        let (mut broken, mut wait) = (0, PULL_RETURN_FIRST);
        loop {
            let mut has_come = false;
            let failure = match self.attempt(show, &mut has_come) {
                Ok(path) => return Ok(path),
                Err(failure) => failure,
            };
            if self.stop.cut.is_cut() {
                return Err(Failure::Stopped);
            }
            if !self.has_begun {
                return Err(failure);
            }
            if has_come {
                (broken, wait) = (0, PULL_RETURN_FIRST);
            }
            match &failure {
                Failure::Client(ClientError::Refused { status: 404, .. }) if self.id.is_some() => {
                    (self.id, self.last_event_id) = (None, None);
                }
                Failure::Client(ClientError::Refused { status, .. }) if *status < 500 => return Err(failure),
                Failure::Client(_) if broken == 0 => show.note("the stream broke; trying again"),
                Failure::Client(_) => {}
                Failure::Download { .. } | Failure::Stopped => return Err(failure),
            }
            broken += 1;
            if broken > PULL_RETURNS {
                return Err(failure);
            }
            self.stop.cut.pause(wait).map_err(|_| Failure::Stopped)?;
            wait *= 2;
        }
    }

    /// Follows it until its stream ends.
    fn attempt(&mut self, show: &mut Show<'_>, has_come: &mut bool) -> Result<String, Failure> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => match Self::begin(self.client, self.model).map_err(Failure::Client)? {
                Begun::Cached(path) => {
                    show.on_event(&Progress::Complete { local_path: path.clone() }, Instant::now());
                    return Ok(path);
                }
                Begun::Download(id) => {
                    self.has_begun = true;
                    *self.stop.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
                    if self.stop.cut.is_cut() {
                        self.stop.stop(self.client);
                        return Err(Failure::Stopped);
                    }
                    self.id.insert(id).clone()
                }
            },
        };
        for event in self.client.progress(&id, self.last_event_id).map_err(Failure::Client)?.once() {
            let (number, progress) = event.map_err(Failure::Client)?;
            self.last_event_id = number.or(self.last_event_id);
            *has_come = true;
            show.on_event(&progress, Instant::now());
            match progress {
                Progress::Complete { local_path } => return Ok(local_path),
                Progress::Error { code, message } => return Err(Failure::Download { code, message }),
                Progress::Downloading { .. } | Progress::Verifying => {}
            }
        }
        // Numbers begin anew with the hive: what was seen may have been another one's.
        self.last_event_id = None;
        Err(Failure::Client(ClientError::BadAnswer("the stream ended before the download did".to_owned())))
    }
}
