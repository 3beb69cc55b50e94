//! `rbee-hive provision`: has a hive install a kind's program, and shows how far it is.

use std::ffi::OsStr;
use std::io;
use std::time::Instant;

use super::client::{Hive, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::pull::{self, show::Show};
use super::{CliError, Environment, Output, Task, task};
use crate::api::{Progress, ProvisionRequest};
use crate::client::{ClientError, HiveClient};
use crate::kinds::provision::{KindName, Sha256, Version};

/// What is to be installed, and how it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    request: ProvisionRequest,
    json: bool,
    /// `TERM` says that lines cannot be drawn again.
    is_dumb: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "provision",
    summary: "Install the program of a kind",
    about: "Have the hive install the program of a kind from its artifact server, and print\nwhere it is.",
    notes: "\
A program that is here already is checked, and nothing is fetched, unless
another version is asked for. One from PATH or --worker is never replaced.
How far it is goes to stderr, the path to stdout. Ctrl-C ends this command
alone: the hive goes on. -V prints the version of this program.
",
    words: Some(Words { name: "KIND", most: 1, set: kind }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 5] = [
    Flag {
        name: "version",
        value: "V",
        env: "",
        default: "what is here, else latest",
        repeatable: false,
        help: "Which version; latest looks for a newer one",
        set: |typed, text| {
            let version: Version = read(text)?;
            typed.version = Some(version.as_str().to_owned());
            Ok(())
        },
    },
    Flag {
        name: "sha256",
        value: "H",
        env: "",
        default: "as the artifact server publishes it",
        repeatable: false,
        help: "SHA-256 that the artifact must have",
        set: |typed, text| {
            let sha256: Sha256 = read(text)?;
            typed.sha256 = Some(sha256.to_string());
            Ok(())
        },
    },
    pull::JSON_LINES,
    URL,
    TOKEN_FILE,
];

fn read<T: std::str::FromStr<Err = &'static str>>(text: &OsStr) -> Result<T, String> {
    text.to_str().unwrap_or_default().parse().map_err(str::to_owned)
}

/// Reads `KIND`.
pub(super) fn kind(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    let kind: KindName = read(text)?;
    typed.query.kind = Some(kind.as_str().to_owned());
    Ok(())
}

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let kind = named(typed, "rbee-hive provision llama-server")?;
    let request = ProvisionRequest { kind, version: typed.version.clone(), sha256: typed.sha256.clone() };
    let is_dumb = env("TERM").is_none_or(|term| term == "dumb");
    Ok(Command { hive: Hive::new(typed, env)?, request, json: typed.json, is_dumb })
}

/// The kind that was typed; `example` is a whole command line.
pub(super) fn named(typed: &Typed, example: &str) -> Result<String, CliError> {
    let missing = || CliError::usage("KIND is missing").with_hint(format!("name a kind: {example}"));
    typed.query.kind.clone().ok_or_else(missing)
}

impl Task for Command {
    /// Has it installed, shows on stderr (`--json`: on stdout) how far it is, and gives what is to be printed on
    /// stdout at the end: where the program is.
    ///
    /// # Errors
    /// If no hive answers, it says no, or the provision fails.
    fn run(&self) -> Result<Output, CliError> {
        let (mut out, mut err) = (io::stdout(), io::stderr());
        let mut show = Show::new(&mut out, &mut err, pull::look(self.json, self.is_dumb));
        let client = self.hive.client()?;
        let ended = self.follow(&client, &mut show);
        show.clear();
        let path = ended.map_err(|error| self.explain(&error))?;
        let text = if self.json { String::new() } else { path.replace(char::is_control, "?") + "\n" };
        Ok(text.into())
    }
}

impl Command {
    fn follow(&self, client: &HiveClient, show: &mut Show<'_>) -> Result<String, ClientError> {
        for event in client.provision_progress(&self.request)? {
            let (_, progress) = event?;
            show.on_event(&progress, Instant::now());
            match progress {
                Progress::Complete { local_path } => return Ok(local_path),
                Progress::Error { code, message } => return Err(ClientError::Failed { code, message }),
                Progress::Downloading { .. } | Progress::Verifying => {}
            }
        }
        Err(ClientError::BadAnswer("the stream ended before the provision did".to_owned()))
    }

    fn explain(&self, error: &ClientError) -> CliError {
        let said = |message: &str| CliError::runtime(message.replace(char::is_control, "?"));
        let (code, message) = match error {
            ClientError::Failed { code, message } => (code, message),
            ClientError::Refused { status: 404 | 409, error: Some(error) } => return said(&error.message),
            _ => return self.hive.explain(error),
        };
        let error = said(message);
        match code.as_str() {
            "KIND_NOT_INSTALLED" => {
                error.with_hint("start the hive with --artifact-url URL, or with --worker KIND=PATH")
            }
            "KIND_NOT_FOUND" => error.with_hint("`rbee-hive kinds` lists the kinds that this hive knows"),
            "INSUFFICIENT_DISK" => error.with_hint("`rbee-hive kinds rm KIND` removes what is not needed"),
            _ => error,
        }
    }
}
