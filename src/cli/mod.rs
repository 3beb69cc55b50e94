//! The command line: arguments and environment in, [`Config`] or a text to print out.
//!
//! What was typed is collected first, then flags are read in the order of one table (`flags.rs`), so that
//! `--help` is answered whatever else is wrong, and what it means is decided last (`resolve.rs`).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use lexopt::Arg;

use crate::config::Config;

mod flags;
mod help;
mod nearest;
mod resolve;
mod value;

use flags::{FLAGS, Flag, Typed};

/// Where environment variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run the daemon.
    Serve(Box<Config>),
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

const COMMANDS: [Command; 1] = [Command { name: "serve", help: "Run the hive in the foreground" }];

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
        Some(Arg::Value(name)) if name == "serve" => serve(parser, env),
        Some(Arg::Value(name)) => Err(unknown_command(&name)),
        Some(Arg::Long(name)) if flag(name).is_some() => {
            let hint = format!("flags follow their command: rbee-hive serve --{name} …");
            Err(CliError::usage(format!("--{name} stands before the command")).with_hint(hint))
        }
        Some(Arg::Long(name)) => Err(unknown_flag(name)),
        Some(Arg::Short(name)) => Err(unknown_short(name)),
    }
}

fn serve(mut parser: lexopt::Parser, env: Environment<'_>) -> Result<Parsed, CliError> {
    let mut given: [Vec<OsString>; FLAGS.len()] = Default::default();
    while let Some(arg) = parser.next().map_err(|e| unexpected(&e))? {
        let (at, flag) = match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Parsed::Print(help::serve())),
            Arg::Short('V') | Arg::Long("version") => return Ok(Parsed::Print(help::version())),
            Arg::Long(name) => flag(name).ok_or_else(|| unknown_flag(name))?,
            Arg::Short(name) => return Err(unknown_short(name)),
            Arg::Value(value) => return Err(CliError::usage(format!("unexpected argument {value:?}"))),
        };
        let value = parser.value();
        given[at].push(
            value.map_err(|_| CliError::usage(format!("--{} needs a value: {}", flag.name, flag.value)))?,
        );
    }
    let mut typed = Typed::default();
    for (flag, values) in FLAGS.iter().zip(&given) {
        read(flag, values, env, &mut typed)?;
    }
    resolve::config(typed, env).map(|config| Parsed::Serve(Box::new(config)))
}

/// Puts what was given for `flag` into `typed`: by the command line (the last one, unless it is repeatable),
/// else by the environment.
fn read(flag: &Flag, given: &[OsString], env: Environment<'_>, typed: &mut Typed) -> Result<(), CliError> {
    if !given.is_empty() {
        let first = if flag.repeatable { 0 } else { given.len() - 1 };
        return given[first..]
            .iter()
            .try_for_each(|value| set(flag, &format!("--{}", flag.name), value, typed));
    }
    let Some(value) = env(flag.env) else { return Ok(()) };
    if flag.repeatable {
        let mut parts = value.as_bytes().split(|b| *b == b',').map(OsStr::from_bytes);
        parts.try_for_each(|part| set(flag, flag.env, part, typed))
    } else {
        set(flag, flag.env, &value, typed)
    }
}

fn set(flag: &Flag, source: &str, value: &OsStr, typed: &mut Typed) -> Result<(), CliError> {
    (flag.set)(typed, value).map_err(|wrong| CliError::usage(format!("{source}: {value:?} {wrong}")))
}

fn flag(name: &str) -> Option<(usize, &'static Flag)> {
    FLAGS.iter().enumerate().find(|(_, flag)| flag.name == name)
}

fn unknown_command(name: &OsStr) -> CliError {
    let error = CliError::usage(format!("unknown command {name:?}"));
    match nearest::of(&name.to_string_lossy(), COMMANDS.iter().map(|command| command.name)) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error.with_hint("`rbee-hive --help` lists the commands"),
    }
}

fn unknown_flag(name: &str) -> CliError {
    let error = CliError::usage(format!("unknown flag --{}", name.escape_debug()));
    match nearest::of(name, FLAGS.iter().map(|flag| flag.name)) {
        Some(near) => error.with_hint(format!("did you mean `--{near}`?")),
        None => error.with_hint("`rbee-hive serve --help` lists the flags"),
    }
}

fn unknown_short(name: char) -> CliError {
    CliError::usage(format!("unknown flag -{}", name.escape_debug()))
        .with_hint("`rbee-hive serve --help` lists the flags")
}

fn unexpected(error: &lexopt::Error) -> CliError {
    CliError::usage(error.to_string().escape_debug().to_string())
}

#[cfg(test)]
mod tests;
