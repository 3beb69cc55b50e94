//! The native contract: what `rbee-mock hive --check` finds of workers that keep it and of workers that break
//! it, one by one; and the two workers of docs/worker.md against it and against the daemon.

use crate::support;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use support::{Hive, PATIENCE, descendants_of, eventually, port_range};

const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");

/// What a check printed.
struct Checked {
    code: i32,
    out: String,
    err: String,
}

impl Checked {
    fn of(Output { status, stdout, stderr }: Output) -> Self {
        let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Self { code: status.code().unwrap(), out, err }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {} {}", self.out, self.err))
    }

    /// The names of the checks with this verdict.
    fn with(&self, verdict: &str) -> Vec<String> {
        let report = self.json();
        let checks = report["checks"].as_array().unwrap();
        let names = checks.iter().filter(|check| check["verdict"] == verdict);
        names.map(|check| check["check"].as_str().unwrap().to_owned()).collect()
    }

    fn seen(&self, name: &str) -> String {
        let report = self.json();
        let found = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == name);
        found.unwrap()["seen"].as_str().unwrap().to_owned()
    }
}

/// Checks a program; times are such that a loaded machine keeps them.
fn check(options: &[&str], program: &[&str]) -> Checked {
    let ports = port_range(1);
    let port = ports.first();
    let mut command = Command::new(MOCK);
    command.args(["hive", "--check", "--json", "--beat-within", "20s", "--away", "300ms", "--port"]);
    command.arg(port.to_string()).args(options).arg("--").args(program);
    command.env_remove("MOCK_FAULTS").stdin(Stdio::null());
    Checked::of(command.output().unwrap())
}

fn check_mock(options: &[&str], faults: &str) -> Checked {
    let mut program = vec![MOCK, "worker", "--slots", "{parallel}", "--heartbeat-interval", "100ms"];
    if !faults.is_empty() {
        program.extend(["--fault", faults]);
    }
    check(options, &program)
}

/// The worker of docs/worker.md that is written in Rust, built once.
fn rust_worker() -> &'static str {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let program =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("worker-{}", std::process::id()));
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "-D", "warnings", "docs/worker/worker.rs", "-o"]).arg(&program);
        let built = rustc.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success());
        program
    });
    built.to_str().unwrap()
}

fn python() -> String {
    std::env::var("RBEE_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

const PYTHON_WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/worker/worker.py");

#[test]
fn the_mock_worker_keeps_the_contract() {
    let checked =
        check_mock(&["--parallel", "2", "--work", r#"/v1/completions {"prompt":"a b","ms":1000}"#], "");
    assert_eq!(checked.with("ok").len(), 19, "{}", checked.out);
    assert_eq!((checked.code, checked.json()["failed"].as_u64()), (0, Some(0)), "{}", checked.err);
}

#[test]
fn each_check_fails_for_the_worker_that_breaks_it_and_for_no_other() {
    const SHORT: &[&str] = &["--beat-within", "400ms"];
    const GRACE: &[&str] = &["--leave-within", "3s"];
    const WORK: &[&str] = &["--beat-within", "3s", "--work", r#"/v1/completions {"prompt":"a","ms":3500}"#];
    const HIVES: [&str; 4] = ["hive-500", "hive-404", "hive-cut", "hive-away"];
    let of_silence = [&["heartbeat"], &HIVES[..]].concat();
    let of_despair = [&["ready-again"], &HIVES[..]].concat();
    let cases: [(&[&str], &str, &[&str]); 16] = [
        (&[], "crash-at-start=3", &["start"]),
        (&["--ready-within", "300ms"], "never-ready", &["ready"]),
        (&[], "wrong-id", &["ready-body", "heartbeat-body"]),
        (&[], "no-token", &["token"]),
        (&[], "unready-health", &["health"]),
        (SHORT, "silent", &of_silence),
        (WORK, "never-busy", &["busy-seen"]),
        (&[], "give-up", &of_despair),
        (GRACE, "ignore-shutdown", &["shutdown"]),
        (GRACE, "slow-exit=1h", &["shutdown", "sigterm"]),
        (GRACE, "deaf", &["health", "shutdown"]),
        (GRACE, "ignore-term", &["sigterm"]),
        (&[], "grandchild", &["children"]),
        (&[], "daemon", &["children"]),
        (&[], "hold-port", &["children"]),
        (&[], "print-token", &["secret"]),
    ];
    std::thread::scope(|scope| {
        let run = |&(options, faults, wanted): &(&'static [&'static str], &'static str, _)| {
            (faults, wanted, scope.spawn(move || check_mock(options, faults)))
        };
        for (faults, wanted, checked) in cases.iter().map(run).collect::<Vec<_>>() {
            let checked = checked.join().unwrap();
            let mut failed = checked.with("fail");
            let mut wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            failed.sort();
            wanted.sort();
            let seen: Vec<_> = failed.iter().map(|name| (name, checked.seen(name))).collect();
            assert_eq!(failed, wanted, "{faults}: {seen:?}");
            assert_eq!(checked.code, 1, "{faults}");
        }
    });
}

#[test]
fn what_the_contract_allows_is_noted_with_what_follows_from_it() {
    let no_state = check_mock(&["--work", "/v1/completions {}"], "no-state");
    assert_eq!((no_state.code, no_state.with("note")), (0, vec!["busy-known".to_owned()]));
    let seen = no_state.seen("busy-known");
    assert!(seen.contains("shows it as ready while it works") && seen.contains("--idle-timeout"), "{seen}");
    assert_eq!(no_state.with("not_checked"), ["busy-seen"]);
    assert!(include_str!("../../docs/worker.md").contains(&format!("busy-known      {seen}\n")));
    let open = check_mock(&[], "open-shutdown");
    assert_eq!((open.code, open.with("note")), (0, vec!["shutdown-guard".to_owned()]));
    assert!(open.with("ok").contains(&"sigterm".to_owned()), "it is started once more");
}

#[test]
fn the_list_says_what_was_seen_and_what_would_be_right() {
    let mut command = Command::new(MOCK);
    command.args(["hive", "--check", "--", MOCK, "worker", "--fault", "crash-at-start=3"]);
    let checked = Checked::of(command.output().unwrap());
    assert_eq!(checked.code, 1, "{}", checked.err);
    let mut lines = checked.out.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("FAIL         start           it ended after"), "{first}");
    assert!(
        first.ends_with("exit status: 3; it last wrote: crashing at start, on request code=3"),
        "{first}"
    );
    assert!(lines.next().unwrap().contains("right: the program starts"));
    assert!(checked.out.ends_with("1 ok, 1 failed, 0 noted, 17 not checked\n"), "{}", checked.out);
    let absent =
        Checked::of(Command::new(MOCK).args(["hive", "--check", "--", "/no/such"]).output().unwrap());
    assert!(absent.code == 1 && absent.out.contains("the program was not found"), "{}", absent.out);
    let usage = Checked::of(Command::new(MOCK).args(["hive", "--check"]).output().unwrap());
    assert!(usage.code == 2 && usage.err.contains("a program is needed"), "{}", usage.err);
}

#[test]
fn a_check_that_is_broken_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(MOCK);
    command.args([
        "hive",
        "--check",
        "--",
        MOCK,
        "worker",
        "--fault",
        "never-ready",
        "--fault",
        "grandchild",
    ]);
    // All that it starts carries the folder's name in its environment.
    command.env("MOCK_OF", folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut checking = command.spawn().unwrap();
    eventually("a worker and its child", || descendants_of(folder.path()).len() == 3);
    support::kill(checking.id(), 15);
    assert_eq!(checking.wait().unwrap().code(), Some(1));
    eventually("nothing is left", || descendants_of(folder.path()).is_empty());
}

#[test]
fn the_rust_worker_keeps_the_contract() {
    keeps_the_contract(&[rust_worker()]);
}

#[test]
#[ignore = "needs Python: RBEE_PYTHON, else python3"]
fn the_python_worker_keeps_the_contract() {
    keeps_the_contract(&[&python(), PYTHON_WORKER]);
}

fn keeps_the_contract(program: &[&str]) {
    let options = ["--parallel", "2", "--work", "/v1/reverse a b c d e f g h i j"];
    let args = ["--host", "{host}", "--slots", "{parallel}", "--heartbeat", "0.1"];
    let checked = check(&options, &[program, &args].concat());
    assert_eq!(checked.with("ok").len(), 19, "{}", checked.out);
    assert_eq!(checked.code, 0);
}

#[test]
fn the_rust_worker_lives_and_ends_under_the_daemon() {
    lives_and_ends(rust_worker(), &[]);
}

#[test]
#[ignore = "needs Python: RBEE_PYTHON, else python3"]
fn the_python_worker_lives_and_ends_under_the_daemon() {
    let found = Command::new("sh").args(["-c", &format!("command -v {}", python())]).output().unwrap();
    lives_and_ends(String::from_utf8(found.stdout).unwrap().trim(), &[PYTHON_WORKER]);
}

/// From spawn to ready, busy under a request, the end by `POST /v1/shutdown`, and the cascade.
fn lives_and_ends(program: &str, args: &[&str]) {
    let args = [args, &["--host", "{host}", "--slots", "{parallel}"]].concat();
    let kind = json!({"kind": "example", "protocol": "native", "program": program, "args": args,
        "backends": ["cpu"]});
    let mut hive = Hive::builder().kind(kind).token("the-queens").start();
    let id = hive.spawn("example", "");
    let ready = hive.wait_state(&id, "ready");
    assert_eq!((&ready["slots_total"], &ready["health"]), (&json!(1), &json!("healthy")));
    let url = format!("{}/v1/reverse", ready["url"].as_str().unwrap());
    let answer = std::thread::spawn(move || {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().new_agent();
        agent.post(url).send("one two three four five six seven eight nine ten").unwrap()
    });
    let busy = hive.wait_state(&id, "busy");
    assert_eq!(busy["slots_available"], 0);
    let text = answer.join().unwrap().body_mut().read_to_string().unwrap();
    assert!(text.starts_with("ten nine") && text.ends_with("one"), "{text}");
    hive.wait_state(&id, "ready");

    let mut events = hive.events();
    assert_eq!(hive.delete(&format!("/v1/workers/{id}")).status, 202);
    let (_, gone) = hive.story(&mut events, &id);
    assert_eq!((&gone["exit"]["code"], &gone["exit"]["reason"]), (&json!(0), &json!("stopped")));
    assert!(!hive.log().contains("worker signalled"), "POST /v1/shutdown was enough\n{}", hive.log());

    let last = hive.spawn("example", "");
    hive.wait_state(&last, "ready");
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(!hive.log().contains("worker signalled"), "{}", hive.log());
    assert_eq!(descendants_of(hive.folder.path()), Vec::<u32>::new());
}

#[test]
fn the_page_for_authors_names_every_check_and_both_workers() {
    let page = include_str!("../../docs/worker.md");
    let report = check_mock(&["--ready-within", "50ms"], "never-ready").json();
    for check in report["checks"].as_array().unwrap() {
        let name = check["check"].as_str().unwrap();
        assert!(page.contains(&format!("`{name}`")), "{name} is not explained");
    }
    assert!(page.contains("worker/worker.py") && page.contains("worker/worker.rs"));
}

#[test]
fn the_workers_to_copy_are_short() {
    for (worker, lines) in [
        (include_str!("../../docs/worker/worker.py"), 60),
        (include_str!("../../docs/worker/worker.rs"), 110),
    ] {
        assert!(worker.lines().count() <= lines && worker.lines().all(|line| line.len() <= 110));
    }
}
