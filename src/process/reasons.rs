//! Why a worker ended, from the last lines that it wrote, in words for a person.
//!
//! Engines are told apart by their own words, not by the name of a kind: a manifest may call llama.cpp's server
//! as it likes. Nothing of a line gets into a reason but numbers and plain names: no path, no control character.
//! The lines that this was made from stand, with where they are from, in `tests/fixtures/reasons/`.

use signal_hook::consts::{SIGBUS, SIGILL, SIGKILL};

use crate::lifecycle::event::ExitStatus;

mod causes;

/// Bytes of a name out of a log.
const NAME_BYTES_MAX: usize = 64;

/// Words after which what was said before is no reason any more: the engine serves, or has found a way around.
const SETTLED: [&str; 5] = [
    ": model loaded",
    "server is listening on",
    ": listening on http",
    "Application startup complete",
    "retrying without pipeline parallelism",
];

/// Says what a cause means, from the line that it was found in.
type Say = fn(&Found<'_>) -> String;

/// Why a worker ended that nobody asked to end, for a person, or `None` if neither its last lines nor the kernel
/// tell. `status`: how it ended, unless the hive itself killed it.
pub fn explain(lines: &[String], status: Option<ExitStatus>) -> Option<String> {
    let settled = lines.iter().rposition(|line| SETTLED.iter().any(|word| line.contains(word)));
    let lines = &lines[settled.map_or(0, |at| at + 1)..];
    let said = causes::CAUSES.iter().find_map(|(mark, say)| {
        let (before, rest) = lines.iter().rev().find_map(|line| line.split_once(mark))?;
        Some(say(&Found { lines, before, rest }))
    });
    said.or_else(|| by_status(status?).map(str::to_owned))
}

fn by_status(status: ExitStatus) -> Option<&'static str> {
    Some(match status {
        ExitStatus::Signal(SIGILL) => causes::NO_INSTRUCTION,
        ExitStatus::Signal(SIGKILL) => "killed from outside: mostly by the system, because memory ran out",
        ExitStatus::Signal(SIGBUS) => "a file that it had mapped became shorter, or the disk failed",
        // What shells and env say of a program that is a script.
        ExitStatus::Code(126) => "the program, or one that it starts, may not be executed",
        ExitStatus::Code(127) => "the program, or one that it starts, was not found",
        _ => return None,
    })
}

/// A cause and where it was found.
struct Found<'a> {
    lines: &'a [String],
    before: &'a str,
    rest: &'a str,
}

impl<'a> Found<'a> {
    /// The number that follows the mark.
    fn number(&self) -> Option<&'a str> {
        number(self.rest)
    }

    /// The name that follows the mark, in quotes or not.
    fn name(&self) -> Option<&'a str> {
        name(self.rest)
    }

    /// As in `the architecture (qwen9)`; nothing if it is no plain name.
    fn named(&self) -> String {
        self.name().map(|name| format!(" ({name})")).unwrap_or_default()
    }

    /// As in `the argument --foo`; nothing if it is no plain name.
    fn spaced_name(&self) -> String {
        self.name().map(|name| format!(" {name}")).unwrap_or_default()
    }

    /// What follows `words` behind the mark.
    fn find(&self, words: &str) -> Option<&'a str> {
        self.rest.split_once(words).map(|(_, rest)| rest)
    }

    /// What follows `words` in the last line that has them.
    fn last(&self, words: &str) -> Option<&'a str> {
        self.lines.iter().rev().find_map(|line| line.split_once(words)).map(|(_, rest)| rest)
    }

    /// The context that the engine was asked for, if it says.
    fn context(&self) -> String {
        let of_all = self.last("n_ctx ").and_then(|rest| number(rest.trim_start().strip_prefix("= ")?));
        match (of_all, self.last("n_ctx_seq (").and_then(number)) {
            (Some(tokens), _) => format!("a context of {tokens}"),
            (None, Some(tokens)) => format!("a context of {tokens} tokens a slot"),
            (None, None) => "the context".to_owned(),
        }
    }

    /// How much memory could not be had, and where, if ggml says.
    fn needed(&self) -> Option<String> {
        let of = |line: &'a String| line.split_once("failed to allocate ")?.1.split_once(" buffer of size ");
        let (buffer, size) = self.lines.iter().rev().find_map(of)?;
        let bytes: u64 = number(size)?.parse().ok()?;
        Some(format!("{} MiB more were needed on {}", bytes >> 20, name(buffer)?))
    }
}

/// A number at the beginning of a text, with decimals or not.
fn number(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end.min(NAME_BYTES_MAX)].trim_end_matches('.');
    (!number.is_empty()).then_some(number)
}

/// A number and its unit, as in `4.54 GiB`.
fn quantity(text: &str) -> Option<String> {
    let number = number(text)?;
    let unit = ["GiB", "MiB", "KiB", "GB", "MB"]
        .into_iter()
        .find(|unit| text[number.len()..].trim_start().starts_with(unit))?;
    Some(format!("{number} {unit}"))
}

/// A plain name at the beginning of a text: up to a quote, a blank or a colon; `None` if there is more to it.
fn name(text: &str) -> Option<&str> {
    let end = text.find(|c: char| c.is_whitespace() || "'\"`:,]".contains(c)).unwrap_or(text.len());
    let name = text[..end].trim_end_matches('.');
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    (is_plain && (1..=NAME_BYTES_MAX).contains(&name.len())).then_some(name)
}

#[cfg(test)]
mod tests;
