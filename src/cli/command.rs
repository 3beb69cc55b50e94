//! A command as a table: its name, words and flags with their help and parsers. What reads a command line, what
//! `--help` says, what a shell completes, the manual and the README follow from it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use lexopt::Arg;

use super::{CliError, Environment, Parsed, help, unexpected};
use crate::nearest;

/// A command that collects what was typed in a `T`.
pub(super) struct Spec<T: 'static> {
    /// One word, or two (`kinds check`).
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What it does, in lines of at most 80 columns.
    pub about: &'static str,
    /// What else there is to know, in such lines.
    pub notes: &'static str,
    /// What it takes beside its flags.
    pub words: Option<Words<T>>,
    /// Its flags.
    pub flags: &'static [Flag<T>],
    /// From what was typed to what it means.
    pub read: fn(T, Environment<'_>) -> Result<Parsed, CliError>,
}

/// Words that a command takes.
pub(super) struct Words<T: 'static> {
    /// What one is called.
    pub name: &'static str,
    /// At most so many.
    pub most: usize,
    /// Reads one; an error says what would be right.
    pub set: fn(&mut T, &OsStr) -> Result<(), String>,
}

/// A flag of a command that collects what was typed in a `T`.
pub(super) struct Flag<T: 'static> {
    /// `--name`, without the dashes.
    pub name: &'static str,
    /// What its value is called; empty if it takes none.
    pub value: &'static str,
    /// The variable that is read where the flag is not given, if there is one; commas part the values of a
    /// repeatable one.
    pub env: &'static str,
    /// What holds without it, for people.
    pub default: &'static str,
    /// Whether each one counts; otherwise the last one does.
    pub repeatable: bool,
    /// What it does, in a line.
    pub help: &'static str,
    /// Reads a value; an error says what would be right.
    pub set: fn(&mut T, &OsStr) -> Result<(), String>,
}

/// Flags that people write with one letter, for commands that have them.
const SHORTS: [(char, &str); 3] = [('f', "follow"), ('n', "tail"), ('w', "wait")];

/// All of a command that is not about its `T`.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub name: &'static str,
    pub summary: &'static str,
    pub about: &'static str,
    pub notes: &'static str,
    /// What its words are called, and how many there can be.
    pub words: Option<(&'static str, usize)>,
    pub flags: Vec<FlagAbout>,
}

/// All of a flag that is not about its `T`.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlagAbout {
    pub name: &'static str,
    pub short: Option<char>,
    pub value: &'static str,
    pub env: &'static str,
    pub default: &'static str,
    pub help: &'static str,
}

impl About {
    /// `stop ID… [FLAGS]`.
    pub fn usage(&self) -> String {
        let words = match self.words {
            Some((name, most)) => format!(" {name}{}", if most > 1 { "…" } else { "" }),
            None => String::new(),
        };
        format!("{}{words}{}", self.name, if self.flags.is_empty() { "" } else { " [FLAGS]" })
    }

    /// Whether it asks a hive.
    pub fn is_client(&self) -> bool {
        self.flags.iter().any(|flag| flag.name == "url")
    }

    /// Whether `--version` is a flag of its own; `-V` tells the program's all the same.
    pub fn has_version(&self) -> bool {
        self.flags.iter().any(|flag| flag.name == "version")
    }
}

/// A command whatever it collects.
pub(super) trait Entry: Sync {
    /// Its table.
    fn about(&self) -> About;

    /// Reads what follows its name.
    ///
    /// # Errors
    /// Anything that is wrong with that, or with the environment.
    fn read(&self, parser: lexopt::Parser, env: Environment<'_>) -> Result<Parsed, CliError>;
}

impl<T: Default> Entry for Spec<T> {
    fn about(&self) -> About {
        let short = |name| SHORTS.iter().find(|(_, long)| *long == name).map(|(short, _)| *short);
        let flag = |flag: &Flag<T>| FlagAbout {
            name: flag.name,
            short: short(flag.name),
            value: flag.value,
            env: flag.env,
            default: flag.default,
            help: flag.help,
        };
        About {
            name: self.name,
            summary: self.summary,
            about: self.about,
            notes: self.notes,
            words: self.words.as_ref().map(|words| (words.name, words.most)),
            flags: self.flags.iter().map(flag).collect(),
        }
    }

    fn read(&self, mut parser: lexopt::Parser, env: Environment<'_>) -> Result<Parsed, CliError> {
        let mut given: Vec<Vec<OsString>> = vec![Vec::new(); self.flags.len()];
        let mut words = Vec::new();
        while let Some(arg) = parser.next().map_err(|e| unexpected(&e))? {
            let (at, flag) = match arg {
                Arg::Short('h') | Arg::Long("help") => {
                    return Ok(Parsed::Print(help::command(&self.about())));
                }
                Arg::Short('V') => return Ok(Parsed::Print(help::version())),
                // Of a command that has a flag of that name it is the flag.
                Arg::Long("version") if !self.about().has_version() => {
                    return Ok(Parsed::Print(help::version()));
                }
                Arg::Long(name) => self.flag(name).ok_or_else(|| self.unknown(name))?,
                Arg::Short(name) => {
                    let long = SHORTS.iter().find(|(short, _)| *short == name).map(|(_, long)| *long);
                    let unknown = || unknown_short(name, self.name);
                    long.and_then(|long| self.flag(long)).ok_or_else(unknown)?
                }
                Arg::Value(word) if self.words.as_ref().is_some_and(|takes| words.len() < takes.most) => {
                    words.push(word);
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
            let needs = |_| CliError::usage(format!("--{} needs a value: {}", flag.name, flag.value));
            given[at].push(parser.value().map_err(needs)?);
        }
        let mut typed = T::default();
        for (flag, values) in self.flags.iter().zip(&given) {
            flag.read(values, env, &mut typed)?;
        }
        for text in &words {
            let Some(takes) = &self.words else { break };
            let wrong = |wrong| CliError::usage(format!("{}: {text:?} {wrong}", takes.name));
            (takes.set)(&mut typed, text).map_err(wrong)?;
        }
        (self.read)(typed, env)
    }
}

impl<T> Spec<T> {
    fn flag(&self, name: &str) -> Option<(usize, &Flag<T>)> {
        self.flags.iter().enumerate().find(|(_, flag)| flag.name == name)
    }

    fn unknown(&self, name: &str) -> CliError {
        let error = CliError::usage(format!("unknown flag --{}", name.escape_debug()));
        match nearest::of(name, self.flags.iter().map(|flag| flag.name)) {
            Some(near) => error.with_hint(format!("did you mean `--{near}`?")),
            None => error.with_hint(lists_flags(self.name)),
        }
    }
}

impl<T> Flag<T> {
    /// A flag without a value or a variable.
    pub const fn switch(
        name: &'static str,
        default: &'static str,
        help: &'static str,
        set: fn(&mut T, &OsStr) -> Result<(), String>,
    ) -> Self {
        Self { name, value: "", env: "", default, repeatable: false, help, set }
    }

    /// Puts what was given for it into `typed`: by the command line (the last one, unless it is repeatable), else
    /// by the environment.
    fn read(&self, given: &[OsString], env: Environment<'_>, typed: &mut T) -> Result<(), CliError> {
        if !given.is_empty() {
            let first = if self.repeatable { 0 } else { given.len() - 1 };
            return given[first..]
                .iter()
                .try_for_each(|value| self.set(&format!("--{}", self.name), value, typed));
        }
        let Some(value) = Some(self.env).filter(|name| !name.is_empty()).and_then(env) else {
            return Ok(());
        };
        if self.repeatable {
            let mut parts = value.as_bytes().split(|b| *b == b',').map(OsStr::from_bytes);
            parts.try_for_each(|part| self.set(self.env, part, typed))
        } else {
            self.set(self.env, &value, typed)
        }
    }

    fn set(&self, source: &str, value: &OsStr, typed: &mut T) -> Result<(), CliError> {
        (self.set)(typed, value).map_err(|wrong| CliError::usage(format!("{source}: {value:?} {wrong}")))
    }
}

/// What a flag of one letter is that a command does not have.
pub(super) fn unknown_short(name: char, command: &str) -> CliError {
    CliError::usage(format!("unknown flag -{}", name.escape_debug())).with_hint(lists_flags(command))
}

fn lists_flags(command: &str) -> String {
    format!("`rbee-hive {command} --help` lists the flags")
}
