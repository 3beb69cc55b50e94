//! `rbee-hive models`: what is in a hive's model cache.

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL};
use super::command::{Flag, Spec};
use super::screen::Screen;
use super::table::{size, table};
use super::{CliError, Environment, Output, Task, json, task};
use crate::api::{Model, ModelList};

/// How it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    json: bool,
    screen: Screen,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "models",
    summary: "Show the models that are here",
    about: "Show the models in the hive's cache: their size, last use and state.",
    notes: "",
    words: None,
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 3] = [JSON, URL, TOKEN_FILE];

/// Characters of a commit that are shown.
const SHORT: usize = 8;

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    Ok(Command { hive: Hive::new(typed, env)?, json: typed.json, screen: Screen::of_stdout(env) })
}

impl Task for Command {
    /// Asks, and gives what is to be printed on stdout.
    ///
    /// # Errors
    /// If no hive answers, or it says no.
    fn run(&self) -> Result<Output, CliError> {
        let models = self.hive.ask(|hive| hive.models())?;
        if self.json {
            return Ok(json(&ModelList { models }));
        }
        Ok(for_people(self.screen, &models).into())
    }
}

fn for_people(screen: Screen, models: &[Model]) -> String {
    let row = |model: &Model| {
        let revision = model.revision.as_deref().unwrap_or("-");
        let states = [(model.in_use, "in use"), (model.partial, "partial")];
        let states: Vec<&str> = states.iter().filter(|(is, _)| *is).map(|(_, state)| *state).collect();
        vec![
            model.model_ref.clone(),
            revision.chars().take(SHORT).collect(),
            size(model.size_bytes),
            model.files.len().to_string(),
            model.last_used.as_deref().map_or("-".to_owned(), minute),
            if states.is_empty() { "-".to_owned() } else { states.join(", ") },
        ]
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    let mut text = table(screen, &["~MODEL", "REVISION", ">SIZE", ">FILES", "LAST USED", "STATE"], &rows);
    let leftovers = models.iter().fold(0_u64, |sum, model| sum.saturating_add(model.leftover_bytes));
    if leftovers > 0 {
        text.push_str(&format!("\nleftovers of downloads  {}\n", size(leftovers)));
    }
    text
}

/// `2026-01-01T00:00:00.000Z` to the minute.
fn minute(time: &str) -> String {
    time.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ModelFile;

    #[test]
    fn people_get_a_table() {
        let whole = Model {
            model_ref: "hf:org/tiny".to_owned(),
            revision: Some("c0ffee00c0ffee00".to_owned()),
            refs: vec!["main".to_owned()],
            files: vec![ModelFile { name: "m.gguf".to_owned(), size_bytes: 5 << 30 }],
            size_bytes: 5 << 30,
            last_used: Some("2026-01-02T03:04:05.678Z".to_owned()),
            in_use: true,
            partial: true,
            broken: Vec::new(),
            leftover_bytes: 0,
        };
        let rest = Model {
            model_ref: "hf:o/\u{1b}[2J".to_owned(),
            revision: None,
            files: Vec::new(),
            size_bytes: 0,
            last_used: None,
            in_use: false,
            partial: false,
            leftover_bytes: 3 << 20,
            ..whole.clone()
        };
        let expected = "\
MODEL        REVISION     SIZE  FILES  LAST USED         STATE
hf:org/tiny  c0ffee00  5.0 GiB      1  2026-01-02 03:04  in use, partial
hf:o/?[2J    -             0 B      0  -                 -

leftovers of downloads  3.0 MiB
";
        assert_eq!(for_people(Screen::PLAIN, &[whole, rest]), expected);
        assert_eq!(for_people(Screen::PLAIN, &[]).lines().count(), 1);
    }
}
