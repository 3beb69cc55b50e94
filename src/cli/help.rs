//! Texts made from the table of flags: `--help` and the README's table.

use std::fmt::Write as _;

use super::COMMANDS;
use super::flags::FLAGS;

const WIDTH: usize = 80;

/// `rbee-hive --version`.
pub(super) fn version() -> String {
    format!("rbee-hive {}\n", env!("CARGO_PKG_VERSION"))
}

/// `rbee-hive --help`.
pub(super) fn top() -> String {
    let mut text = format!("{}\n\nUsage: rbee-hive <COMMAND> [FLAGS]\n\nCommands:\n", about());
    for command in &COMMANDS {
        push(&mut text, format_args!("  {:<13}  {}\n", command.name, command.help));
    }
    text.push_str(
        "\nFlags:\n  -h, --help     Print help, also after a command\n  -V, --version  Print the version\n",
    );
    text
}

/// `rbee-hive serve --help`.
pub(super) fn serve() -> String {
    let mut text = "Run the hive in the foreground.\n\nUsage: rbee-hive serve [FLAGS]\n\nFlags:\n".to_owned();
    for flag in &FLAGS {
        push(&mut text, format_args!("  --{} {}\n", flag.name, flag.value));
        let (help, default) = (format!("      {}", flag.help), format!("[default: {}]", flag.default));
        let gap = if help.len() + 1 + default.len() <= WIDTH { " " } else { "\n      " };
        push(&mut text, format_args!("{help}{gap}{default}\n"));
    }
    text.push_str(
        "  -h, --help\n      Print this help\n  -V, --version\n      Print the version\n\n\
         A flag that is not given is read from the environment: RBEE_HIVE_ and its\n\
         name (--bind: RBEE_HIVE_BIND); commas part the values of a repeatable one.\n\
         A duration is a number with ms, s, m or h, or plain seconds.\n",
    );
    text
}

/// The table of flags for the README.
#[cfg(test)]
fn markdown() -> String {
    let mut text = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    for flag in &FLAGS {
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

/// A default in the README: a value as code, words as they are.
#[cfg(test)]
fn code(default: &str) -> String {
    if default.contains(' ') || default == "none" {
        default.replace('~', "\\~")
    } else {
        format!("`{default}`")
    }
}

fn about() -> String {
    let about = env!("CARGO_PKG_DESCRIPTION");
    let at = about[..WIDTH.min(about.len())].rfind(' ').filter(|_| about.len() > WIDTH);
    at.map_or_else(|| about.to_owned(), |at| format!("{}\n{}", &about[..at], &about[at + 1..]))
}

fn push(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal() {
        for text in [top(), serve()] {
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
            assert!(text.ends_with('\n'));
        }
    }

    #[test]
    fn help_names_every_flag_and_command() {
        for flag in &FLAGS {
            assert!(
                serve().contains(&format!("  --{} {}\n      {}", flag.name, flag.value, flag.help)),
                "{}",
                flag.name
            );
        }
        assert!(COMMANDS.iter().all(|command| top().contains(command.name)));
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("<!-- flags -->\n").expect("README.md marks the table's beginning");
        let (table, _) = rest.split_once("<!-- /flags -->").expect("README.md marks the table's end");
        assert!(table == markdown(), "README.md should have, between the marks:\n{}", markdown());
    }
}
