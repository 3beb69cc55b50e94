//! Whole command lines: what is typed, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::config::{LogFormat, Orphans};

/// One command line with its environment.
#[derive(Default)]
struct Typing {
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
}

impl Typing {
    fn serve(line: &str) -> Self {
        let typing = Self::line(&format!("serve {line}"));
        typing.env("HOME", "/home/someone")
    }

    fn line(line: &str) -> Self {
        Self { args: line.split_whitespace().map(OsString::from).collect(), env: BTreeMap::new() }
    }

    fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn run(self) -> Result<Parsed, CliError> {
        run(self.args, &|name| self.env.get(name).cloned())
    }

    /// What is to be done, as it shows itself.
    fn task(self) -> String {
        match self.run() {
            Ok(Parsed::Run(task)) => format!("{task:?}"),
            other => panic!("{other:?}"),
        }
    }

    fn config(self) -> Config {
        match self.run() {
            Ok(Parsed::Serve(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn fails(self, exit_code: u8, text: &str) {
        let error = self.run().expect_err("it cannot be followed");
        assert_eq!((error.exit_code, error.to_string().as_str()), (exit_code, text));
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn help_and_version_are_on_every_level() {
    for line in ["-h", "--help", "serve -h", "serve --help", "serve --bind nonsense --help"] {
        assert!(
            matches!(Typing::line(line).run(), Ok(Parsed::Print(text)) if text.contains("Usage: rbee-hive")),
            "{line}"
        );
    }
    for line in ["-V", "--version", "serve -V", "serve --version"] {
        let version = concat!("rbee-hive ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
        assert!(matches!(Typing::line(line).run(), Ok(Parsed::Print(text)) if text == version), "{line}");
    }
    assert!(matches!(Typing::default().run(), Ok(Parsed::NoCommand(help)) if help.contains("serve")));
}

#[test]
fn without_flags_the_defaults_hold() {
    let config = Typing::serve("").config();
    assert_eq!(config.bind.to_string(), "127.0.0.1:8600");
    assert_eq!((config.token, config.queen, config.advertise_url), (None, None, None));
    assert_eq!((config.ready_timeout, config.idle_timeout), (Duration::from_secs(300), None));
    assert_eq!(config.data_dir, std::path::Path::new("/home/someone/.local/share/rbee-hive"));
    assert_eq!(config.kinds.iter().count(), 3);
}

#[test]
fn both_spellings_of_a_flag_are_read_and_the_last_one_counts() {
    let config = Typing::serve("--threads=2 --worker-ports 9000-9009 --threads 8 --idle-timeout=5m").config();
    assert_eq!((config.threads, config.worker_ports), (8, 9000..=9009));
    assert_eq!(config.idle_timeout, Some(Duration::from_secs(300)));
}

#[test]
fn the_environment_is_read_and_a_flag_wins_over_it() {
    let typing = |line: &str| {
        let typing = Typing::serve(line).env("RBEE_HIVE_THREADS", "2").env("RBEE_HIVE_LOG_FORMAT", "json");
        typing.env("RBEE_HIVE_WORKER", "vllm=/opt/a,llama-server=/opt/b")
    };
    let config = typing("").config();
    assert_eq!((config.threads, config.log_format), (2, LogFormat::Json));
    let program = |config: &Config, kind| config.kinds.get(kind).expect("built in").program.clone();
    assert_eq!(program(&config, "vllm"), std::path::Path::new("/opt/a"));
    assert_eq!(program(&config, "llama-server"), std::path::Path::new("/opt/b"));
    let config = typing("--threads 3 --worker vllm=/opt/c").config();
    assert_eq!(config.threads, 3);
    assert_eq!(program(&config, "vllm"), std::path::Path::new("/opt/c"));
    assert_eq!(
        program(&config, "llama-server"),
        std::path::Path::new("llama-server"),
        "the flag takes the variable's place"
    );
}

#[test]
fn a_wrong_value_is_named_by_its_flag_or_variable() {
    let address =
        "\"nowhere\" is no address with a port; write one like 127.0.0.1:8600, 0.0.0.0:8600 or [::1]:8600";
    Typing::serve("--bind nowhere").fails(2, &format!("error: --bind: {address}"));
    Typing::serve("").env("RBEE_HIVE_BIND", "nowhere").fails(2, &format!("error: RBEE_HIVE_BIND: {address}"));
    Typing::serve("--threads 0").fails(2, "error: --threads: \"0\" must be a whole number from 1 to 64");
    Typing::serve("--heartbeat-interval 1ms")
        .fails(2, "error: --heartbeat-interval: \"1ms\" is out of bounds; it must be from 100ms to 24h");
    Typing::serve("").arg("--hive-id=a\nb").fails(
        2,
        "error: --hive-id: \"a\\nb\" is no hive id; it has 1 to 64 characters of A-Z, a-z, 0-9, . and -",
    );
}

#[test]
fn a_slip_is_answered_with_what_was_meant() {
    Typing::line("serv").fails(2, "error: unknown command \"serv\"\nhint: did you mean `serve`?");
    Typing::line("frobnicate")
        .fails(2, "error: unknown command \"frobnicate\"\nhint: `rbee-hive --help` lists the commands");
    Typing::serve("--bnd x").fails(2, "error: unknown flag --bnd\nhint: did you mean `--bind`?");
    Typing::serve("--frobnicate")
        .fails(2, "error: unknown flag --frobnicate\nhint: `rbee-hive serve --help` lists the flags");
    Typing::serve("-x").fails(2, "error: unknown flag -x\nhint: `rbee-hive serve --help` lists the flags");
    Typing::serve("--bind").fails(2, "error: --bind needs a value: ADDR");
    Typing::serve("extra").fails(2, "error: unexpected argument \"extra\"");
    Typing::line("--bind 127.0.0.1:0 serve").fails(
        2,
        "error: --bind stands before the command\nhint: flags follow their command: rbee-hive serve --bind …",
    );
}

#[test]
fn devices_are_asked_of_a_hive_or_looked_at() {
    let parsed = |line: &str| Typing::line(line).env("HOME", "/home/someone").task();
    assert_eq!(parsed("devices"), parsed("devices --url http://127.0.0.1:8600/"));
    assert_ne!(parsed("devices"), parsed("devices --json"));
    assert_ne!(parsed("devices"), parsed("devices --local"));
    assert!(
        matches!(Typing::line("devices -h").run(), Ok(Parsed::Print(text)) if text.contains("--local\n"))
    );
    Typing::line("devices --locl").fails(2, "error: unknown flag --locl\nhint: did you mean `--local`?");
    Typing::line("devices --local=yes").fails(2, "error: --local takes no value");
    Typing::line("devices --bind x")
        .fails(2, "error: unknown flag --bind\nhint: `rbee-hive devices --help` lists the flags");
    Typing::line("devices").env("RBEE_HIVE_URL", "nowhere").fails(
        2,
        "error: RBEE_HIVE_URL: \"nowhere\" is no URL; write one like http://host:8500 or https://host/path",
    );
    let token = file("s3cret");
    let command = Typing::line("devices").env("RBEE_HIVE_TOKEN_FILE", token.path()).task();
    assert!(command.contains("Hive") && !command.contains("s3cret"), "{command}");
}

#[test]
fn models_are_fetched_listed_and_deleted_by_their_reference() {
    let pull = |line: &str| Typing::line(line).task();
    assert_eq!(pull("pull HF:o/r:Q8_0"), pull("pull --url http://127.0.0.1:8600 hf:o/r:Q8_0"));
    assert_ne!(pull("pull hf:o/r"), pull("pull hf:o/r --json"));
    assert!(Typing::line("rm hf:o/r@v1").task().contains("hf:o/r@v1"));
    for command in ["pull", "rm"] {
        let example = format!("rbee-hive {command} hf:org/repo:Q4_K_M");
        let line = Typing::line(command);
        line.fails(2, &format!("error: MODEL is missing\nhint: name a model: {example}"));
        Typing::line(&format!("{command} org/repo")).fails(
            2,
            &format!(
                "error: MODEL: \"org/repo\": a model reference begins with `hf:` or `file:`\n\
                 hint: write it like this: {example}"
            ),
        );
        let help = Typing::line(&format!("{command} -h")).run();
        assert!(matches!(help, Ok(Parsed::Print(text)) if text.contains("hf:org/repo:QUANT")));
    }
}

#[test]
fn what_becomes_of_orphans_decides_how_long_they_live() {
    let config = |line: &str| match Typing::serve(line).run() {
        Ok(Parsed::Serve(config)) => (config.orphans, config.orphan_timeout.as_secs()),
        other => panic!("{other:?}"),
    };
    assert_eq!(config(""), (Orphans::Adopt, 600));
    assert_eq!(config("--orphans kill"), (Orphans::Kill, 1));
    assert_eq!(config("--orphans kill --orphan-timeout 1m"), (Orphans::Kill, 60));
    let wrong = Typing::serve("--orphans keep").run().expect_err("no such word");
    assert_eq!(wrong.message, "--orphans: \"keep\" must be adopt or kill");
}

#[test]
fn without_a_token_only_loopback_is_bound() {
    for bind in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        assert!(Typing::serve("--bind").arg(bind).run().is_ok(), "{bind}");
    }
    for bind in ["0.0.0.0:0", "[::]:0", "10.0.0.1:1"] {
        Typing::serve("--bind").arg(bind).fails(
            1,
            "error: API token required for non-loopback bind\n\
             hint: set one with --token-file or RBEE_HIVE_TOKEN, or bind to 127.0.0.1",
        );
        assert!(Typing::serve("--bind").arg(bind).env("RBEE_HIVE_TOKEN", "s3cret").run().is_ok());
    }
}

#[test]
fn a_token_is_the_first_line_of_its_file() {
    let token_file = file("  s3cret \r\nsecond line\n");
    let by_flag = || Typing::serve("--token-file").arg(token_file.path());
    let secret = |config: &Config| config.token.as_ref().map(|token| token.secret().to_owned());
    assert_eq!(secret(&by_flag().config()).as_deref(), Some("s3cret"));
    assert_eq!(secret(&by_flag().env("RBEE_HIVE_TOKEN", "other").config()).as_deref(), Some("s3cret"));
    let by_path = Typing::serve("").env("RBEE_HIVE_TOKEN_FILE", token_file.path());
    assert_eq!(secret(&by_path.config()).as_deref(), Some("s3cret"));
    assert!(!format!("{:?}", by_flag().config()).contains("s3cret"), "no log line can leak it");
}

#[test]
fn a_token_that_is_none_is_no_silent_absence() {
    let hint = "\nhint: a token is one line of 1 to 1024 visible ASCII characters";
    Typing::serve("").env("RBEE_HIVE_TOKEN", "").fails(1, &format!("error: RBEE_HIVE_TOKEN: is empty{hint}"));
    Typing::serve("")
        .env("RBEE_HIVE_TOKEN", "a b")
        .fails(1, &format!("error: RBEE_HIVE_TOKEN: holds no token{hint}"));
    let empty = file("\ns3cret\n");
    let source = format!("error: token file {:?}: ", empty.path());
    Typing::serve("--token-file").arg(empty.path()).fails(1, &format!("{source}is empty{hint}"));
    let long = file(&"x".repeat(5000));
    let source = format!("error: token file {:?}: ", long.path());
    Typing::serve("--token-file").arg(long.path()).fails(1, &format!("{source}holds no token{hint}"));
    Typing::serve("--token-file /nowhere/token").fails(
        1,
        &format!("error: token file \"/nowhere/token\": cannot be read: No such file or directory (os error 2){hint}"),
    );
}

#[test]
fn the_queen_gets_her_own_token_or_the_hives() {
    let typing = || Typing::serve("--queen-url http://queen:8500").env("RBEE_HIVE_TOKEN", "hive");
    let queen = typing().config().queen.expect("a queen");
    assert_eq!(
        (queen.url.as_str(), queen.token.expect("the hive's").secret()),
        ("http://queen:8500/heartbeat", "hive")
    );
    let queen = typing().env("RBEE_HIVE_QUEEN_TOKEN", "queen").config().queen.expect("a queen");
    assert_eq!(queen.token.expect("her own").secret(), "queen");
    let token_file = file("filed");
    let queen = typing().arg("--queen-token-file").arg(token_file.path()).config().queen.expect("a queen");
    assert_eq!(queen.token.expect("her own").secret(), "filed");
}

#[test]
fn a_mistake_in_a_manifest_keeps_the_hive_from_starting() {
    let manifest = file(r#"{"kind":"mine","protocol":"native","program":"/opt/w","backends":["cpu"]}"#);
    let config = Typing::serve("--kind-file").arg(manifest.path()).config();
    assert!(config.kinds.get("mine").is_some());
    let wrong = file(r#"{"kind":"mine","protocol":"native","program":"/opt/w","backends":["tpu"]}"#);
    let message = format!(
        "error: --kind-file: {}: backends[0]: must be one of cpu, cuda, rocm, vulkan, metal",
        wrong.path().display()
    );
    Typing::serve("--kind-file").arg(wrong.path()).fails(2, &message);
    Typing::serve("--worker vlm=/opt/v")
        .fails(2, "error: --worker: there is no kind `vlm`; there are llm-worker-rbee, llama-server, vllm");
}
