//! `rbee-hive completions`: what a shell completes, for bash, zsh and fish; and what it asks for that.

use std::ffi::OsStr;
use std::fmt::Write as _;

use super::client::{Hive, TOKEN_FILE, Typed, URL};
use super::command::{About, Entry, Flag, FlagAbout, Spec, Words};
use super::{CliError, Output, Parsed, Task, commands, task};

/// The shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Default)]
pub(super) struct Wanted(Option<Shell>);

pub(super) const COMMAND: Spec<Wanted> = Spec {
    name: "completions",
    summary: "Print what a shell completes",
    about: "Print a script that has a shell complete commands, flags and, asking the hive,\nnames of workers, models, kinds and devices.",
    notes: "\
SHELL is bash, zsh or fish. In the file that it reads at its start:
  source <(rbee-hive completions bash)
  source <(rbee-hive completions zsh)
  rbee-hive completions fish | source
",
    words: Some(Words { name: "SHELL", most: 1, set: shell }),
    flags: &[],
    read: |Wanted(shell), _| {
        let missing = || CliError::usage("SHELL is missing").with_hint("rbee-hive completions bash");
        Ok(Parsed::Print(script(shell.ok_or_else(missing)?)))
    },
};

fn shell(wanted: &mut Wanted, text: &OsStr) -> Result<(), String> {
    wanted.0 = Some(match text.to_str() {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        _ => return Err("must be bash, zsh or fish".to_owned()),
    });
    Ok(())
}

/// What can stand in a place.
enum Values {
    /// One of these.
    Words(Vec<&'static str>),
    Files,
    Folders,
    /// What the hive has of it: a word for [`CANDIDATES`].
    Asked(&'static str),
    Unknown,
}

/// By what a value or word is called.
fn values(name: &'static str) -> Values {
    match name {
        "ID" | "MODEL" | "KIND" | "DEVICE" => Values::Asked(name),
        "PATH" | "FILE" => Values::Files,
        "DIR" => Values::Folders,
        "SHELL" => Values::Words(vec!["bash", "zsh", "fish"]),
        _ if name.contains('|') => Values::Words(name.split('|').collect()),
        _ => Values::Unknown,
    }
}

fn script(shell: Shell) -> String {
    let all: Vec<About> = commands().map(Entry::about).collect();
    match shell {
        Shell::Bash => bash(&all),
        Shell::Zsh => zsh(&all),
        Shell::Fish => fish(&all),
    }
}

/// Commands of one word, and those of two by their first.
fn first_words(all: &[About]) -> impl Iterator<Item = &About> {
    all.iter().filter(|command| !command.name.contains(' '))
}

fn seconds_of<'a>(all: &'a [About], first: &'a str) -> impl Iterator<Item = (&'static str, &'a About)> {
    all.iter().filter_map(move |command| {
        let (one, two) = command.name.split_once(' ')?;
        (one == first).then_some((two, command))
    })
}

fn bash(all: &[About]) -> String {
    let reply = |values: Values| match values {
        Values::Words(words) => format!("words='{}'", words.join(" ")),
        Values::Files => "compopt -o default; return".to_owned(),
        Values::Folders => "compopt -o dirnames; return".to_owned(),
        Values::Asked(what) => format!("words=$(\"$1\" {CANDIDATES} {what} 2>/dev/null)"),
        Values::Unknown => "return".to_owned(),
    };
    let (mut after, mut flags, mut words) = (String::new(), String::new(), String::new());
    for command in all {
        let name = command.name;
        for flag in command.flags.iter().filter(|flag| !flag.value.is_empty()) {
            put(&mut after, format_args!("    '{name} --{}') {};;\n", flag.name, reply(values(flag.value))));
        }
        let names: Vec<String> = command.flags.iter().map(|flag| format!("--{}", flag.name)).collect();
        put(&mut flags, format_args!("    '{name}') words='{} --help';;\n", names.join(" ")));
        let seconds: Vec<&str> = seconds_of(all, name).map(|(second, _)| second).collect();
        match command.words {
            Some((word, _)) => put(&mut words, format_args!("    '{name}') {};;\n", reply(values(word)))),
            None if !seconds.is_empty() => {
                put(&mut words, format_args!("    '{name}') words='{}';;\n", seconds.join(" ")));
            }
            None => {}
        }
    }
    let firsts: Vec<&str> = first_words(all).map(|command| command.name).collect();
    let twos: Vec<String> =
        all.iter().filter(|c| c.name.contains(' ')).map(|c| format!("'{}'", c.name)).collect();
    format!(
        r#"# Completion of rbee-hive for bash.
_rbee_hive() {{
  local IFS=$' \t\n' cur=$2 before=$3 command=${{COMP_WORDS[1]}} words=
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{firsts} --help --version' -- "$cur"))
    return
  fi
  if ((COMP_CWORD > 2)); then
    case "$command ${{COMP_WORDS[2]}}" in
    {twos}) command="$command ${{COMP_WORDS[2]}}";;
    esac
  fi
  case "$command $before" in
{after}    *)
      if [[ $cur == -* ]]; then
        case $command in
{flags}        esac
      else
        case $command in
{words}        esac
      fi;;
  esac
  # A colon parts words for readline: what stands before the last one is there already.
  local colons=${{cur%"${{cur##*:}}"}}
  # `compgen -W` would run what a name has in $(…).
  local word
  COMPREPLY=()
  for word in $words; do
    [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
  done
  if [[ $COMP_WORDBREAKS == *:* && -n $colons ]]; then
    COMPREPLY=("${{COMPREPLY[@]#"$colons"}}")
  fi
}}
complete -F _rbee_hive rbee-hive
"#,
        firsts = firsts.join(" "),
        twos = twos.join("|"),
    )
}

fn zsh(all: &[About]) -> String {
    let action = |name: &'static str| match values(name) {
        Values::Words(words) => format!("({})", words.join(" ")),
        Values::Files => "_files".to_owned(),
        Values::Folders => "_files -/".to_owned(),
        Values::Asked(what) => format!("_rbee_hive_ask {what}"),
        Values::Unknown => String::new(),
    };
    let plain = |text: &str| text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]");
    let listed = |name: &str, summary: &str| format!("'{name}:{}'", summary.replace('\'', "'\\''"));
    let mut cases = String::new();
    for command in all {
        let mut arguments: Vec<String> = command
            .flags
            .iter()
            .map(|FlagAbout { name, value, help, .. }| match value {
                &"" => format!("'--{name}[{}]'", plain(help)),
                _ => format!("'--{name}=[{}]:{value}:{}'", plain(help), action(value)),
            })
            .collect();
        arguments.push("'(- *)--help[Print help]'".to_owned());
        if let Some((word, most)) = command.words {
            let many = if most > 1 { "*" } else { "1" };
            arguments.push(format!("'{many}:{word}:{}'", action(word)));
        }
        let seconds: Vec<String> =
            seconds_of(all, command.name).map(|(name, command)| listed(name, command.summary)).collect();
        if !seconds.is_empty() {
            put(
                &mut cases,
                format_args!("    '{}')\n      local -a seconds=({})\n", command.name, seconds.join(" ")),
            );
            cases.push_str("      ((CURRENT == 2)) && _describe -t commands command seconds\n");
            put(&mut cases, format_args!("      _arguments {};;\n", arguments.join(" ")));
        } else {
            put(&mut cases, format_args!("    '{}') _arguments {};;\n", command.name, arguments.join(" ")));
        }
    }
    let firsts: Vec<String> = first_words(all).map(|command| listed(command.name, command.summary)).collect();
    let twos: Vec<String> =
        all.iter().filter(|c| c.name.contains(' ')).map(|c| format!("'{}'", c.name)).collect();
    format!(
        r#"#compdef rbee-hive
# Completion of rbee-hive for zsh.
_rbee_hive_ask() {{
  local -a found=("${{(@f)$(rbee-hive {CANDIDATES} $1 2>/dev/null)}}")
  compadd -a found
}}
_rbee_hive() {{
  local -a commands=({firsts})
  if ((CURRENT == 2)); then
    _describe -t commands command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case "$command $words[2]" in
    {twos})
      if ((CURRENT > 2)); then
        command="$command $words[2]"
        shift words
        ((CURRENT--))
      fi;;
  esac
  case $command in
{cases}  esac
}}
if [[ $funcstack[1] == _rbee-hive ]]; then
  _rbee_hive "$@"
else
  compdef _rbee_hive rbee-hive
fi
"#,
        firsts = firsts.join(" "),
        twos = twos.join("|"),
    )
}

fn fish(all: &[About]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let arguments = |name: &'static str| match values(name) {
        Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        Values::Files => " -r -F".to_owned(),
        Values::Folders => " -x -a '(__fish_complete_directories)'".to_owned(),
        Values::Asked(what) => format!(" -x -a '(rbee-hive {CANDIDATES} {what} 2>/dev/null)'"),
        Values::Unknown => " -x".to_owned(),
    };
    let mut text = "# Completion of rbee-hive for fish.\ncomplete -c rbee-hive -f\n".to_owned();
    for command in first_words(all) {
        let summary = quoted(command.summary);
        put(
            &mut text,
            format_args!("complete -c rbee-hive -n __fish_use_subcommand -a {} -d {summary}\n", command.name),
        );
    }
    for command in all {
        let here = match command.name.split_once(' ') {
            Some((one, two)) => {
                format!("__fish_seen_subcommand_from {one}; and __fish_seen_subcommand_from {two}")
            }
            None => {
                let seconds: Vec<&str> = seconds_of(all, command.name).map(|(second, _)| second).collect();
                for (second, about) in seconds_of(all, command.name) {
                    let summary = quoted(about.summary);
                    let here = format!(
                        "__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from {}",
                        command.name,
                        seconds.join(" ")
                    );
                    put(
                        &mut text,
                        format_args!("complete -c rbee-hive -n '{here}' -a {second} -d {summary}\n"),
                    );
                }
                match seconds.is_empty() {
                    true => format!("__fish_seen_subcommand_from {}", command.name),
                    false => format!(
                        "__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from {}",
                        command.name,
                        seconds.join(" ")
                    ),
                }
            }
        };
        for flag in &command.flags {
            let value = if flag.value.is_empty() { String::new() } else { arguments(flag.value) };
            let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
            put(
                &mut text,
                format_args!(
                    "complete -c rbee-hive -n '{here}' -l {}{short}{value} -d {}\n",
                    flag.name,
                    quoted(flag.help)
                ),
            );
        }
        if let Some((word, _)) = command.words {
            let value = arguments(word).replace(" -x", "").replace(" -r", "");
            put(&mut text, format_args!("complete -c rbee-hive -n '{here}'{value}\n"));
        }
    }
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a String takes all");
}

/// The command that the scripts call; no person does.
const CANDIDATES: &str = "__candidates";

pub(super) const ASK: Spec<Typed> = Spec {
    name: CANDIDATES,
    summary: "Print what the hive has of something, for a shell",
    about: "Print what the hive has of something, for a shell.",
    notes: "",
    words: Some(Words { name: "WHAT", most: 1, set: what }),
    flags: &FLAGS,
    read: |typed, env| task(Ok(Candidates { hive: Hive::new(&typed, env)?, what: typed.query.model })),
};

const FLAGS: [Flag<Typed>; 2] = [URL, TOKEN_FILE];

fn what(typed: &mut Typed, text: &OsStr) -> Result<(), String> {
    typed.query.model = text.to_string_lossy().into_owned();
    Ok(())
}

#[derive(Debug)]
struct Candidates {
    hive: Hive,
    what: String,
}

impl Task for Candidates {
    fn run(&self) -> Result<Output, CliError> {
        let names: Vec<String> = match self.what.as_str() {
            "ID" => {
                let workers = self.hive.ask(|hive| hive.workers())?;
                workers.into_iter().map(|worker| worker.worker_id.to_string()).collect()
            }
            "MODEL" => {
                self.hive.ask(|hive| hive.models())?.into_iter().map(|model| model.model_ref).collect()
            }
            "KIND" => self.hive.ask(|hive| hive.kinds())?.into_iter().map(|kind| kind.kind).collect(),
            "DEVICE" => {
                let gpus = self.hive.ask(|hive| hive.devices())?.gpus;
                std::iter::once("cpu".to_owned()).chain(gpus.into_iter().map(|gpu| gpu.id)).collect()
            }
            _ => Vec::new(),
        };
        // A shell reads them: nothing in them means anything to it.
        let is_plain =
            |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@+,-".contains(&b));
        Ok(names.iter().filter(is_plain).map(|name| format!("{name}\n")).collect::<String>().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_knows_every_command_and_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in commands().map(Entry::about) {
                let last = command.name.rsplit(' ').next().expect("a word");
                assert!(script.contains(last), "{shell:?}: {}", command.name);
                for flag in command.flags {
                    let written = match shell {
                        Shell::Fish => format!("-l {}", flag.name),
                        _ => format!("--{}", flag.name),
                    };
                    assert!(script.contains(&written), "{shell:?}: {written}");
                }
            }
            assert!(!script.contains("Candidates") && script.contains(CANDIDATES));
        }
    }

    #[test]
    fn what_a_value_is_called_tells_what_can_stand_there() {
        let words = |name| match values(name) {
            Values::Words(words) => words,
            _ => Vec::new(),
        };
        assert_eq!(words("adopt|kill"), ["adopt", "kill"]);
        assert!(matches!(values("PATH"), Values::Files) && matches!(values("DIR"), Values::Folders));
        assert!(matches!(values("ID"), Values::Asked("ID")) && matches!(values("N"), Values::Unknown));
    }
}
