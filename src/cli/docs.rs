//! The command lines in README and docs: each is one that this program reads.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{Parsed, run};

/// The lines of a page that are meant for a shell, without prompts and with those together that one ends in `\`.
fn lines_for_a_shell(page: &str) -> Vec<String> {
    let (mut lines, mut block, mut open) = (Vec::<String>::new(), None, false);
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language.to_owned()) };
            open = false;
            continue;
        }
        let line = match block.as_deref() {
            _ if open => line,
            Some("sh" | "bash") => line,
            Some("console") if line.starts_with("$ ") || line.starts_with("# ") => &line[2..],
            _ => continue,
        };
        let (line, goes_on) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        match lines.last_mut().filter(|_| open) {
            Some(last) => *last += line,
            None => lines.push(line.to_owned()),
        }
        open = goes_on;
    }
    lines
}

/// The words of a command of this program in `line`, if there is one: up to a pipe, a redirection or a comment.
fn command_in(line: &str) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut word, mut begun) = (None, String::new(), false);
    for c in line.chars().chain([' ']) {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            ('|' | '>' | '<' | '&' | ';' | ')' | '#', None) if !begun || c != '#' => break,
            (' ', None) => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, None) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    let at = words.iter().position(|word| word == "rbee-hive" || word.ends_with("/rbee-hive"))?;
    // What stands before it are variables; another program takes it as an argument.
    let is_variable = |word: &String| word.contains('=') || word == "sudo";
    words[..at].iter().all(is_variable).then(|| words.split_off(at + 1))
}

#[test]
fn each_command_in_the_docs_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|ext| ext == "md"));
    let (mut count, mut wrong) = (0, Vec::new());
    for path in pages.chain(["README.md", "SECURITY.md"].map(|name| root.join(name))) {
        let page = fs::read_to_string(&path).unwrap();
        for words in lines_for_a_shell(&page).iter().filter_map(|line| command_in(line)) {
            // "and so on" is no argument.
            let args = words.iter().filter(|word| *word != "…").map(OsString::from);
            let env = |name: &str| (name == "HOME").then(|| OsString::from("/home/someone"));
            count += 1;
            match run(args, &env) {
                Ok(Parsed::NoCommand(_)) => wrong.push(format!("{}: no command", path.display())),
                // A file or a token that is not here.
                Err(error) if error.exit_code == 2 && !error.message.starts_with("--kind-file") => {
                    wrong.push(format!("{}: {words:?}: {error}", path.display()));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 10, "{count} commands were found");
}

#[test]
fn a_command_is_found_among_what_a_shell_reads() {
    let page = "text\n```console\n$ HF_ENDPOINT=x rbee-hive serve \\\n    --bind '127.0.0.1:0'  # here\nrbee-hive listening\n```\n";
    let lines = lines_for_a_shell(page);
    assert_eq!(
        lines.iter().map(|line| command_in(line)).collect::<Vec<_>>(),
        [Some(vec!["serve".to_owned(), "--bind".to_owned(), "127.0.0.1:0".to_owned()])]
    );
    assert_eq!(command_in("rbee-hive manual | man -l -"), Some(vec!["manual".to_owned()]));
    assert_eq!(command_in("docker run rbee-hive serve"), None);
}
