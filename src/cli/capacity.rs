//! `rbee-hive capacity`: whether a model fits, asked of a hive.

use std::ffi::OsStr;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec, Words};
use super::screen::Screen;
use super::table::{gib, table};
use super::{CliError, Environment, Output, Task, json, task, value};
use crate::api;
use crate::client::{Capacity, CapacityQuery};
use crate::limits::{CTX_MAX, PARALLEL_MAX};

/// What is asked, and how the answer is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    query: CapacityQuery,
    json: bool,
    screen: Screen,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "capacity",
    summary: "Tell whether a model fits",
    about: "Tell whether a worker with this model would be admitted now, and what it\ntakes.",
    notes: "\
MODEL is hf:org/repo, hf:org/repo:QUANT or file:/path, as spawn takes it.
The exit code is 0 if it fits, 3 if it does not.
",
    words: Some(Words { name: "MODEL", most: 1, set: model }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

/// The exit code for a model that does not fit.
const DOES_NOT_FIT: u8 = 3;

const FLAGS: [Flag<Typed>; 7] = [DEVICE, CTX, PARALLEL, KIND, JSON, URL, TOKEN_FILE];

pub(super) const DEVICE: Flag<Typed> = Flag {
    name: "device",
    value: "DEVICE",
    env: "",
    default: "the one that spawn would choose",
    repeatable: false,
    help: "Where: cpu, gpu0, gpu0:1, or gpu0,gpu1 for both",
    set: |typed, text| word(text).map(|v| typed.query.device = Some(v)),
};

pub(super) const CTX: Flag<Typed> = Flag {
    name: "ctx",
    value: "N",
    env: "",
    default: "4096, or what the model was trained for",
    repeatable: false,
    help: "Context tokens, shared by all slots",
    set: |typed, text| value::number(text, 1..=CTX_MAX).map(|v| typed.query.ctx = Some(v)),
};

pub(super) const PARALLEL: Flag<Typed> = Flag {
    name: "parallel",
    value: "N",
    env: "",
    default: "1",
    repeatable: false,
    help: "Slots: requests at once",
    set: |typed, text| value::number(text, 1..=PARALLEL_MAX).map(|v| typed.query.parallel = Some(v)),
};

pub(super) const KIND: Flag<Typed> = Flag {
    name: "kind",
    value: "KIND",
    env: "",
    default: "the one that spawn would choose",
    repeatable: false,
    help: "How the worker would be launched",
    set: |typed, text| word(text).map(|v| typed.query.kind = Some(v)),
};

/// Reads `MODEL`.
pub(super) fn model(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    word(text).map(|v| typed.query.model = v)
}

fn word(text: &OsStr) -> Result<String, String> {
    text.to_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| "is no text".to_owned())
}

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    if typed.query.model.is_empty() {
        let hint = "name a model: rbee-hive capacity hf:org/repo:Q4_K_M --device gpu0";
        return Err(CliError::usage("MODEL is missing").with_hint(hint));
    }
    Ok(Command {
        hive: Hive::new(typed, env)?,
        query: typed.query.clone(),
        json: typed.json,
        screen: Screen::of_stdout(env),
    })
}

impl Task for Command {
    /// Asks, and gives what is to be printed on stdout, and whether the model fits.
    ///
    /// # Errors
    /// If no hive answers, or it does not know.
    fn run(&self) -> Result<Output, CliError> {
        let capacity = self.hive.ask(|hive| hive.capacity(&self.query))?;
        let output = if self.json { json(&capacity) } else { for_people(self.screen, &capacity).into() };
        Ok(Output { exit_code: if capacity.fits { 0 } else { DOES_NOT_FIT }, ..output })
    }
}

fn for_people(screen: Screen, Capacity { fits, message, answer }: &Capacity) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, bytes: u64| rows.push(vec![name.to_owned(), gib(bytes)]);
    if let Some(api::Breakdown { weights, kv_cache, compute, constant }) = answer.breakdown {
        row("weights", weights);
        row("KV cache", kv_cache);
        row("compute", compute);
        row("constant", constant);
    }
    row("required", answer.required_bytes);
    row("available", answer.available_bytes);
    let device = answer.device.replace(char::is_control, "?");
    let mut text = table(screen, &[&format!("ON {device}"), ">MEMORY"], &rows);
    match message {
        None if *fits => text.push_str("\nfits\n"),
        None => text.push_str("\ndoes not fit\n"),
        Some(message) => {
            text.push_str(&format!("\ndoes not fit: {}\n", message.replace(char::is_control, "?")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_what_it_takes_and_what_there_is() {
        let breakdown =
            api::Breakdown { weights: 8 << 30, kv_cache: 2 << 30, compute: 1 << 29, constant: 1 << 29 };
        let answer = api::CapacityAnswer {
            device: "gpu0".to_owned(),
            required_bytes: 11 << 30,
            available_bytes: 10 << 30,
            breakdown: Some(breakdown),
            suggestions: Vec::new(),
            weights_bytes_max: None,
        };
        let message = Some("it would fit on gpu1".to_owned());
        let text = for_people(Screen::PLAIN, &Capacity { fits: false, message, answer });
        let rows =
            ["weights 8.0", "KV cache 2.0", "compute 0.5", "constant 0.5", "required 11.0", "available 10.0"];
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = rows.iter().all(|row| squeezed.contains(&format!("{row} GiB")));
        assert!(shown && text.starts_with("ON gpu0"), "{text}");
        assert!(text.ends_with("\n\ndoes not fit: it would fit on gpu1\n"), "{text}");
    }
}
