//! Texts made from the table of flags: `--help` and the README's table.

use std::fmt::Write as _;

use super::COMMANDS;
use super::capacity;
use super::devices;
use super::flags::{FLAGS, Flag};
use super::kinds;
use super::logs;
use super::models;
use super::provision;
use super::pull;
use super::{rm, shutdown};

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
    let mut text = command("Run the hive in the foreground.", "serve [FLAGS]", &FLAGS);
    text.push_str(
        "\nA flag that is not given is read from the environment: RBEE_HIVE_ and its\n\
         name (--bind: RBEE_HIVE_BIND); commas part the values of a repeatable one.\n\
         A duration is a number with ms, s, m or h, or plain seconds.\n",
    );
    text
}

/// `rbee-hive devices --help`.
pub(super) fn devices() -> String {
    let about = "Show processor, memory and GPUs: what they have, and what is free of it.";
    let mut text = command(about, "devices [FLAGS]", &devices::FLAGS);
    text.push_str("\nA URL or token that is not given is read from the environment.\n");
    text
}

/// `rbee-hive capacity --help`.
pub(super) fn capacity() -> String {
    let about = "Tell whether a worker with this model would be admitted now, and what it\ntakes.";
    let mut text = command(about, "capacity MODEL [FLAGS]", &capacity::FLAGS);
    text.push_str(
        "\nMODEL is hf:org/repo, hf:org/repo:QUANT or file:/path, as spawn takes it.\n\
         A URL or token that is not given is read from the environment.\n\
         The exit code is 0 if it fits, 3 if it does not.\n",
    );
    text
}

/// `rbee-hive pull --help`.
pub(super) fn pull() -> String {
    let about = "Fetch a model from the Hugging Face hub into the hive's cache, and print where\nit is.";
    let mut text = command(about, "pull MODEL [FLAGS]", &pull::FLAGS);
    text.push_str(
        "\nMODEL is hf:org/repo, hf:org/repo:QUANT or hf:org/repo:path/file.gguf, each with\n\
         @revision if it is not to be main. Without a quantisation it is Q4_K_M, else\n\
         Q8_0, else the first; without a GGUF its safetensors.\n\
         How far it is goes to stderr, the path to stdout. Ctrl-C cancels the download;\n\
         the next pull goes on where it stopped.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive models --help`.
pub(super) fn models() -> String {
    let about = "Show the models in the hive's cache: their size, last use and state.";
    let mut text = command(about, "models [FLAGS]", &models::FLAGS);
    text.push_str("\nA URL or token that is not given is read from the environment.\n");
    text
}

/// `rbee-hive rm --help`.
pub(super) fn rm() -> String {
    let about = "Delete a model from the hive's cache. What other models share stays.";
    let mut text = command(about, "rm MODEL [FLAGS]", &rm::FLAGS);
    text.push_str(
        "\nMODEL is hf:org/repo for all of it, hf:org/repo@revision for that revision, or\n\
         hf:org/repo:QUANT or hf:org/repo:path/file.gguf for that file alone.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive logs --help`.
pub(super) fn logs() -> String {
    let about = "Show what a worker wrote, also for a while after its end.";
    let mut text = command(about, "logs ID [FLAGS]", &logs::FLAGS);
    text.push_str(
        "\nID is a worker's name, or a beginning that only one has. -n is --tail, -f is\n\
         --follow. Following ends with the worker; Ctrl-C ends it with exit code 130. A\n\
         line of more than 64 KiB is then shown in pieces.\n\
         On a terminal control characters are shown as escapes; into a pipe go the lines\n\
         as they are.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive shutdown --help`.
pub(super) fn shutdown() -> String {
    let about = "End a hive. Its workers are stopped first, unless they are to be kept.";
    let mut text = command(about, "shutdown [FLAGS]", &shutdown::FLAGS);
    text.push_str(
        "\nWith --keep-workers they go on serving, and the next hive that is started on the\n\
         same data directory adopts them: that is how a hive is upgraded. If none is within\n\
         ten minutes (or --orphan-timeout, if that is longer), they are ended.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive kinds --help`.
pub(super) fn kinds() -> String {
    let about = "Show the kinds of workers: which program each launches, and whether it is here.";
    let mut text = command(about, "kinds [check|schema|rm] [FLAGS]", &kinds::FLAGS);
    text.push_str(
        "\n`rbee-hive kinds check FILE…` checks manifests without a hive;\n\
         `rbee-hive kinds schema` prints the JSON Schema of a manifest;\n\
         `rbee-hive kinds rm KIND` removes what `rbee-hive provision` installed.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive kinds rm --help`.
pub(super) fn kinds_rm() -> String {
    let about = "Remove what was installed of a kind. Workers that run it keep its files until\nthey end.";
    let mut text = command(about, "kinds rm KIND [FLAGS]", &kinds::RM_FLAGS);
    text.push_str("\nA URL or token that is not given is read from the environment.\n");
    text
}

/// `rbee-hive provision --help`.
pub(super) fn provision() -> String {
    let about =
        "Have the hive install the program of a kind from its artifact server, and print\nwhere it is.";
    let mut text = command(about, "provision KIND [FLAGS]", &provision::FLAGS);
    text.push_str(
        "\nA program that is here already is checked, and nothing is fetched, unless\n\
         another version is asked for. One from PATH or --worker is never replaced.\n\
         How far it is goes to stderr, the path to stdout. Ctrl-C ends this command\n\
         alone: the hive goes on. -V prints the version of this program.\n\
         A URL or token that is not given is read from the environment.\n",
    );
    text
}

/// `rbee-hive kinds check --help`.
pub(super) fn kinds_check() -> String {
    let about = "Check manifests of kinds as `serve` would, and name the first mistake in each.";
    let mut text = command(about, "kinds check FILE… [FLAGS]", &kinds::CHECK_FLAGS);
    text.push_str("\nThe exit code is 0 if all are good, 2 if one is not.\n");
    text
}

/// `rbee-hive kinds schema --help`.
pub(super) fn kinds_schema() -> String {
    command("Print the JSON Schema (2020-12) of a kind's manifest.", "kinds schema", &kinds::SCHEMA_FLAGS)
}

/// A command and its flags.
fn command<T>(about: &str, usage: &str, flags: &[Flag<T>]) -> String {
    let mut text = format!("{about}\n\nUsage: rbee-hive {usage}\n\nFlags:\n");
    for flag in flags {
        push(&mut text, format_args!("{}\n", format!("  --{} {}", flag.name, flag.value).trim_end()));
        let (help, default) = (format!("      {}", flag.help), format!("[default: {}]", flag.default));
        let gap = if help.len() + 1 + default.len() <= WIDTH { " " } else { "\n      " };
        push(&mut text, format_args!("{help}{gap}{default}\n"));
    }
    let version = if flags.iter().any(|flag| flag.name == "version") { "-V" } else { "-V, --version" };
    push(
        &mut text,
        format_args!("  -h, --help\n      Print this help\n  {version}\n      Print the version\n"),
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
        let kinds = [kinds(), kinds_check(), kinds_schema(), kinds_rm(), provision()];
        let all = [top(), serve(), devices(), capacity(), pull(), models(), rm(), logs()];
        for text in all.into_iter().chain(kinds) {
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
