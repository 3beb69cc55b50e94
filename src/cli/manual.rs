//! `rbee-hive manual`: the page for `man`, in the language of man(7).

use std::fmt::Write as _;

use super::command::{About, Spec};
use super::{GROUPS, Parsed};

pub(super) const COMMAND: Spec<()> = Spec {
    name: "manual",
    summary: "Print the manual page, for `man`",
    about: "Print the manual page: `rbee-hive manual | man -l -`, or into a file rbee-hive.1\nin a folder of manuals.",
    notes: "",
    words: None,
    flags: &[],
    read: |(), _| Ok(Parsed::Print(page())),
};

/// Of this text.
const DATE: &str = "2026-11-28";

fn page() -> String {
    let mut text = format!(
        ".TH RBEE\\-HIVE 1 \"{DATE}\" \"rbee\\-hive {}\" \"User commands\"\n.SH NAME\nrbee\\-hive \\- {}\n",
        plain(env!("CARGO_PKG_VERSION")),
        plain(env!("CARGO_PKG_DESCRIPTION"))
    );
    text.push_str(".SH SYNOPSIS\n.B rbee\\-hive\n.I COMMAND\n[\\fIFLAGS\\fR]\n.SH COMMANDS\n");
    for (group, commands) in &GROUPS {
        put(&mut text, format_args!(".SS {}\n", plain(group)));
        for command in commands.iter().map(|command| command.about()) {
            put(&mut text, format_args!(".TP\n.B {}\n{}\n", plain(command.name), plain(command.summary)));
        }
    }
    for command in GROUPS.iter().flat_map(|(_, commands)| commands.iter()).map(|command| command.about()) {
        section(&mut text, &command);
    }
    text.push_str(EXIT_CODES);
    text
}

const EXIT_CODES: &str = "\
.SH EXIT STATUS
.TP
.B 0
It was done.
.TP
.B 1
It could not be done: no hive answers, or it says no.
.TP
.B 2
The command line, the environment or a manifest is wrong.
.TP
.B 3
.B capacity\\fR: the model does not fit.
.TP
.B 130
Somebody pressed Ctrl\\-C.
.SH ENVIRONMENT
.TP
.B RUST_LOG
How much \\fBserve\\fR writes to its log: error, warn, info, debug.
.TP
.B NO_COLOR
No colours, on a terminal as well.
.TP
.BR HF_TOKEN ,\\  HF_ENDPOINT ,\\  HF_HUB_OFFLINE ,\\  HF_HUB_CACHE ,\\  HF_HOME
As for huggingface_hub.
";

fn section(text: &mut String, command: &About) {
    put(text, format_args!(".SH {}\n", plain(&command.name.to_uppercase())));
    put(text, format_args!(".B rbee\\-hive {}\n.PP\n{}\n", plain(&command.usage()), lines(command.about)));
    for flag in &command.flags {
        let short = flag.short.map_or(String::new(), |short| format!("\\-{short}, "));
        let value =
            if flag.value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", plain(flag.value)) };
        let env = if flag.env.is_empty() { String::new() } else { format!("; {}", plain(flag.env)) };
        put(
            text,
            format_args!(
                ".TP\n\\fB{short}\\-\\-{}\\fR{value}\n{}.\nDefault: {}{env}.\n",
                plain(flag.name),
                plain(flag.help),
                plain(flag.default)
            ),
        );
    }
    if !command.notes.is_empty() {
        put(text, format_args!(".PP\n{}\n", lines(command.notes)));
    }
}

/// A text of several lines; those that are set in stay as they are.
fn lines(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("  ") {
        Some(example) => format!(".br\n\\ \\ {}", plain(example)),
        None => plain(line),
    };
    text.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A text in which nothing is a request or an escape.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...").replace('`', "\\`");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command::Entry;

    #[test]
    fn the_manual_has_every_flag_with_its_variable() {
        let page = page();
        for command in crate::cli::commands().map(Entry::about) {
            assert!(page.contains(&format!(".SH {}\n", plain(&command.name.to_uppercase()))));
            for flag in command.flags {
                assert!(page.contains(&plain(flag.name)) && page.contains(&plain(flag.env)), "{}", flag.name);
            }
        }
        assert!(page.is_ascii(), "man pages are read in any locale");
    }
}
