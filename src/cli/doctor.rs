//! `rbee-hive doctor`: looks at a machine as `serve` would find it, and says what to do about what is wrong.

use serde::Serialize;

use super::command::Spec;
use super::screen::{Colour, Screen};
use super::serve::{self, Typed};
use super::{CliError, Environment, Output, Task, json, resolve, task};
use crate::config::Config;
use crate::logging::is_hazard;

mod checks;

/// What is looked at.
#[derive(Debug)]
struct Command {
    /// The settings that `serve` would have, or why it would not start.
    config: Result<Box<Config>, CliError>,
    json: bool,
    screen: Screen,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "doctor",
    summary: "Look for what is wrong with a machine",
    about: "Look at this machine as `rbee-hive serve` with the same flags and environment\nwould find it: settings, drivers, permissions, ports, disk, tokens, queen, the\nclock, limits. Nothing is changed.",
    notes: "\
Each line is ok, a warning or a failure, with what to do about it. The exit code
is 1 if something fails, else 0.
",
    words: None,
    flags: &serve::FLAGS_AND_JSON,
    read: |typed, env| task(Ok(command(typed, env))),
};

fn command(typed: Typed, env: Environment<'_>) -> Command {
    let (json, screen) = (typed.json, Screen::of_stdout(env));
    Command { config: resolve::config(typed, env).map(Box::new), json, screen }
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// A hive runs, and less well than it could.
    Warning,
    /// A hive does not run, or does not do what it is told to.
    Failure,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, message: message.into(), hint: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, message: message.into(), hint: Some(hint.into()) }
    }

    fn failure(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Failure, message: message.into(), hint: Some(hint.into()) }
    }
}

/// All findings, for `--json`.
#[derive(Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Task for Command {
    fn run(&self) -> Result<Output, CliError> {
        let findings = match &self.config {
            Ok(config) => checks::all(config),
            Err(error) => {
                let hint =
                    error.hint.clone().unwrap_or_else(|| "`rbee-hive serve --help` tells how".to_owned());
                vec![Finding::failure("settings", error.message.clone(), hint)]
            }
        };
        let fails = findings.iter().any(|finding| finding.verdict == Verdict::Failure);
        let output = match self.json {
            true => json(&Findings { findings }),
            false => for_people(self.screen, &findings).into(),
        };
        Ok(Output { exit_code: fails.into(), ..output })
    }
}

fn for_people(screen: Screen, findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, verdict, message, hint } in findings {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok  ", Colour::Good),
            Verdict::Warning => ("warn", Colour::Doubtful),
            Verdict::Failure => ("FAIL", Colour::Bad),
        };
        text.push_str(&format!("{}  {check:<11}  {}\n", screen.paint(colour, word), plain(message)));
        if let Some(hint) = hint {
            text.push_str(&format!("                   {}\n", screen.paint(Colour::Faint, &plain(hint))));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let said = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    text + &match (count(Verdict::Failure), count(Verdict::Warning)) {
        (0, 0) => "\nall is well\n".to_owned(),
        (0, warnings) => format!("\n{}\n", said(warnings, "warning")),
        (failures, 0) => format!("\n{}\n", said(failures, "failure")),
        (failures, warnings) => format!("\n{}, {}\n", said(failures, "failure"), said(warnings, "warning")),
    }
}

fn plain(text: &str) -> String {
    text.replace(is_hazard, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_line_and_its_hint_below() {
        let findings = [
            Finding::ok("disk", "40.0 GiB are free"),
            Finding::failure("ports", "taken", "ss -ltnp tells by whom"),
        ];
        let expected = "\
ok    disk         40.0 GiB are free
FAIL  ports        taken
                   ss -ltnp tells by whom

1 failure
";
        assert_eq!(for_people(Screen::PLAIN, &findings), expected);
        assert_eq!(for_people(Screen::PLAIN, &findings[..1]).lines().last(), Some("all is well"));
    }
}
