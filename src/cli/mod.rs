//! The command line: arguments and environment in, [`Config`], a [`Task`] or a text to print out.
//!
//! Each command is one table (`command.rs`), and [`GROUPS`] lists them: what was typed is collected first, then
//! flags are read in the order of the table, so that `--help` is answered whatever else is wrong, and what it means
//! is decided last.

use std::ffi::{OsStr, OsString};
use std::fmt;

use lexopt::Arg;
use serde::Serialize;

use crate::config::Config;
use crate::devices::child;
use crate::nearest;
use crate::process::{guard, version_child};

mod capacity;
pub(crate) mod client;
mod command;
mod completions;
mod devices;
mod doctor;
mod drain;
mod events;
mod help;
mod kinds;
mod logs;
mod manual;
mod models;
mod provision;
mod ps;
mod pull;
pub(crate) mod resolve;
mod rm;
mod screen;
mod serve;
mod shutdown;
mod spawn;
mod status;
mod stop;
mod table;
mod value;

use command::{Entry, unknown_short};

/// Where environment variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the daemon.
    Serve(Box<Config>),
    /// Do this.
    Run(Box<dyn Task>),
    /// Be a guardian with these arguments.
    Guard(Vec<OsString>),
    /// Be a probe child with these arguments.
    ProbeGpus(Vec<OsString>),
    /// Run this program and its arguments to be told its version.
    AskVersion(Vec<OsString>),
    /// Print this on stdout, exit 0.
    Print(String),
    /// No command was given: print this help on stderr, exit 2.
    NoCommand(String),
}

/// What a command does once its line is read.
pub trait Task: fmt::Debug {
    /// Does it, and gives what is to be printed at its end.
    ///
    /// # Errors
    /// Why it could not be done: mostly that no hive answers, or that it says no.
    fn run(&self) -> Result<Output, CliError>;
}

/// What a [`Task`] found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// For stdout.
    pub text: String,
    /// 0, unless the answer is a no.
    pub exit_code: u8,
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self { text, exit_code: 0 }
    }
}

/// What the API says, for programs: JSON as it has it, with line breaks.
fn json(value: &impl Serialize) -> Output {
    Output::from(serde_json::to_string_pretty(value).expect("wire types are valid JSON") + "\n")
}

fn task(task: Result<impl Task + 'static, CliError>) -> Result<Parsed, CliError> {
    task.map(|task| Parsed::Run(Box::new(task)))
}

/// A command line that cannot be followed. `Display` is what stderr gets: `error: …`, and `hint: …` on a
/// second line where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// 1: the machine is not as it should be; 2: what was typed is wrong.
    pub exit_code: u8,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CliError {
    fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: 2, message: message.into(), hint: None }
    }

    fn runtime(message: impl Into<String>) -> Self {
        Self { exit_code: 1, message: message.into(), hint: None }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for CliError {}

/// All commands, as help lists them.
const GROUPS: [(&str, &[&dyn Entry]); 5] = [
    (
        "The hive",
        &[
            &serve::COMMAND,
            &status::COMMAND,
            &events::COMMAND,
            &drain::DRAIN,
            &drain::UNDRAIN,
            &shutdown::COMMAND,
            &doctor::COMMAND,
        ],
    ),
    (
        "Workers",
        &[
            &spawn::COMMAND,
            &ps::COMMAND,
            &logs::COMMAND,
            &stop::COMMAND,
            &capacity::COMMAND,
            &devices::COMMAND,
        ],
    ),
    ("Models", &[&pull::COMMAND, &models::COMMAND, &rm::COMMAND]),
    (
        "Kinds of workers",
        &[&kinds::COMMAND, &kinds::CHECK, &kinds::SCHEMA, &kinds::REMOVE, &provision::COMMAND],
    ),
    ("The command line itself", &[&completions::COMMAND, &manual::COMMAND]),
];

fn commands() -> impl Iterator<Item = &'static dyn Entry> {
    GROUPS.iter().flat_map(|(_, commands)| commands.iter().copied())
}

/// Reads the command line: `args` without the program's name.
///
/// Reads the files that the settings name: tokens and manifests of kinds.
///
/// # Errors
/// Anything that is wrong with arguments, environment or those files.
pub fn run(args: impl IntoIterator<Item = OsString>, env: Environment<'_>) -> Result<Parsed, CliError> {
    let mut parser = lexopt::Parser::from_args(args);
    let name = match parser.next().map_err(|e| unexpected(&e))? {
        None => return Ok(Parsed::NoCommand(help::top())),
        Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Parsed::Print(help::top())),
        Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Parsed::Print(help::version())),
        Some(Arg::Short(name)) => return Err(unknown_short(name, "serve")),
        Some(Arg::Long(name)) => return Err(stands_first(name)),
        Some(Arg::Value(name)) => name,
    };
    let for_ourselves: Option<fn(Vec<OsString>) -> Parsed> = match name.to_str() {
        Some(guard::COMMAND) => Some(Parsed::Guard),
        Some(version_child::COMMAND) => Some(Parsed::AskVersion),
        Some(child::COMMAND) => Some(Parsed::ProbeGpus),
        _ => None,
    };
    let mut rest = parser.raw_args().map_err(|e| unexpected(&e))?;
    if let Some(parsed) = for_ourselves {
        return Ok(parsed(rest.collect()));
    }
    // `kinds check` before `kinds`.
    let of_two = |second: &OsStr| format!("{} {}", name.to_string_lossy(), second.to_string_lossy());
    let second = rest.next_if(|second| find(&of_two(second)).is_some());
    let name = second.map_or_else(|| name.to_string_lossy().into_owned(), |second| of_two(&second));
    find(&name).ok_or_else(|| unknown_command(&name))?.read(parser, env)
}

fn find(name: &str) -> Option<&'static dyn Entry> {
    commands().chain([&completions::ASK as &dyn Entry]).find(|command| command.about().name == name)
}

fn unknown_command(name: &str) -> CliError {
    let error = CliError::usage(format!("unknown command {name:?}"));
    match nearest::of(name, commands().map(|command| command.about().name)) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint("`rbee-hive --help` lists the commands"),
    }
}

fn stands_first(flag: &str) -> CliError {
    let has_it = |command: &&dyn Entry| command.about().flags.iter().any(|known| known.name == flag);
    let Some(command) = commands().find(has_it).map(|command| command.about().name) else {
        let error = CliError::usage(format!("unknown flag --{}", flag.escape_debug()));
        return error.with_hint("`rbee-hive --help` lists the commands, and flags follow their command");
    };
    let hint = format!("flags follow their command: rbee-hive {command} --{flag} …");
    CliError::usage(format!("--{flag} stands before the command")).with_hint(hint)
}

fn unexpected(error: &lexopt::Error) -> CliError {
    CliError::usage(error.to_string().escape_debug().to_string())
}

#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;
