//! Starts that fail, each really tried, and the reason that a user reads.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::models::{behind, broken, replace};
use crate::stage::{self, Watch, pid_of};
use crate::support::{Hive, eventually, kill};
use crate::wire;

/// A start that fails.
struct Case {
    what: &'static str,
    order: Value,
    /// What is done to the worker while it starts.
    mischief: fn(&Hive, &Watch, &str),
    /// The reason, or how it begins.
    reason: &'static str,
    /// What stands in one of the raw lines; empty if there are none.
    line: &'static str,
}

/// Address space of an engine that gets little memory, in KiB: enough for program and model.
const LITTLE_KIB: u64 = 8 * 1024 * 1024;

/// The engine's kinds of failing to start, and its program's.
fn kinds(folder: &Path) -> Vec<Value> {
    let script = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let engine = stage::engine();
    let torn = folder.join("torn");
    fs::copy(&engine, &torn).unwrap();
    let with_program = |name: &str, program: &Path| {
        let mut kind = stage::kind(name, |_| {});
        kind["program"] = program.to_str().unwrap().into();
        kind
    };
    vec![
        stage::kind("lost-model", |args| args[1] = "{model_path}.gone".into()),
        stage::kind("unknown-option", |args| args.push("--nonsense".into())),
        stage::kind("wrong-value", |args| args.extend(["--cache-type-k".into(), "q9_9".into()])),
        stage::kind_after("little-memory", &format!("ulimit -v {LITTLE_KIB}")),
        with_program("no-interpreter", &script("no-interpreter", "#!/nowhere/python\n")),
        with_program("no-program", &script("no-program", "neither a binary nor a script\n")),
        with_program("torn", &torn),
    ]
}

fn cases(hive: &Hive, is_binary: bool) -> Vec<Case> {
    let model = stage::place_model(hive, "model.gguf");
    let kind = |name: &str| {
        let mut order = stage::order(&model);
        order["kind"] = name.into();
        order
    };
    let file = |path: &Path| {
        let mut order = stage::order(&stage::reference(path));
        order["memory_bytes"] = json!(500_000_000);
        order
    };
    let case = |what, order, reason, line| Case { what, order, mischief: |_, _, _| {}, reason, line };
    let type_of_a_tensor = |header: &mut Vec<u8>| {
        let at = behind(header, "token_embd.weight");
        let dimensions = u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        let at = at + 4 + 8 * dimensions;
        header[at..at + 4].copy_from_slice(&199_u32.to_le_bytes());
    };
    let mut long = kind("little-memory");
    long["ctx"] = json!(1024 * 1024);
    long["memory_bytes"] = json!(500_000_000);
    let truncated = "the model file is truncated: some of its tensors lie beyond its end";
    let (lacks, torn_line) = if is_binary {
        ("the shared library libllama-server-impl.so is missing", "cannot open shared object file")
    } else {
        ("the program, or one that it starts, was not found", "not found")
    };
    let (unknown, unknown_line) = if is_binary {
        ("the program does not know the argument --nonsense", "invalid argument: --nonsense")
    } else {
        ("the program does not know the argument --nonsense", "unrecognized arguments: --nonsense")
    };
    vec![
        case("the file is gone", kind("lost-model"), "the model file was not found", "No such file"),
        case(
            "the file is cut in its tensors",
            file(&broken(hive, "cut.gguf", Some(20_000_000), |_| {})),
            truncated,
            "not within the file bounds",
        ),
        case(
            "the file is cut in its header",
            file(&broken(hive, "cut-header.gguf", Some(1000), |_| {})),
            "the model file is truncated: it ends within its header",
            "remaining file size",
        ),
        case(
            "the file is empty",
            file(&broken(hive, "empty.gguf", Some(0), |_| {})),
            "the model is no GGUF file: it is empty, or a folder",
            "failed to read magic",
        ),
        case(
            "the file is something else",
            file(&broken(hive, "other.gguf", None, |header| header[..4].copy_from_slice(b"PK34"))),
            "the model is no GGUF file: it begins with PK34",
            "invalid magic",
        ),
        case(
            "the header is of a later version",
            file(&broken(hive, "version.gguf", None, |header| header[4] = 99)),
            "the model file is GGUF version 99, which the engine is too old for",
            "version 99",
        ),
        case(
            "a tensor has an unknown type",
            file(&broken(hive, "type.gguf", None, type_of_a_tensor)),
            "the engine does not know tensor type 199 of the model",
            "ggml type 199",
        ),
        case(
            "a tensor is missing",
            file(&broken(hive, "tensor.gguf", None, |header| {
                replace(header, "tokenizer.ggml.tokens", "blk.7.ffn_down.weight", "blk.7.ffn_gone.weight");
            })),
            "the model lacks the tensor (blk.7.ffn_down.weight)",
            "tensor 'blk.7.ffn_down.weight'",
        ),
        case(
            "an unknown architecture",
            file(&broken(hive, "architecture.gguf", None, |header| {
                replace(header, "general.architecture", "llama", "lhama");
            })),
            "the engine does not know the model's architecture (lhama)",
            "unknown model architecture",
        ),
        case("no memory for the context", long, "no memory for a context of ", "failed to allocate"),
        case("an unknown option", kind("unknown-option"), unknown, unknown_line),
        case(
            "a wrong value of an option",
            kind("wrong-value"),
            "the program does not take what the argument --cache-type-k was given",
            "q9_9",
        ),
        case("no interpreter", kind("no-interpreter"), "the program was not found", ""),
        case("no program at all", kind("no-program"), "the program is not one for this machine", ""),
        case("the program was torn from its folder", kind("torn"), lacks, torn_line),
        Case {
            mischief: |_, watch, id| signal_while_it_loads(watch, id, 4),
            ..case(
                "an instruction that the processor lacks (sent)",
                kind("llama-server"),
                "the processor lacks an instruction that the program was built for",
                "",
            )
        },
        Case {
            mischief: |_, watch, id| signal_while_it_loads(watch, id, 9),
            ..case(
                "killed as by the system (sent)",
                kind("llama-server"),
                "killed from outside: mostly by the system, because memory ran out",
                "",
            )
        },
    ]
}

fn signal_while_it_loads(watch: &Watch, id: &str, signal: i32) {
    let (_, worker) = watch.wait(id, "loading", |worker| worker["phase"] == "loading");
    let port = stage::port_of(&worker);
    eventually("it has begun to load", || wire::get(port, "/health").is_some());
    kill(pid_of(&worker), signal);
}

/// A row of the account, and the worker's end.
fn play(hive: &Hive, case: &Case) -> Value {
    let watch = Watch::of(hive);
    let (id, _) = stage::spawn(hive, &case.order);
    (case.mischief)(hive, &watch, &id);
    watch.state(&id, "gone");
    hive.worker(&id)["exit"].clone()
}

#[test]
#[ignore = "needs an engine and a model"]
fn each_start_that_fails_says_why_beside_the_raw_lines() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = stage::builder().arg("--restart-limit", 0).ports(32);
    for kind in kinds(folder.path()) {
        builder = builder.kind(kind);
    }
    let hive = builder.start();
    let is_binary = fs::read(stage::engine()).unwrap().starts_with(b"\x7fELF");
    let cases = cases(&hive, is_binary);
    let mut wrong = Vec::new();
    println!("{:<48} {:>5}  the reason that a user reads", "starts that fail", "lines");
    for case in &cases {
        let exit = play(&hive, case);
        let message = exit["message"].as_str().unwrap_or_default();
        let lines: Vec<&str> = exit["log"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        println!("{:<48} {:>5}  {message}", case.what, lines.len());
        if !message.starts_with(case.reason)
            || !lines.iter().any(|line| line.contains(case.line)) && !case.line.is_empty()
        {
            let (what, expected, lines) = (case.what, case.reason, lines.join("\n"));
            wrong.push(format!("{what}: {message:?} is not {expected:?}\n{lines}\n{}", hive.log()));
        }
    }
    refusals(&hive);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!((hive.processes(), hive.workers().len()), (vec![], 0));
}

/// What is refused before anything is launched.
fn refusals(hive: &Hive) {
    let model = stage::place_model(hive, "model-again.gguf");
    let with = |name: &str, value: Value| {
        let mut order = stage::order(&model);
        order[name] = value;
        order
    };
    let gone = stage::reference(&hive.models.join("gone.gguf"));
    let empty = stage::reference(&hive.models.join("empty.gguf"));
    for (what, order, status, code) in [
        ("no such file", stage::order(&gone), 404, "MODEL_NOT_FOUND"),
        ("an empty file", stage::order(&empty), 422, "MODEL_INVALID"),
        ("an option that is not allowed", with("extra_args", json!(["--nonsense"])), 400, "INVALID_ARGUMENT"),
        ("a kind without its program", with("kind", json!("vllm")), 409, "KIND_NOT_INSTALLED"),
    ] {
        let refused = stage::ask(hive, "POST", "/v1/workers/spawn", Some(&order));
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{}", refused.text);
        println!(
            "{:<48} {status:>5}  {}",
            format!("{what}: not launched"),
            refused.json()["error"]["message"]
        );
    }
}

#[test]
#[ignore = "needs an engine and a model"]
fn a_port_that_is_lost_where_there_is_no_other_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("go");
    let hive = stage::builder().ports(1).kind(stage::kind_held_by(&gate)).start();
    let watch = Watch::of(&hive);
    let mut order = stage::order(&stage::place_model(&hive, "model.gguf"));
    order["kind"] = "held".into();
    let (id, port) = stage::spawn(&hive, &order);
    watch.wait(&id, "loading", |worker| worker["phase"] == "loading");
    let _thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fs::write(&gate, "").unwrap();
    watch.state(&id, "gone");
    let exit = &hive.worker(&id)["exit"];
    assert_eq!(
        (&exit["reason"], &exit["message"]),
        (&json!("port_lost"), &json!("no free port is left in --worker-ports"))
    );
    println!("{:<48} {:>5}  {}", "the port is taken, and there is no other", "", exit["message"]);
}
