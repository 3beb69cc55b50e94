//! What somebody with the queen's token can make of a spawn's arguments: nothing of them is read by a shell, filled
//! in, or taken for another option, and no variable leads a worker to code of theirs. What a process really got
//! is read where the kernel keeps it.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use support::{Hive, Reply, command_line, gguf, variable};

const SPAWN: &str = "/v1/workers/spawn";
const ENGINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/still.sh");

/// A hive with a kind that stands still and takes some options, and the built-in llama-server on the same program.
fn hive() -> Hive {
    let still = json!({"kind": "still", "protocol": "probe", "program": ENGINE, "backends": ["cpu"],
        "args": ["--model", "{model_path}"], "args_allow": ["--note", "-n", "--flash-attn"],
        "probe": {"path": "/health"}});
    Hive::builder().kind(still).arg("--worker", format!("llama-server={ENGINE}")).ports(64).start()
}

fn spawn(hive: &Hive, kind: &str, more: Value) -> Reply {
    let mut body = json!({"model_ref": hive.model_ref(), "kind": kind});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hive.post(SPAWN, &body)
}

/// The process of a spawn that was accepted, as the kernel shows it.
fn process(hive: &Hive, reply: &Reply) -> u64 {
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
    let pid = hive.wait(&id, "launched", |worker| !worker["pid"].is_null())["pid"].as_u64().unwrap();
    command_line(pid); // from now on its environment is seen too
    pid
}

fn assert_refused(reply: &Reply, field: &str, case: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (400, "INVALID_ARGUMENT"), "{case}: {}", reply.text);
    assert_eq!(reply.json()["error"]["details"]["field"], field, "{case}");
    assert!(!reply.text.contains("zq7marker"), "{case}: {}", reply.text);
}

/// A file of this name lies neither where the hive runs nor among the models.
fn assert_nothing_ran(hive: &Hive) {
    for folder in [Path::new("."), hive.folder.path(), &hive.models] {
        assert!(!folder.join("pwned").exists(), "in {}", folder.display());
    }
}

#[test]
fn variables_that_lead_to_code_or_elsewhere_are_refused_in_every_spelling() {
    let hive = hive();
    let names = [
        "RBEE_WORKER_TOKEN",
        "RBEE_OWNER",
        "RBEE_HIVE_TOKEN",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "GLIBC_TUNABLES",
        "GCONV_PATH",
        "PATH",
        "HOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONHOME",
        "BASH_ENV",
        "ENV",
        "NODE_OPTIONS",
        "PERL5LIB",
        "PERL5OPT",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
        "CUDA_INJECTION64_PATH",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "OPENSSL_CONF",
        "OPENSSL_MODULES",
        "LLAMA_ARG_MODEL",
        "LLAMA_ARG_THREADS",
        "GGML_BACKEND_PATH",
        "LLAMA_CACHE",
        "NCCL_NET_PLUGIN",
        "OMP_TOOL_LIBRARIES",
        "HSA_TOOLS_LIB",
        "VK_ICD_FILENAMES",
        "JAVA_TOOL_OPTIONS",
        "RUBYOPT",
        "SHELLOPTS",
        "PS4",
        "CC",
        "CUDA_HOME",
        "HF_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
    ];
    for name in names {
        for spelt in [name.to_owned(), name.to_lowercase(), title_case(name)] {
            let reply = spawn(&hive, "still", json!({"env": {"HARMLESS": "1", &spelt: "zq7marker"}}));
            assert_refused(&reply, "env", &spelt);
        }
        // These are no names of variables at all.
        for spelt in [
            format!("{name} "),
            format!(" {name}"),
            format!("{name}=x"),
            format!("{name}\n"),
            format!("{name}\0"),
            format!("export {name}"),
            format!("\u{feff}{name}"),
            format!("{name}\u{200b}"),
            format!("A\n{name}"),
        ] {
            let reply = spawn(&hive, "still", json!({"env": {&spelt: "zq7marker"}}));
            assert_refused(&reply, "env", &format!("{spelt:?}"));
        }
    }
    for spelt in ["", "1", "A-B", "BASH_FUNC_ls%%", "ＬD_PRELOAD", "{port}", "$(touch pwned)"] {
        assert_refused(&spawn(&hive, "still", json!({"env": {spelt: "zq7marker"}})), "env", spelt);
    }
    assert_eq!(hive.workers(), Vec::<Value>::new());
}

/// `Ld_Preload`
fn title_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_owned() + &rest.to_lowercase()
    });
    words.collect::<Vec<_>>().join("_")
}

#[test]
fn a_name_hidden_in_json_is_the_name_that_it_spells() {
    let hive = hive();
    let model = hive.model_ref();
    for env in [
        r#"{"L\u0044_PRELOAD":"zq7marker"}"#,
        r#"{"LD_PRELOAD":"zq7marker","LD_PRELOAD":""}"#,
        r#"{"LD_PRELOAD":"","LD_PRELOAD":"zq7marker"}"#,
        r#"{"A":"1"},"env":{"LD_PRELOAD":"zq7marker"}"#,
    ] {
        let body = format!(r#"{{"model_ref":"{model}","kind":"still","env":{env}}}"#);
        assert_refused(&hive.request("POST", SPAWN, &[], Some(&body)), "env", env);
    }
    // Of two fields of a name the last one is the one that is checked, and the one that is used.
    let body = format!(
        r#"{{"model_ref":"{model}","kind":"still","env":{{"LD_PRELOAD":"zq7marker"}},"env":{{"MINE":"1"}}}}"#
    );
    let pid = process(&hive, &hive.request("POST", SPAWN, &[], Some(&body)));
    assert_eq!((variable(pid, "LD_PRELOAD"), variable(pid, "MINE").as_deref()), (None, Some("1")));
}

#[test]
fn llama_server_opens_its_variables_but_not_those_that_give_away_the_machine() {
    let hive = hive();
    for name in [
        "LLAMA_ARG_TOOLS",
        "LLAMA_ARG_TOOLS_RUNTIME",
        "LLAMA_ARG_AGENT",
        "LLAMA_ARG_MCP_SERVERS_CONFIG",
        "LLAMA_ARG_MCP_SERVERS_JSON",
        "LLAMA_ARG_UI_MCP_PROXY",
        "LLAMA_ARG_STATIC_PATH",
        "LLAMA_ARG_MEDIA_PATH",
        "LLAMA_ARG_SLOT_SAVE_PATH",
        "LLAMA_ARG_LOG_FILE",
        "LLAMA_ARG_API_KEY_FILE",
        "LLAMA_ARG_VIDEO_FFMPEG_DIR",
        "LLAMA_ARG_MODEL_URL",
        "LLAMA_ARG_HF_REPO",
        "LLAMA_ARG_DOCKER_REPO",
        "LLAMA_ARG_MODELS_DIR",
        "LLAMA_ARG_MODELS_PRESET",
        "LLAMA_ARG_RPC",
        "LD_PRELOAD",
        "llama_arg_threads",
    ] {
        assert_refused(&spawn(&hive, "llama-server", json!({"env": {name: "zq7marker"}})), "env", name);
    }
    let pid = process(&hive, &spawn(&hive, "llama-server", json!({"env": {"LLAMA_ARG_THREADS": "4"}})));
    assert_eq!(variable(pid, "LLAMA_ARG_THREADS").as_deref(), Some("4"));
}

#[test]
fn values_of_variables_arrive_as_they_are() {
    let hive = hive();
    let values = [
        "$(touch pwned)",
        "`touch pwned`",
        "; touch pwned #",
        "a\nb\r\nLD_PRELOAD=x\n",
        "'\"\\",
        "{port} {model_path} {{port}}",
        "() { :; }; touch pwned",
        "%s%n",
        "\u{1b}[2J",
        "ü\u{202e}",
        "  ",
        "",
        "=",
        "a=b",
    ];
    let env: BTreeMap<String, &str> =
        values.iter().enumerate().map(|(n, value)| (format!("MINE_{n}"), *value)).collect();
    let pid = process(&hive, &spawn(&hive, "still", json!({"env": env})));
    for (name, value) in env {
        assert_eq!(variable(pid, &name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(variable(pid, "LD_PRELOAD"), None);
    assert_refused(&spawn(&hive, "still", json!({"env": {"MINE": "a\0LD_PRELOAD=zq7marker"}})), "env", "NUL");
    assert_nothing_ran(&hive);
}

#[test]
fn only_options_that_the_kind_spells_out_are_taken() {
    let hive = hive();
    for args in [
        // Other options, in every way to write one.
        &["--model=/etc/passwd"][..],
        &["--model", "/etc/passwd"],
        &["--note", "x", "--model=/etc/passwd"],
        &["--note", "--model=/etc/passwd"],
        &["--note", "--port"],
        &["-m", "/etc/passwd"],
        &["--note=x", "-m=y"],
        // Abbreviations, bundles, other spellings.
        &["--not", "x"],
        &["--no=x"],
        &["--flash"],
        &["--flash=on"],
        &["--flash_attn", "on"],
        &["--NOTE", "x"],
        &["-nx"],
        &["-n5"],
        &["-fa"],
        &["-f"],
        &["--note-"],
        &["--note:x"],
        &["---note"],
        &["-note"],
        &["–note"],
        &["--note\u{a0}x"],
        &[" --note"],
        &["--note "],
        &["--note\n--port"],
        &["--note\t5"],
        // What is no option.
        &["{port}"],
        &["$(touch pwned)"],
        &["x"],
        &[""],
        &["--"],
        &["-"],
        &["@file"],
        &["=x"],
        &["--note", "x", "y"],
        &["--note=x", "y"],
        &["--note", "x", ""],
        &["--note", "--"],
        &["--note", "-"],
        &["--note", "-x"],
        &["--note", "-inf"],
        &["--note", "-1x"],
    ] {
        assert_refused(
            &spawn(&hive, "still", json!({"extra_args": args})),
            "extra_args",
            &format!("{args:?}"),
        );
    }
    assert_refused(&spawn(&hive, "still", json!({"extra_args": ["--note=a\0--port"]})), "extra_args", "NUL");
    for args in [json!("--note x"), json!([["--note"]]), json!([1]), json!({"--note": "x"}), json!([null])] {
        assert_refused(&spawn(&hive, "still", json!({"extra_args": args})), "extra_args", &args.to_string());
    }
    assert_eq!(hive.workers(), Vec::<Value>::new());
}

#[test]
fn what_is_taken_arrives_as_it_is_behind_the_kinds_own_arguments() {
    let hive = hive();
    let args = [
        "--note",
        "$(touch pwned)",
        "--note={port}",
        "--note",
        "a\nb 'c' \"d\" `touch pwned`",
        "-n",
        "-5",
        "--note=--model=x",
        "--note",
        "",
        "--note",
        "x",
        "--note",
        "y",
        "--note=a=b=c",
        "--flash-attn",
        "-n=;touch pwned",
    ];
    let pid = process(&hive, &spawn(&hive, "still", json!({"extra_args": args})));
    let path = hive.models.canonicalize().unwrap().join("tiny.gguf");
    let own = ["/bin/sh", ENGINE, "--model", path.to_str().unwrap()];
    assert_eq!(command_line(pid), [&own[..], &args[..]].concat());
    assert_nothing_ran(&hive);
}

#[test]
fn the_name_of_a_model_is_a_file_name_and_nothing_else() {
    let hive = hive();
    for name in [
        "a b \"c\" 'd' $(touch pwned) `touch pwned` {port} ; & | > < * ? ~ # %s.gguf",
        "--port=1.gguf",
        "$IFS${PATH}{{model_path}}.gguf",
        "a,b=c@d:e.gguf",
    ] {
        gguf::TINY.write(&hive.models.join(name));
        let reference = format!("file:{}/{name}", hive.models.display());
        let reply = hive.post(SPAWN, &json!({"model_ref": reference, "kind": "llama-server", "parallel": 2}));
        let pid = process(&hive, &reply);
        let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
        let (port, path) =
            (hive.worker(&id)["port"].to_string(), hive.models.canonicalize().unwrap().join(name));
        let wanted = [
            "/bin/sh",
            ENGINE,
            "--model",
            path.to_str().unwrap(),
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--ctx-size",
            "4096",
            "--parallel",
            "2",
            "--n-gpu-layers",
            "0",
            "--tensor-split",
            "0",
            "--cache-ram",
            "0",
            "--ctx-checkpoints",
            "0",
        ];
        assert_eq!(command_line(pid), wanted);
        assert_eq!(hive.worker(&id)["model_ref"], reference);
    }
    for name in ["a\nb.gguf", "../tiny.gguf", "a\u{7f}.gguf", "a\\b.gguf", "ü.gguf"] {
        let reference = format!("file:{}/{name}", hive.models.display());
        let reply = hive.post(SPAWN, &json!({"model_ref": reference, "kind": "llama-server"}));
        assert_refused(&reply, "model_ref", &format!("{name:?}"));
    }
    assert_nothing_ran(&hive);
}
