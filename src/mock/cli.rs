//! The command line of `rbee-mock`.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt as _};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::id::Token;
use crate::mock::fault::{FAULTS, Faults};
use crate::mock::hive::check;
use crate::mock::hub::{self, Access, Hub};
use crate::mock::worker::leftover::{self, Manner};
use crate::mock::{artifacts, demo, hive, queen, rude, vllm, worker};
use crate::{duration, limits, sys};

const HELP: &str = "\
Stand-ins for the rest of the system, for trying and testing rbee-hive

Usage: rbee-mock <COMMAND> [OPTIONS]

Commands:
  worker     a worker without a model, with faults on request; also meant where
             --worker-id comes first: rbee-hive serve --worker llm-worker-rbee=<this>
  serve      vLLM without a model: rbee-hive serve --worker vllm=<this>
  queen      takes heartbeats, prints them, keeps the last of each hive
  hive       takes the callbacks of workers, counts and prints them; --check tries whether a worker keeps
             its contract
  hub        serves folders as the Hugging Face hub does, with faults on request
  artifacts  publishes programs of workers in a folder, and serves it for --artifact-url
  demo       the main job on loopback: a queen, the real hive, a worker, from spawn to cascade

Options:
  -h, --help      help, also of each command
  -V, --version   version
";

const WORKER_HELP: &str = "\
A worker without a model

Usage: rbee-mock worker --model PATH --port PORT [OPTIONS]

Options:
  --protocol P              native (default): calls the hive; probe: is asked
  --worker-id ID            its name; native only, as the next four
  --model-ref REF           the model as it was asked for
  --backend NAME            what computes
  --device NAME             where
  --hive-url URL            where to call
  --model PATH              a file that begins with GGUF
  --port PORT               port to bind, 0 for a free one
  --host HOST               address to bind (default 127.0.0.1)
  --slots N                 requests at once (default 1)
  --load-ms N               time until it is ready (default 0)
  --heartbeat-interval DUR  (default 30s)
  --fault NAME[=VALUE]      repeatable; also MOCK_FAULTS, separated by commas
  -h, --help                this

RBEE_WORKER_TOKEN is what the hive is called with, and what opens POST /v1/shutdown.
It serves GET /health, /slots and /metrics, and POST /v1/completions {\"prompt\",\"ms\"},
which holds a slot for so many milliseconds (default 200).

Faults:
";

const QUEEN_HELP: &str = "\
A queen: takes POST /heartbeat, prints a line of each, tells the last of each hive on GET /hives

Usage: rbee-mock queen [OPTIONS]

Options:
  --bind ADDR     address to bind (default 127.0.0.1:8500)
  --token TOKEN   bearer token that is asked for (default none)
  --fault FAULT   status=CODE, hang, garbage or reset
  -h, --help      this
";

const HIVE_HELP: &str = "\
A hive that only listens: takes POST /v1/workers/ready and /v1/heartbeat, counts and prints them

Usage: rbee-mock hive [OPTIONS]

Options:
  --bind ADDR     address to bind (default 127.0.0.1:8600)
  --token TOKEN   bearer token that is asked for (default none)
  --check         starts a worker and tries whether it keeps its contract; see hive --check --help
  -h, --help      this
";

const HUB_HELP: &str = "\
A hub: serves each folder DIR/org/repo as the repository org/repo, for HF_ENDPOINT

Usage: rbee-mock hub DIR [OPTIONS]

Options:
  --bind ADDR    address to bind (default 127.0.0.1:8700); its CDN takes a free port beside it
  --token TOKEN  repositories are private, and this opens them (default: they are public)
  --rate BYTES   so many bytes of a file a second on each connection (default: all it can)
  --page N       entries on a page of a repository's tree (default 1000)
  --fault FAULT  repeatable; see below
  -h, --help     this

It reads everything once for its digests, then prints where it listens, and a line of each request.

";

const ARTIFACTS_HELP: &str = "\
Publishes programs of workers in the folder DIR, as `rbee-hive provision` fetches them, and serves it

Usage: rbee-mock artifacts DIR [OPTIONS]

Options:
  --add KIND/VERSION=PATH  repeatable: a program, or a folder with a kind.json; becomes the latest
  --no-serve               only publish: any web server can serve DIR
  --bind ADDR              address to bind (default 127.0.0.1:8800)
  --rate BYTES             so many bytes of a file a second on each connection
  --fault FAULT            repeatable; see hub --help
  -h, --help               this

It prints the checksum of each, then what --artifact-url is to be, and a line of each request.
";

const DEMO_HELP: &str = "\
The main job on loopback: a queen, the real hive, a worker, from spawn to cascade

Usage: rbee-mock demo [--engine PROGRAM --model FILE]

Options:
  --engine PROGRAM  a real engine that takes llama-server's arguments; without it a stand-in works
  --model FILE      its model, a GGUF
  -h, --help        this

It exits with 0 if all was seen, and leaves nothing behind. NO_COLOR turns colours off.
";

/// Runs `rbee-mock` with the arguments of the process. 0 ok, 1 failure, 2 usage error.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        // The daemon itself, for the demo: cargo run builds no second program beside this one.
        Some(command) if command == "rbee-hive" => return crate::program::main(args),
        // And the child by which that daemon asks drivers: it starts itself.
        Some(command) if command == crate::devices::child::COMMAND => {
            return crate::program::main(std::iter::once(command).chain(args));
        }
        _ => {}
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let usage = |why: String, hint: &str| {
        eprintln!("error: {why}\nhint: rbee-mock {hint}--help");
        ExitCode::from(2)
    };
    let mut args = Parser::from_env();
    let command = match args.next() {
        Ok(Some(Arg::Short('h') | Arg::Long("help"))) => return say(HELP),
        Ok(Some(Arg::Short('V') | Arg::Long("version"))) => {
            return say(concat!("rbee-mock ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        // As the hive launches a native worker: the program can stand in for one without a manifest.
        Ok(Some(Arg::Long("worker-id"))) => {
            args = Parser::from_env();
            "worker".into()
        }
        Ok(Some(Arg::Value(command))) => command,
        Ok(Some(other)) => return usage(other.unexpected().to_string(), ""),
        Ok(None) => return usage("no command".into(), ""),
        Err(e) => return usage(e.to_string(), ""),
    };
    let command = command.to_string_lossy();
    let done = match &*command {
        "worker" => worker_from(args, Environment::read()).map(|asked| asked.run(run_worker)),
        "serve" => vllm_from(args).map(|asked| asked.run(run_vllm)),
        "queen" => queen_from(args).map(|asked| asked.run(run_queen)),
        "hive" => hive_from(args).map(|asked| asked.run(run_hive)),
        "hub" => hub_from(args).map(|asked| asked.run(run_hub)),
        "artifacts" => artifacts_from(args).map(|asked| asked.run(run_artifacts)),
        "demo" => demo_from(args).map(|asked| asked.run(run_demo)),
        "sleep" => sleep_from(args).map(|manner| ended(leftover::sleep(manner))),
        other => return usage(format!("no such command: {other:?}"), ""),
    };
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(why)) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
        Err(why) => usage(why.to_string(), &format!("{command} ")),
    }
}

/// The end of a command: its code, or what went wrong.
type Ended = Result<ExitCode, String>;

/// What was asked of a command.
enum Asked<T> {
    Help(String),
    Run(T),
}

impl<T> Asked<T> {
    fn run(self, run: impl FnOnce(T) -> Ended) -> Ended {
        match self {
            Self::Help(text) => Ok(say(&text)),
            Self::Run(what) => run(what),
        }
    }
}

/// Prints; a reader that is gone is no failure.
fn say(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn ended(done: io::Result<()>) -> Ended {
    done.map(|()| ExitCode::SUCCESS).map_err(|e| e.to_string())
}

/// What a worker reads from its environment.
#[derive(Default)]
struct Environment {
    token: Option<String>,
    faults: Option<String>,
}

impl Environment {
    fn read() -> Self {
        Self { token: std::env::var("RBEE_WORKER_TOKEN").ok(), faults: std::env::var("MOCK_FAULTS").ok() }
    }
}

fn worker_from(mut args: Parser, environment: Environment) -> Result<Asked<worker::Config>, lexopt::Error> {
    let (mut model, mut port, mut host, mut slots, mut load_ms) = (None, None, None, 1, 0);
    let (mut worker_id, mut model_ref, mut backend, mut device, mut hive_url) =
        (None, None, None, None, None);
    let (mut is_probe, mut interval, mut faults) = (false, Duration::from_secs(30), Faults::default());
    faults.add_list(&environment.faults.unwrap_or_default())?;
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("protocol") => match text(&mut args)?.as_str() {
                "native" => is_probe = false,
                "probe" => is_probe = true,
                _ => return Err("--protocol is native or probe".into()),
            },
            Arg::Long("worker-id") => worker_id = Some(args.value()?.parse()?),
            Arg::Long("model-ref") => model_ref = Some(text(&mut args)?),
            Arg::Long("backend") => backend = Some(text(&mut args)?),
            Arg::Long("device") => device = Some(text(&mut args)?),
            Arg::Long("hive-url") => hive_url = Some(text(&mut args)?),
            Arg::Long("model") => model = Some(PathBuf::from(args.value()?)),
            Arg::Long("port") => port = Some(args.value()?.parse()?),
            Arg::Long("host") => host = Some(text(&mut args)?),
            Arg::Long("slots") => slots = args.value()?.parse()?,
            Arg::Long("load-ms") => load_ms = args.value()?.parse()?,
            Arg::Long("heartbeat-interval") => {
                interval = duration::parse(&text(&mut args)?).ok_or("--heartbeat-interval is no duration")?;
            }
            Arg::Long("fault") => faults.add(&text(&mut args)?)?,
            Arg::Short('h') | Arg::Long("help") => return Ok(Asked::Help(worker_help())),
            other => return Err(other.unexpected()),
        }
    }
    if !(1..=limits::THREADS_MAX as u32 - 1).contains(&slots) {
        return Err(format!("--slots is from 1 to {}", limits::THREADS_MAX - 1).into());
    }
    let protocol = if is_probe {
        worker::Protocol::Probe
    } else {
        worker::Protocol::Native(worker::Native {
            worker_id: needed("worker-id", worker_id)?,
            model_ref: needed("model-ref", model_ref)?,
            backend: needed("backend", backend)?,
            device: needed("device", device)?,
            hive_url: needed("hive-url", hive_url)?,
            interval: interval.clamp(limits::RELAY_INTERVAL_MIN, limits::RELAY_INTERVAL_MAX),
        })
    };
    Ok(Asked::Run(worker::Config {
        protocol,
        model: needed("model", model)?,
        host: host.unwrap_or_else(|| "127.0.0.1".into()),
        port: needed("port", port)?,
        token: environment.token.map(|token| token_of("RBEE_WORKER_TOKEN", &token)).transpose()?,
        slots,
        load: Duration::from_millis(load_ms),
        faults,
    }))
}

fn vllm_from(args: Parser) -> Result<Asked<vllm::Config>, lexopt::Error> {
    let config = vllm::Config::parse(args, std::env::var("MOCK_VLLM").ok())?;
    Ok(config.map_or_else(|| Asked::Help(vllm::help()), Asked::Run))
}

fn worker_help() -> String {
    let mut help = WORKER_HELP.to_owned();
    for (name, meaning) in FAULTS {
        help.push_str(&format!("  {name:<24}  {meaning}\n"));
    }
    help
}

/// Where a queen or a hive listens, and what it asks for.
struct Post {
    bind: String,
    token: Option<Token>,
    fault: Option<QueenFault>,
}

/// What a queen does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueenFault {
    Status(u16),
    Rude(rude::Manner),
}

impl FromStr for QueenFault {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        Ok(match text {
            "hang" => Self::Rude(rude::Manner::Hang),
            "garbage" => Self::Rude(rude::Manner::Garbage),
            "reset" => Self::Rude(rude::Manner::Reset),
            _ => {
                let code = text.strip_prefix("status=").and_then(|code| code.parse().ok());
                let known = code.filter(|code| (200..600).contains(code));
                Self::Status(known.ok_or("a fault is status=200 to status=599, hang, garbage or reset")?)
            }
        })
    }
}

fn queen_from(args: Parser) -> Result<Asked<Post>, lexopt::Error> {
    post_from(args, "127.0.0.1:8500", QUEEN_HELP, true)
}

/// What a hive that only listens is to do.
enum HivePost {
    Listen(Post),
    Check(Box<check::Options>),
}

fn hive_from(mut args: Parser) -> Result<Asked<HivePost>, lexopt::Error> {
    let args: Vec<OsString> = args.raw_args()?.collect();
    let is_check = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--check");
    let args = Parser::from_args(args);
    if is_check {
        let options = check::Options::parse(args)?;
        return Ok(match options {
            Some(options) => Asked::Run(HivePost::Check(Box::new(options))),
            None => Asked::Help(check::HELP.to_owned()),
        });
    }
    Ok(match post_from(args, "127.0.0.1:8600", HIVE_HELP, false)? {
        Asked::Run(post) => Asked::Run(HivePost::Listen(post)),
        Asked::Help(text) => Asked::Help(text),
    })
}

fn post_from(
    mut args: Parser,
    bind: &str,
    help: &str,
    has_faults: bool,
) -> Result<Asked<Post>, lexopt::Error> {
    let mut post = Post { bind: bind.to_owned(), token: None, fault: None };
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("bind") => post.bind = text(&mut args)?,
            Arg::Long("token") => post.token = Some(token_of("--token", &text(&mut args)?)?),
            Arg::Long("fault") if has_faults => post.fault = Some(args.value()?.parse()?),
            Arg::Short('h') | Arg::Long("help") => return Ok(Asked::Help(help.to_owned())),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Asked::Run(post))
}

/// What a hub serves, where, and how.
struct HubPost {
    folder: PathBuf,
    bind: String,
    options: hub::Options,
    faults: Vec<hub::FaultRule>,
}

fn hub_from(mut args: Parser) -> Result<Asked<HubPost>, lexopt::Error> {
    let (mut folder, mut bind, mut faults) = (None, "127.0.0.1:8700".to_owned(), Vec::new());
    let mut options = hub::Options { print: true, ..hub::Options::default() };
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Value(dir) if folder.is_none() => folder = Some(PathBuf::from(dir)),
            Arg::Long("bind") => bind = text(&mut args)?,
            Arg::Long("token") => options.token = Some(token_of("--token", &text(&mut args)?)?),
            Arg::Long("rate") => options.rate = Some(at_least_one("rate", args.value()?.parse()?)?),
            Arg::Long("page") => options.page = at_least_one("page", args.value()?.parse()?)?,
            Arg::Long("fault") => faults.push(args.value()?.parse()?),
            Arg::Short('h') | Arg::Long("help") => {
                return Ok(Asked::Help(format!("{HUB_HELP}{}", hub::FAULTS_HELP)));
            }
            other => return Err(other.unexpected()),
        }
    }
    let folder = folder.ok_or("a folder is needed")?;
    Ok(Asked::Run(HubPost { folder, bind, options, faults }))
}

struct Artifacts {
    hub: HubPost,
    add: Vec<artifacts::Artifact>,
    serve: bool,
}

fn artifacts_from(mut args: Parser) -> Result<Asked<Artifacts>, lexopt::Error> {
    let (mut folder, mut bind, mut faults) = (None, "127.0.0.1:8800".to_owned(), Vec::new());
    let mut options = hub::Options { print: true, ..hub::Options::default() };
    let (mut add, mut serve) = (Vec::new(), true);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Value(dir) if folder.is_none() => folder = Some(PathBuf::from(dir)),
            Arg::Long("add") => add.push(args.value()?.parse()?),
            Arg::Long("no-serve") => serve = false,
            Arg::Long("bind") => bind = text(&mut args)?,
            Arg::Long("rate") => options.rate = Some(at_least_one("rate", args.value()?.parse()?)?),
            Arg::Long("fault") => faults.push(args.value()?.parse()?),
            Arg::Short('h') | Arg::Long("help") => return Ok(Asked::Help(ARTIFACTS_HELP.to_owned())),
            other => return Err(other.unexpected()),
        }
    }
    let folder = folder.ok_or("a folder is needed")?;
    Ok(Asked::Run(Artifacts { hub: HubPost { folder, bind, options, faults }, add, serve }))
}

fn at_least_one<T: PartialOrd + From<u8>>(flag: &str, number: T) -> Result<T, lexopt::Error> {
    if number < T::from(1) { Err(format!("--{flag} is at least 1").into()) } else { Ok(number) }
}

fn demo_from(mut args: Parser) -> Result<Asked<Option<demo::Engine>>, lexopt::Error> {
    let (mut program, mut model) = (None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("engine") => program = Some(PathBuf::from(args.value()?)),
            Arg::Long("model") => model = Some(PathBuf::from(args.value()?)),
            Arg::Short('h') | Arg::Long("help") => return Ok(Asked::Help(DEMO_HELP.to_owned())),
            other => return Err(other.unexpected()),
        }
    }
    match (program, model) {
        (None, None) => Ok(Asked::Run(None)),
        (Some(program), Some(model)) => Ok(Asked::Run(Some(demo::Engine { program, model }))),
        _ => Err("--engine and --model go together".into()),
    }
}

fn sleep_from(mut args: Parser) -> Result<Manner, lexopt::Error> {
    let mut manner = Manner::default();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("own-session") => manner.own_session = true,
            Arg::Long("bare") => manner.bare = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(manner)
}

fn text(args: &mut Parser) -> Result<String, lexopt::Error> {
    args.value().and_then(|value: OsString| value.string())
}

fn needed<T>(flag: &str, value: Option<T>) -> Result<T, lexopt::Error> {
    value.ok_or_else(|| format!("--{flag} is needed").into())
}

fn token_of(name: &str, text: &str) -> Result<Token, lexopt::Error> {
    Token::parse(text).ok_or_else(|| format!("{name} is no token: 1 to 1024 visible ASCII characters").into())
}

fn run_worker(config: worker::Config) -> Ended {
    worker::run(config).map(ExitCode::from)
}

fn run_vllm(config: vllm::Config) -> Ended {
    vllm::run(config).map(ExitCode::from)
}

fn run_queen(post: Post) -> Ended {
    let listener = listen("queen", &post.bind)?;
    let fault = match post.fault {
        Some(QueenFault::Rude(manner)) => return until_signal(rude::serve(listener, manner)),
        Some(QueenFault::Status(status)) => Some(status),
        None => None,
    };
    let options = queen::Options { token: post.token, print: true, fault };
    until_signal(queen::Queen::start(listener, options))
}

fn run_hive(post: HivePost) -> Ended {
    let post = match post {
        HivePost::Listen(post) => post,
        HivePost::Check(options) => return run_check(&options),
    };
    until_signal(hive::Hive::start(listen("hive", &post.bind)?, post.token, true))
}

fn run_check(options: &check::Options) -> Ended {
    // As a hive begins: a worker gets no descriptor of whoever started this, and leaves its exit status.
    sys::close_inherited_on_exec().and_then(|()| sys::keep_dead_children()).map_err(|e| e.to_string())?;
    let report = check::run(options)?;
    say(&if options.json { format!("{:#}\n", report.json()) } else { report.to_string() });
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_hub(post: HubPost) -> Ended {
    let HubPost { folder, bind, options, faults } = post;
    let bound = TcpListener::bind(&bind).map_err(|e| format!("cannot listen on {bind:?}: {e}"))?;
    let access = if options.token.is_some() { Access::Private } else { Access::Public };
    let hub = Hub::listen(bound, options).map_err(|e| e.to_string())?;
    for rule in faults {
        hub.add_rule(rule);
    }
    // Before it says that it listens: who reads that may ask at once.
    hub::folder::serve(&hub, &folder, access)
        .map_err(|e| format!("cannot serve {}: {e}", folder.display()))?;
    say(&format!("hub listening on {}\n", hub.url()));
    until_signal(Ok(hub))
}

fn run_artifacts(Artifacts { hub, add, serve }: Artifacts) -> Ended {
    let HubPost { folder, bind, options, faults } = hub;
    for artifact in &add {
        let sha256 = artifacts::publish(&folder, artifact)?;
        say(&format!("{sha256}  {}/{}\n", artifact.kind.as_str(), artifact.version.as_str()));
    }
    if !serve {
        return Ok(ExitCode::SUCCESS);
    }
    let bound = TcpListener::bind(&bind).map_err(|e| format!("cannot listen on {bind:?}: {e}"))?;
    let hub = Hub::listen(bound, options).map_err(|e| e.to_string())?;
    for rule in faults {
        hub.add_rule(rule);
    }
    let url =
        artifacts::serve(&hub, &folder).map_err(|e| format!("cannot serve {}: {e}", folder.display()))?;
    say(&format!("artifacts at {url}\n"));
    until_signal(Ok(hub))
}

fn run_demo(engine: Option<demo::Engine>) -> Ended {
    demo::run(engine).map(|()| ExitCode::SUCCESS)
}

/// Binds, and says so first of all.
fn listen(who: &str, bind: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(bind).map_err(|e| format!("cannot listen on {bind:?}: {e}"))?;
    let addr = listener.local_addr().map_err(|e| e.to_string())?;
    say(&format!("{who} listening on http://{addr}\n"));
    Ok(listener)
}

/// Lets `running` run until SIGTERM or SIGINT.
fn until_signal<T>(running: io::Result<T>) -> Ended {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|e| e.to_string())?;
    let running = running.map_err(|e| e.to_string())?;
    signals.forever().next();
    drop(running);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker_of(args: &[&str], environment: Environment) -> Result<Asked<worker::Config>, lexopt::Error> {
        worker_from(Parser::from_args(args.iter().copied()), environment)
    }

    #[test]
    fn a_native_worker_takes_what_the_hive_passes() {
        let args = [
            "--worker-id",
            "w-1",
            "--model",
            "m.gguf",
            "--model-ref",
            "hf:o/r",
            "--backend",
            "cpu",
            "--device",
            "cpu",
            "--port",
            "8601",
            "--hive-url",
            "http://127.0.0.1:8600",
        ];
        let environment = Environment { token: Some("t".into()), faults: Some("silent".into()) };
        let Ok(Asked::Run(config)) = worker_of(&args, environment) else { panic!("not taken") };
        assert!(config.faults.silent && config.token.is_some() && config.port == 8601);
        for left_out in 0..args.len() / 2 {
            let mut fewer = args.to_vec();
            fewer.drain(2 * left_out..2 * left_out + 2);
            assert!(worker_of(&fewer, Environment::default()).is_err(), "without {}", args[2 * left_out]);
        }
    }

    #[test]
    fn a_probed_worker_needs_a_model_and_a_port() {
        let args = ["--protocol", "probe", "--model", "m.gguf", "--port", "0"];
        assert!(matches!(worker_of(&args, Environment::default()), Ok(Asked::Run(_))));
        assert!(worker_of(&args[..4], Environment::default()).is_err());
        assert!(worker_of(&["--slots", "0"], Environment::default()).is_err());
    }

    #[test]
    fn a_demo_takes_an_engine_and_its_model_or_neither() {
        let demo_of = |args: &[&str]| demo_from(Parser::from_args(args.iter().copied()));
        assert!(matches!(demo_of(&[]), Ok(Asked::Run(None))));
        assert!(matches!(demo_of(&["--engine", "e", "--model", "m"]), Ok(Asked::Run(Some(_)))));
        assert!(demo_of(&["--engine", "e"]).is_err() && demo_of(&["--model", "m"]).is_err());
    }

    #[test]
    fn a_hub_needs_a_folder_and_takes_faults() {
        let hub_of = |args: &[&str]| hub_from(Parser::from_args(args.iter().copied()));
        let args = ["--fault", "cut=9*1@m.gguf", "models", "--rate", "20000000", "--fault", "html"];
        let Ok(Asked::Run(post)) = hub_of(&args) else { panic!("not taken") };
        assert_eq!((post.faults.len(), post.options.rate), (2, Some(20_000_000)));
        for wrong in [&[] as &[&str], &["a", "b"], &["a", "--rate", "0"], &["a", "--fault", "sulk"]] {
            assert!(hub_of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_queens_faults_are_read() {
        assert_eq!("status=503".parse(), Ok(QueenFault::Status(503)));
        assert_eq!("hang".parse(), Ok(QueenFault::Rude(rude::Manner::Hang)));
        for wrong in ["status=", "status=99", "status=600", "sulk"] {
            assert!(wrong.parse::<QueenFault>().is_err(), "{wrong}");
        }
    }
}
