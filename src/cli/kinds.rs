//! `rbee-hive kinds`: what can be launched; `kinds check` and `kinds schema`, for who writes a manifest.

use std::ffi::OsStr;
use std::path::PathBuf;

use crossbeam_channel::bounded;
use serde_json::{Value, json};

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::screen::Screen;
use super::table::table;
use super::{CliError, Environment, Output, Task, provision, resolve, task, value};
use crate::api::{KindInfo, KindList};
use crate::kinds::manifest::{self, Mistake};
use crate::kinds::shelf::Shelf;
use crate::kinds::{Kind, Kinds, find_program, listing, schema};
use crate::limits::VERSION_DEADLINE;
use crate::process::versions;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Show a hive's kinds.
    OfHive {
        /// The hive.
        hive: Hive,
        /// As JSON.
        json: bool,
        /// Where they are shown.
        screen: Screen,
    },
    /// Show the kinds that a hive with these files and programs would have.
    Local {
        /// They, read.
        kinds: Kinds,
        /// As JSON.
        json: bool,
        /// Where they are shown.
        screen: Screen,
    },
    /// Check manifests.
    Check {
        /// Where they are.
        files: Vec<PathBuf>,
        /// As JSON.
        json: bool,
    },
    /// Print the schema.
    Schema,
    /// Remove what was installed of a kind.
    Remove {
        /// The hive.
        hive: Hive,
        /// The kind.
        kind: String,
        /// As JSON.
        json: bool,
    },
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "kinds",
    summary: "Show what can be launched",
    about: "Show the kinds of workers: which program each launches, and whether it is here.",
    notes: "",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(listed(typed, env)),
};

pub(super) const CHECK: Spec<Checked> = Spec {
    name: "kinds check",
    summary: "Check manifests of kinds, without a hive",
    about: "Check manifests of kinds as `serve` would, and name the first mistake in each.",
    notes: "The exit code is 0 if all are good, 2 if one is not.\n",
    words: Some(Words { name: "FILE", most: FILES_MAX, set: file }),
    flags: &CHECK_FLAGS,
    read: |Checked { files, json }, _| {
        if files.is_empty() {
            let error = CliError::usage("FILE is missing");
            return Err(error.with_hint("name a manifest: rbee-hive kinds check my-kind.json"));
        }
        task(Ok(Command::Check { files, json }))
    },
};

pub(super) const SCHEMA: Spec<()> = Spec {
    name: "kinds schema",
    summary: "Print the JSON Schema of a manifest",
    about: "Print the JSON Schema (2020-12) of a kind's manifest.",
    notes: "",
    words: None,
    flags: &[],
    read: |(), _| task(Ok(Command::Schema)),
};

pub(super) const REMOVE: Spec<Typed> = Spec {
    name: "kinds rm",
    summary: "Remove what was installed of a kind",
    about: "Remove what was installed of a kind. Workers that run it keep its files until\nthey end.",
    notes: "",
    words: Some(Words { name: "KIND", most: 1, set: provision::kind }),
    flags: &RM_FLAGS,
    read: |typed, env| {
        let kind = provision::named(&typed, "rbee-hive kinds rm llama-server")?;
        task(Ok(Command::Remove { hive: Hive::new(&typed, env)?, kind, json: typed.json }))
    },
};

const FLAGS: [Flag<Typed>; 7] = [
    Flag::switch("local", "a hive is asked", "Look at this machine, without a hive", |typed, _| {
        typed.local = true;
        Ok(())
    }),
    Flag {
        name: "kind-file",
        value: "PATH",
        env: "RBEE_HIVE_KIND_FILE",
        default: "none",
        repeatable: true,
        help: "With --local: manifest of a kind; repeatable",
        set: |typed, text| value::path(text).map(|v| typed.kind_files.push(v)),
    },
    Flag {
        name: "worker",
        value: "KIND=PATH",
        env: "RBEE_HIVE_WORKER",
        default: "none",
        repeatable: true,
        help: "With --local: program of a kind; repeatable",
        set: |typed, text| value::program(text).map(|v| typed.workers.push(v)),
    },
    Flag {
        name: "data-dir",
        value: "DIR",
        env: "RBEE_HIVE_DATA_DIR",
        default: "as `serve` has it",
        repeatable: false,
        help: "With --local: where kinds are installed",
        set: |typed, text| value::path(text).map(|v| typed.data_dir = Some(v)),
    },
    JSON,
    URL,
    TOKEN_FILE,
];

/// What was typed after `kinds check`.
#[derive(Debug, Default)]
pub(super) struct Checked {
    files: Vec<PathBuf>,
    json: bool,
}

const CHECK_FLAGS: [Flag<Checked>; 1] =
    [Flag::switch("json", "a line for each", "Print JSON", |typed, _| {
        typed.json = true;
        Ok(())
    })];

const RM_FLAGS: [Flag<Typed>; 3] =
    [Flag { default: "a line", help: "Print what was removed as JSON", ..JSON }, URL, TOKEN_FILE];

/// Files that one command line can check.
const FILES_MAX: usize = 1024;

fn listed(typed: Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let screen = Screen::of_stdout(env);
    if !typed.local {
        return Ok(Command::OfHive { hive: Hive::new(&typed, env)?, json: typed.json, screen });
    }
    let given = Kinds::load(&typed.kind_files, &typed.workers).map_err(resolve::kinds_error)?;
    let named = typed.workers.into_iter().map(|(kind, _)| kind);
    // Without a home nothing is installed there.
    let data_dir = typed.data_dir.map_or_else(|| resolve::data_dir(env), Ok);
    let kinds = data_dir.map_or_else(
        |_| given.clone(),
        |dir| Kinds::clone(&Shelf::open(&dir, given.clone(), named, None).kinds().get()),
    );
    Ok(Command::Local { kinds, json: typed.json, screen })
}

fn file(typed: &mut Checked, text: &OsStr) -> Result<(), String> {
    typed.files.push(text.into());
    Ok(())
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        Ok(match self {
            Self::OfHive { hive, json, screen } => shown(*screen, hive.ask(|hive| hive.kinds())?, *json),
            Self::Local { kinds, json, screen } => shown(*screen, local(kinds)?, *json),
            Self::Check { files, json } => check(files, *json)?,
            Self::Schema => schema::text().into(),
            Self::Remove { hive, kind, json } => {
                hive.ask(|hive| hive.remove_kind(kind))?;
                let text =
                    if *json { json!({ "removed": kind }).to_string() } else { format!("removed {kind}") };
                (text + "\n").into()
            }
        })
    }
}

/// The kinds as a hive on this machine would show them, with all versions that can be had.
fn local(kinds: &Kinds) -> Result<Vec<KindInfo>, CliError> {
    let (mut kinds, programs) = listing::list(kinds);
    let failed = |e| CliError::runtime(format!("programs cannot be asked for versions: {e}"));
    let (_thread, versions) = versions::start("/proc/self/exe".into()).map_err(failed)?;
    let (tell, told) = bounded(1);
    // Further ones wait for the first few: those that hang cost each of them their time.
    let wait = VERSION_DEADLINE * u32::try_from(programs.len()).unwrap_or(u32::MAX);
    versions.ask(programs, wait, move |versions| drop(tell.send(versions)));
    for (kind, version) in kinds.iter_mut().zip(told.recv().unwrap_or_default()) {
        kind.version = version.or(kind.version.take());
    }
    Ok(kinds)
}

fn shown(screen: Screen, kinds: Vec<KindInfo>, json: bool) -> Output {
    if json {
        return super::json(&KindList { kinds });
    }
    let row = |kind: &KindInfo| {
        let backends: Vec<&str> = kind.backends.iter().map(|backend| backend.as_str()).collect();
        vec![
            kind.kind.clone(),
            kind.protocol.as_str().to_owned(),
            backends.join(","),
            kind.path.clone().unwrap_or_else(|| "not found".to_owned()),
            kind.version.clone().unwrap_or_else(|| "-".to_owned()),
            kind.source.as_str().to_owned(),
        ]
    };
    let rows: Vec<_> = kinds.iter().map(row).collect();
    table(screen, &["KIND", "PROTOCOL", "~BACKENDS", "~PROGRAM", "~VERSION", "SOURCE"], &rows).into()
}

fn check(files: &[PathBuf], as_json: bool) -> Result<Output, CliError> {
    let mut names: Vec<String> = Vec::new();
    let mut one = |file: &PathBuf| {
        let kind = manifest::read(file).map_err(|wrong| wrong.mistake)?;
        if names.contains(&kind.name) {
            return Err(Mistake::new("kind", format!("another file has `{}` already", kind.name)));
        }
        names.push(kind.name.clone());
        Ok(kind)
    };
    let results: Vec<(String, Result<Kind, Mistake>)> =
        files.iter().map(|file| (file.to_string_lossy().into_owned(), one(file))).collect();
    let good = results.iter().all(|(_, result)| result.is_ok());
    if as_json {
        let files: Vec<Value> = results.iter().map(|(file, result)| as_value(file, result)).collect();
        let text = serde_json::to_string_pretty(&json!({ "files": files })).expect("JSON is valid JSON");
        return Ok(Output { text: text + "\n", exit_code: if good { 0 } else { 2 } });
    }
    let wrong = |(file, result): &(String, Result<Kind, Mistake>)| {
        let mistake = result.as_ref().err()?;
        Some(format!("{}: {mistake}", file.escape_debug()))
    };
    let mistakes: Vec<String> = results.iter().filter_map(wrong).collect();
    if good {
        let lines = results.iter().filter_map(|(file, kind)| Some(praise(file, kind.as_ref().ok()?)));
        return Ok(lines.collect::<String>().into());
    }
    Err(CliError::usage(mistakes.join("\nerror: ")))
}

fn as_value(file: &str, result: &Result<Kind, Mistake>) -> Value {
    match result {
        Ok(kind) => {
            let path = find_program(kind).map(|path| path.to_string_lossy().into_owned());
            json!({ "file": file, "good": true, "kind": kind.name, "found": path.is_some(), "path": path })
        }
        Err(Mistake { field, message }) => {
            json!({ "file": file, "good": false, "field": field, "message": message })
        }
    }
}

fn praise(file: &str, kind: &Kind) -> String {
    let program = match find_program(kind) {
        Some(path) => format!("its program is {}", path.to_string_lossy().escape_debug()),
        None => "its program is not on this machine".to_owned(),
    };
    format!("{}: good, kind {}; {program}\n", file.escape_debug(), kind.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{KindProtocol, KindSource};
    use crate::id::Backend;

    #[test]
    fn people_get_a_table() {
        let here = KindInfo {
            kind: "llama-server".to_owned(),
            protocol: KindProtocol::Probe,
            backends: vec![Backend::Cpu, Backend::Cuda],
            found: true,
            path: Some("/opt/llama-server".to_owned()),
            version: Some("5000 (abc)".to_owned()),
            source: KindSource::Builtin,
        };
        let absent = KindInfo {
            kind: "mine".to_owned(),
            protocol: KindProtocol::Native,
            found: false,
            path: None,
            version: None,
            source: KindSource::File,
            ..here.clone()
        };
        let expected = "\
KIND          PROTOCOL  BACKENDS  PROGRAM            VERSION     SOURCE
llama-server  probe     cpu,cuda  /opt/llama-server  5000 (abc)  builtin
mine          native    cpu,cuda  not found          -           file
";
        assert_eq!(shown(Screen::PLAIN, vec![here, absent], false).text, expected);
    }
}
