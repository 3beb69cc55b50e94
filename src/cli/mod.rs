//! The command line: arguments and environment in, [`Config`] or a text to print out.
//!
//! What was typed is collected first, then flags are read in the order of one table (`flags.rs`), so that
//! `--help` is answered whatever else is wrong, and what it means is decided last (`resolve.rs`).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use lexopt::Arg;

use crate::config::Config;
use crate::devices::child;
use crate::nearest;
use crate::process::{guard, version_child};

pub mod capacity;
pub mod client;
pub mod devices;
mod flags;
mod help;
pub mod kinds;
pub mod logs;
pub mod models;
pub mod provision;
pub mod pull;
pub(crate) mod resolve;
pub mod rm;
pub mod shutdown;
mod table;
mod value;

use flags::{FLAGS, Flag};

/// Where environment variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run the daemon.
    Serve(Box<Config>),
    /// Show devices.
    Devices(devices::Command),
    /// Ask whether a model fits.
    Capacity(capacity::Command),
    /// Have a model fetched.
    Pull(pull::Command),
    /// Show what is in the model cache.
    Models(models::Command),
    /// Delete a model.
    Remove(rm::Command),
    /// Show what a worker wrote.
    Logs(logs::Command),
    /// Show kinds of workers, check their manifests, remove one.
    Kinds(kinds::Command),
    /// Have a kind's program installed.
    Provision(provision::Command),
    /// End a hive.
    Shutdown(shutdown::Command),
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

/// A command and what it does, in a line.
struct Command {
    name: &'static str,
    help: &'static str,
}

const COMMANDS: [Command; 10] = [
    Command { name: "serve", help: "Run the hive in the foreground" },
    Command { name: "devices", help: "Show what a machine has to compute with" },
    Command { name: "capacity", help: "Tell whether a model fits" },
    Command { name: "pull", help: "Fetch a model from the Hugging Face hub" },
    Command { name: "models", help: "Show the models that are here" },
    Command { name: "rm", help: "Delete a model" },
    Command { name: "logs", help: "Show what a worker wrote" },
    Command { name: "kinds", help: "Show what can be launched; check a manifest; remove one" },
    Command { name: "provision", help: "Install the program of a kind" },
    Command { name: "shutdown", help: "End a hive, with its workers or without" },
];

/// Reads the command line: `args` without the program's name.
///
/// Reads the files that the settings name: tokens and manifests of kinds.
///
/// # Errors
/// Anything that is wrong with arguments, environment or those files.
pub fn run(args: impl IntoIterator<Item = OsString>, env: Environment<'_>) -> Result<Parsed, CliError> {
    let mut parser = lexopt::Parser::from_args(args);
    match parser.next().map_err(|e| unexpected(&e))? {
        None => Ok(Parsed::NoCommand(help::top())),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Parsed::Print(help::top())),
        Some(Arg::Short('V') | Arg::Long("version")) => Ok(Parsed::Print(help::version())),
        Some(Arg::Value(name)) if name == "serve" => {
            Ok(match typed(parser, "serve", &FLAGS, None, help::serve, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Serve(Box::new(resolve::config(typed, env)?)),
            })
        }
        Some(Arg::Value(name)) if name == "devices" => {
            Ok(match typed(parser, "devices", &devices::FLAGS, None, help::devices, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Devices(devices::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "capacity" => {
            let word = Some(("MODEL", capacity::model as Word<client::Typed>));
            Ok(match typed(parser, "capacity", &capacity::FLAGS, word, help::capacity, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Capacity(capacity::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "pull" => {
            let word = Some(("MODEL", capacity::model as Word<client::Typed>));
            Ok(match typed(parser, "pull", &pull::FLAGS, word, help::pull, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Pull(pull::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "models" => {
            Ok(match typed(parser, "models", &models::FLAGS, None, help::models, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Models(models::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "rm" => {
            let word = Some(("MODEL", capacity::model as Word<client::Typed>));
            Ok(match typed(parser, "rm", &rm::FLAGS, word, help::rm, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Remove(rm::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "logs" => {
            let word = Some(("ID", logs::worker_id as Word<client::Typed>));
            Ok(match typed(parser, "logs", &logs::FLAGS, word, help::logs, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Logs(logs::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "kinds" => kinds::read(parser, env),
        Some(Arg::Value(name)) if name == "provision" => {
            let word = Some(("KIND", provision::kind as Word<client::Typed>));
            Ok(match typed(parser, "provision", &provision::FLAGS, word, help::provision, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Provision(provision::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == "shutdown" => {
            Ok(match typed(parser, "shutdown", &shutdown::FLAGS, None, help::shutdown, env)? {
                Asked::Print(text) => Parsed::Print(text),
                Asked::Run(typed) => Parsed::Shutdown(shutdown::command(&typed, env)?),
            })
        }
        Some(Arg::Value(name)) if name == guard::COMMAND => {
            parser.raw_args().map(|rest| Parsed::Guard(rest.collect())).map_err(|e| unexpected(&e))
        }
        Some(Arg::Value(name)) if name == version_child::COMMAND => {
            parser.raw_args().map(|rest| Parsed::AskVersion(rest.collect())).map_err(|e| unexpected(&e))
        }
        Some(Arg::Value(name)) if name == child::COMMAND => {
            parser.raw_args().map(|rest| Parsed::ProbeGpus(rest.collect())).map_err(|e| unexpected(&e))
        }
        Some(Arg::Value(name)) => Err(unknown_command(&name)),
        Some(Arg::Long(name)) if FLAGS.iter().any(|flag| flag.name == name) => {
            let hint = format!("flags follow their command: rbee-hive serve --{name} …");
            Err(CliError::usage(format!("--{name} stands before the command")).with_hint(hint))
        }
        Some(Arg::Long(name)) => Err(unknown_flag(name, "serve", &FLAGS)),
        Some(Arg::Short(name)) => Err(unknown_short(name, "serve")),
    }
}

/// What a command line asks of a command.
enum Asked<T> {
    Print(String),
    Run(T),
}

/// Flags that people write with one letter, for commands that have them.
const SHORTS: [(char, &str); 2] = [('f', "follow"), ('n', "tail")];

/// Reads the one word that a command takes beside its flags.
type Word<T> = fn(&mut T, &OsStr) -> Result<(), String>;

/// Reads what follows a command that takes the flags of one table and, if it takes one, a word.
fn typed<T: Default>(
    parser: lexopt::Parser,
    command: &str,
    flags: &'static [Flag<T>],
    word: Option<(&str, Word<T>)>,
    help: fn() -> String,
    env: Environment<'_>,
) -> Result<Asked<T>, CliError> {
    typed_words(parser, command, flags, word.map(|(name, set)| (name, set, 1)), help, env)
}

/// As [`typed`], with at most so many words.
fn typed_words<T: Default>(
    mut parser: lexopt::Parser,
    command: &str,
    flags: &'static [Flag<T>],
    word: Option<(&str, Word<T>, usize)>,
    help: fn() -> String,
    env: Environment<'_>,
) -> Result<Asked<T>, CliError> {
    let mut given: Vec<Vec<OsString>> = vec![Vec::new(); flags.len()];
    let mut words = Vec::new();
    while let Some(arg) = parser.next().map_err(|e| unexpected(&e))? {
        let (at, flag) = match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Asked::Print(help())),
            Arg::Short('V') => return Ok(Asked::Print(help::version())),
            // Of a command that has a flag of that name it is the flag.
            Arg::Long("version") if flags.iter().all(|flag| flag.name != "version") => {
                return Ok(Asked::Print(help::version()));
            }
            Arg::Long(name) => {
                let found = flags.iter().enumerate().find(|(_, flag)| flag.name == name);
                found.ok_or_else(|| unknown_flag(name, command, flags))?
            }
            Arg::Short(name) => {
                let long = SHORTS.iter().find(|(short, _)| *short == name).map(|(_, long)| *long);
                let found = flags.iter().enumerate().find(|(_, flag)| Some(flag.name) == long);
                found.ok_or_else(|| unknown_short(name, command))?
            }
            Arg::Value(value) if word.is_some_and(|(_, _, most)| words.len() < most) => {
                words.push(value);
                continue;
            }
            Arg::Value(value) => return Err(CliError::usage(format!("unexpected argument {value:?}"))),
        };
        if flag.value.is_empty() {
            if parser.optional_value().is_some() {
                return Err(CliError::usage(format!("--{} takes no value", flag.name)));
            }
            given[at].push(OsString::new());
            continue;
        }
        let value = parser.value();
        given[at].push(
            value.map_err(|_| CliError::usage(format!("--{} needs a value: {}", flag.name, flag.value)))?,
        );
    }
    let mut typed = T::default();
    for (flag, values) in flags.iter().zip(&given) {
        read(flag, values, env, &mut typed)?;
    }
    let Some((name, set, _)) = word else { return Ok(Asked::Run(typed)) };
    for text in &words {
        set(&mut typed, text).map_err(|wrong| CliError::usage(format!("{name}: {text:?} {wrong}")))?;
    }
    Ok(Asked::Run(typed))
}

/// Puts what was given for `flag` into `typed`: by the command line (the last one, unless it is repeatable),
/// else by the environment.
fn read<T>(flag: &Flag<T>, given: &[OsString], env: Environment<'_>, typed: &mut T) -> Result<(), CliError> {
    if !given.is_empty() {
        let first = if flag.repeatable { 0 } else { given.len() - 1 };
        return given[first..]
            .iter()
            .try_for_each(|value| set(flag, &format!("--{}", flag.name), value, typed));
    }
    let Some(value) = Some(flag.env).filter(|name| !name.is_empty()).and_then(env) else { return Ok(()) };
    if flag.repeatable {
        let mut parts = value.as_bytes().split(|b| *b == b',').map(OsStr::from_bytes);
        parts.try_for_each(|part| set(flag, flag.env, part, typed))
    } else {
        set(flag, flag.env, &value, typed)
    }
}

fn set<T>(flag: &Flag<T>, source: &str, value: &OsStr, typed: &mut T) -> Result<(), CliError> {
    (flag.set)(typed, value).map_err(|wrong| CliError::usage(format!("{source}: {value:?} {wrong}")))
}

fn unknown_command(name: &OsStr) -> CliError {
    let error = CliError::usage(format!("unknown command {name:?}"));
    match nearest::of(&name.to_string_lossy(), COMMANDS.iter().map(|command| command.name)) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint("`rbee-hive --help` lists the commands"),
    }
}

fn unknown_flag<T>(name: &str, command: &str, flags: &[Flag<T>]) -> CliError {
    let error = CliError::usage(format!("unknown flag --{}", name.escape_debug()));
    match nearest::of(name, flags.iter().map(|flag| flag.name)) {
        Some(near) => error.with_hint(format!("did you mean `--{near}`?")),
        None => error.with_hint(format!("`rbee-hive {command} --help` lists the flags")),
    }
}

fn unknown_short(name: char, command: &str) -> CliError {
    CliError::usage(format!("unknown flag -{}", name.escape_debug()))
        .with_hint(format!("`rbee-hive {command} --help` lists the flags"))
}

fn unexpected(error: &lexopt::Error) -> CliError {
    CliError::usage(error.to_string().escape_debug().to_string())
}

#[cfg(test)]
mod tests;
