//! Texts made from the tables of commands: `--help`, and the tables of README and docs/settings.md.

use std::fmt::Write as _;

use super::GROUPS;
use super::command::About;

pub(super) const WIDTH: usize = 80;

/// `rbee-hive --version`.
pub(super) fn version() -> String {
    format!("rbee-hive {}\n", env!("CARGO_PKG_VERSION"))
}

/// `rbee-hive --help`.
pub(super) fn top() -> String {
    let mut text = format!("{}\n\nUsage: rbee-hive <COMMAND> [FLAGS]\n", about());
    for (group, commands) in &GROUPS {
        push(&mut text, format_args!("\n{group}:\n"));
        for command in commands.iter().map(|command| command.about()) {
            push(&mut text, format_args!("  {:<13}  {}\n", command.name, command.summary));
        }
    }
    text.push_str(
        "\nFlags:\n  -h, --help     Print help, also after a command\n  -V, --version  Print the version\n",
    );
    text
}

/// `--help` of a command.
pub(super) fn command(command: &About) -> String {
    let mut text = format!("{}\n\nUsage: rbee-hive {}\n\nFlags:\n", command.about, command.usage());
    for flag in &command.flags {
        let short = flag.short.map_or(String::new(), |short| format!("-{short}, "));
        push(&mut text, format_args!("{}\n", format!("  {short}--{} {}", flag.name, flag.value).trim_end()));
        let (help, default) = (format!("      {}", flag.help), format!("[default: {}]", flag.default));
        let gap = if help.len() + 1 + default.len() <= WIDTH { " " } else { "\n      " };
        push(&mut text, format_args!("{help}{gap}{default}\n"));
    }
    let version = if command.has_version() { "-V" } else { "-V, --version" };
    push(
        &mut text,
        format_args!("  -h, --help\n      Print this help\n  {version}\n      Print the version\n"),
    );
    if !command.notes.is_empty() || command.is_client() {
        text.push('\n');
    }
    text.push_str(command.notes);
    if command.is_client() {
        text.push_str("A URL or token that is not given is read from the environment.\n");
    }
    text
}

/// A table of a command's flags for docs/settings.md.
#[cfg(test)]
fn flags_in_markdown(command: &About) -> String {
    let mut text = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    for flag in &command.flags {
        let value = flag.value.replace('|', "\\|");
        push(
            &mut text,
            format_args!(
                "| `--{} {value}` | `{}` | {} | {} |\n",
                flag.name,
                flag.env,
                code(flag.default),
                flag.help
            ),
        );
    }
    text
}

/// A table of all commands for the README.
#[cfg(test)]
fn commands_in_markdown() -> String {
    let mut text = "| command | what it does |\n|---|---|\n".to_owned();
    for command in super::commands().map(super::Entry::about) {
        push(&mut text, format_args!("| `{}` | {} |\n", command.usage(), command.summary));
    }
    text
}

/// A default in the README: a value as code, words as they are.
#[cfg(test)]
fn code(default: &str) -> String {
    if default.contains(' ') || default == "none" {
        default.replace('~', "\\~")
    } else {
        format!("`{default}`")
    }
}

pub(super) fn about() -> String {
    let about = env!("CARGO_PKG_DESCRIPTION");
    let at = about[..WIDTH.min(about.len())].rfind(' ').filter(|_| about.len() > WIDTH);
    at.map_or_else(|| about.to_owned(), |at| format!("{}\n{}", &about[..at], &about[at + 1..]))
}

fn push(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::{Entry, commands};

    fn abouts() -> impl Iterator<Item = About> {
        commands().map(Entry::about)
    }

    #[test]
    fn help_fits_a_terminal() {
        for text in abouts().map(|about| command(&about)).chain([top()]) {
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
            assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text}");
        }
    }

    #[test]
    fn help_names_every_command_and_flag_once() {
        let mut names = BTreeSet::new();
        for about in abouts() {
            assert!(names.insert(about.name), "{} is there twice", about.name);
            assert!(
                top().contains(&format!("\n  {:<13}  {}\n", about.name, about.summary)),
                "{}",
                about.name
            );
            let mut flags = BTreeSet::new();
            let help = command(&about);
            for flag in &about.flags {
                assert!(flags.insert(flag.name), "{} --{} is there twice", about.name, flag.name);
                let lines = format!("--{} {}", flag.name, flag.value);
                assert!(help.contains(&format!("{}\n      {}", lines.trim_end(), flag.help)), "{lines}");
                assert!(!flag.default.is_empty() && !flag.help.ends_with('.'), "{lines}");
            }
        }
    }

    #[test]
    fn readme_and_settings_have_these_tables() {
        let serve = abouts().find(|about| about.name == "serve").expect("it is there");
        let settings = include_str!("../../docs/settings.md");
        let tables = [
            ("flags", settings, flags_in_markdown(&serve)),
            ("commands", include_str!("../../README.md"), commands_in_markdown()),
        ];
        for (mark, page, text) in tables {
            let (_, rest) = page.split_once(&format!("<!-- {mark} -->\n")).expect("it marks the beginning");
            let (table, _) = rest.split_once(&format!("<!-- /{mark} -->")).expect("it marks the end");
            assert!(table == text, "between the marks of {mark} there should be:\n{text}");
        }
    }
}
