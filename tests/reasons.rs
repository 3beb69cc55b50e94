//! Starts that fail: the reason that a user reads, beside the lines that it was read from.

mod support;

use serde_json::{Value, json};
use support::Hive;

/// A kind that is no engine but writes these lines, and then does `then`.
fn kind(name: &str, lines: &[&str], then: &str) -> Value {
    let script = format!("printf '%s\\n' \"$@\"; {then}");
    let args: Vec<&str> = ["-c", &script, "sh"].into_iter().chain(lines.iter().copied()).collect();
    json!({"kind": name, "protocol": "probe", "program": "/bin/sh", "args": args, "backends": ["cpu"],
           "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}})
}

const NO_MEMORY: [&str; 3] = [
    "W llama_context: n_ctx_seq (131072) > n_ctx_train (8192) -- possible training context overflow",
    "E ggml_backend_buft_alloc_buffer_n_default: failed to allocate CPU buffer of size 3019898880",
    "E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
];

#[test]
fn a_start_that_fails_says_why_beside_what_was_written() {
    let mut traceback = vec!["ModuleNotFoundError: No module named 'vllm._C'"];
    traceback.extend(["  File \"/opt/engine/run.py\", line 7, in main"; 60]);
    let not_found =
        "E gguf_init_from_file: failed to open GGUF file '/srv/\u{1b}[2Jx.gguf' (No such file or directory)";
    let hive = Hive::builder()
        .arg("--restart-limit", 0)
        .kind(kind("memory", &NO_MEMORY, "exit 1"))
        .kind(kind("module", &traceback, "exit 1"))
        .kind(kind("path", &[not_found], "exit 1"))
        .kind(kind("processor", &["loading"], "kill -ILL $$"))
        .kind(kind("silent", &["Traceback (most recent call last):"], "exit 1"))
        .start();
    let cases = [
        (
            "memory",
            json!("no memory for a context of 131072 tokens a slot: 2880 MiB more were needed on CPU"),
            NO_MEMORY[2],
        ),
        ("module", json!("the Python module vllm._C is missing"), traceback[1]),
        ("path", json!("the model file was not found"), not_found),
        ("processor", json!("the processor lacks an instruction that the program was built for"), "loading"),
        ("silent", Value::Null, "Traceback (most recent call last):"),
    ];
    for (kind, reason, written) in cases {
        let id = hive.spawn(kind, "");
        let last = hive.wait_state(&id, "gone");
        assert_eq!(last["exit"]["message"], reason, "{last}");
        let log = last["exit"]["log"].as_array().unwrap();
        assert!(log.iter().any(|line| line == written), "{last}");
    }
    let told = hive.log();
    assert!(!told.contains("/srv/") && !told.contains('\u{1b}') && !told.contains("/opt/engine"), "{told}");
}

#[test]
fn a_worker_that_was_asked_to_end_has_no_reason() {
    let hive = Hive::builder().kind(kind("grumbling", &NO_MEMORY, "exec sleep 1000")).start();
    let id = hive.spawn("grumbling", "");
    support::eventually("it has grumbled", || {
        hive.get(&format!("/v1/workers/{id}/logs")).text.contains("kv cache")
    });
    hive.delete(&format!("/v1/workers/{id}"));
    let last = hive.wait_state(&id, "gone");
    assert_eq!((&last["exit"]["reason"], &last["exit"]["message"]), (&json!("stopped"), &Value::Null));
    assert!(last["exit"]["log"].as_array().unwrap().iter().any(|line| line == NO_MEMORY[2]), "{last}");
}
