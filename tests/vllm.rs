//! The built-in vllm: what it is given, how its long start is watched, who is left when it dies. The real daemon
//! beside two made-up GPUs, and a stand-in with vLLM's arguments and manners (`rbee-mock serve`).
//!
//! `RBEE_VLLM_LOAD_S=180 cargo test --test vllm long_start` tries a start of three minutes in place of one of
//! some seconds.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use support::nvml::Nvml;
use support::{Builder, Hive, Reply, command_line, eventually, is_alive, kill, variable};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");

/// Two cards alike, neither used.
const ALIKE: &str = "gpu 00000000:01:00.0 GPU-a 24576 24000 NVIDIA GeForce RTX 3090\n\
                     gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";

/// A card of 12 GiB and one of 24.
const UNEQUAL: &str = "gpu 00000000:01:00.0 GPU-a 12288 12000 NVIDIA GeForce RTX 3060\n\
                       gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";

struct Machine {
    hive: Hive,
    _nvml: Nvml,
}

impl Machine {
    fn new(cards: &str, change: impl FnOnce(Builder) -> Builder) -> Self {
        let nvml = Nvml::new(cards);
        let builder = Hive::builder()
            .arg("--worker", format!("vllm={MOCK}"))
            .env("RBEE_HIVE_NVML_LIBRARY", nvml.library().to_str().unwrap());
        let hive = change(builder).start();
        let repository = hive.models.join("models--org--tiny");
        let snapshot = repository.join("snapshots/c0ffee");
        for folder in [&snapshot, &repository.join("refs"), &repository.join("blobs")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(repository.join("refs/main"), "c0ffee").unwrap();
        let files = [("model.safetensors", &b"\x02\0\0\0\0\0\0\0{}"[..]), ("config.json", b"{}")];
        for (n, (name, bytes)) in files.iter().enumerate() {
            std::fs::write(repository.join(format!("blobs/{n}")), bytes).unwrap();
            symlink(format!("../../blobs/{n}"), snapshot.join(name)).unwrap();
        }
        Self { hive, _nvml: nvml }
    }

    fn spawn(&self, behaviour: &str, more: Value) -> Reply {
        let mut body = json!({"model_ref": "hf:org/tiny", "kind": "vllm", "memory_bytes": 12 * GIB,
            "device": ["gpu0", "gpu1"], "env": {"MOCK_VLLM": behaviour}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.hive.post("/v1/workers/spawn", &body)
    }

    /// Spawns it; its id.
    fn spawned(&self, behaviour: &str, more: Value) -> String {
        let reply = self.spawn(behaviour, more);
        assert_eq!(reply.status, 202, "{}", reply.text);
        reply.json()["worker_id"].as_str().unwrap().to_owned()
    }

    /// What is left of a device for others, in MiB.
    fn left(&self, device: &str) -> u64 {
        let query = format!("/v1/capacity?kind=vllm&model=hf:org/tiny&device={device}&memory_bytes=1");
        self.hive.get(&query).header("X-Rbee-Available-Bytes").parse::<u64>().unwrap() / MIB
    }
}

fn pid(worker: &Value) -> u32 {
    u32::try_from(worker["pid"].as_u64().unwrap()).unwrap()
}

/// What follows an option on a process's command line.
fn option(worker: &Value, name: &str) -> String {
    let line = command_line(worker["pid"].as_u64().unwrap());
    let at = line.iter().position(|arg| arg == name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
    line[at + 1].clone()
}

/// The children of a process: pid and group.
fn children(parent: u32) -> Vec<(u32, u32)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
            let own = stat.split(' ').next()?.parse().ok()?;
            (fields[1].parse() == Ok(parent)).then_some((own, fields[2].parse().ok()?))
        })
        .collect()
}

#[test]
fn it_is_given_its_model_its_name_its_cards_and_its_fraction_of_them() {
    let machine = Machine::new(ALIKE, |builder| builder);
    let wish =
        json!({"ctx": 2048, "parallel": 3, "extra_args": ["--enforce-eager", "--quantization", "fp8"]});
    let worker = machine.hive.wait_state(&machine.spawned("", wish), "ready");
    let line = command_line(worker["pid"].as_u64().unwrap());
    let snapshot = machine.hive.models.canonicalize().unwrap().join("models--org--tiny/snapshots/c0ffee");
    let port = worker["port"].to_string();
    let wanted = [
        MOCK,
        "serve",
        snapshot.to_str().unwrap(),
        "--served-model-name",
        "hf:org/tiny",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--max-model-len",
        "2048",
        "--max-num-seqs",
        "3",
        // Of each card a quarter: half of 12 GiB.
        "--gpu-memory-utilization",
        "0.250000",
        "--tensor-parallel-size",
        "2",
        "--enforce-eager",
        "--quantization",
        "fp8",
    ];
    assert_eq!(line, wanted);
    let own = |name: &str| variable(worker["pid"].as_u64().unwrap(), name);
    assert_eq!(own("CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-a,GPU-b"));
    assert_eq!(own("CUDA_DEVICE_ORDER").as_deref(), Some("PCI_BUS_ID"));
    assert_eq!(own("SPT_NOENV").as_deref(), Some("1"));
    assert_eq!((&worker["device"], &worker["slots_total"]), (&json!("gpu0,gpu1"), &json!(3)));
    assert_eq!(worker["reserved_bytes"], 12 * GIB);
    assert_eq!((machine.left("gpu0"), machine.left("gpu1")), (24_000 - 6144, 24_000 - 6144));
}

#[test]
fn on_one_card_it_takes_at_most_what_it_was_promised() {
    let machine = Machine::new(ALIKE, |builder| builder);
    let promised = 10_000 * MIB;
    let id = machine.spawned("", json!({"device": "gpu1", "memory_bytes": promised}));
    let worker = machine.hive.wait_state(&id, "ready");
    assert_eq!(option(&worker, "--tensor-parallel-size"), "1");
    let fraction: f64 = option(&worker, "--gpu-memory-utilization").parse().unwrap();
    let taken = fraction * (24_576 * MIB) as f64;
    assert!(taken <= promised as f64 && taken > (promised - MIB) as f64, "{fraction}");
}

#[test]
fn of_cards_that_differ_it_is_promised_the_same_fraction_which_the_smaller_one_needs() {
    let machine = Machine::new(UNEQUAL, |builder| builder);
    // A rank takes 6 GiB, which is half of the smaller card; vLLM then wants half of the larger one too.
    let worker = machine.hive.wait_state(&machine.spawned("", json!({})), "ready");
    assert_eq!(option(&worker, "--gpu-memory-utilization"), "0.500000");
    assert_eq!(worker["reserved_bytes"], 18 * GIB);
    assert_eq!((machine.left("gpu0"), machine.left("gpu1")), (12_000 - 6144, 24_000 - 12_288));
    // The other half of the smaller card is not free whole: 288 MiB of it are a stranger's.
    let refused = machine.spawn("", json!({}));
    assert_eq!((refused.status, refused.code().as_str()), (409, "INSUFFICIENT_VRAM"), "{}", refused.text);
    let details = refused.json()["error"]["details"].clone();
    assert_eq!(details["required_bytes"], 12 * GIB);
    let available = details["available_bytes"].as_u64().unwrap();
    assert_eq!(available, 2 * (12_000 - 6144) * MIB, "what a model may take there, parted alike");
    let fits = machine.spawn("", json!({"memory_bytes": available}));
    assert_eq!(fits.status, 202, "{}", fits.text);
}

#[test]
fn a_long_start_without_a_port_is_waited_for_while_its_log_its_memory_or_its_reads_grow() {
    let load: u64 = std::env::var("RBEE_VLLM_LOAD_S").map_or(5, |seconds| seconds.parse().unwrap());
    // Much shorter than the start, and long enough for a machine that is busy.
    let patience = format!("{}ms", load * 400);
    let machine = Machine::new(ALIKE, |builder| builder.arg("--ready-timeout", &patience));
    let ids: Vec<String> = ["log", "memory", "bytes"]
        .iter()
        .map(|moves| machine.spawned(&format!("load={load}s,moves={moves}"), json!({"memory_bytes": GIB})))
        .collect();
    for id in &ids {
        let loading = machine.hive.wait(id, "loading", |worker| worker["phase"] == "loading");
        let port = u16::try_from(loading["port"].as_u64().unwrap()).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens yet");
    }
    for id in &ids {
        let worker = machine.hive.wait(id, "ready", |worker| worker["state"] != "spawning");
        assert_eq!((&worker["state"], &worker["restart_count"]), (&json!("ready"), &json!(0)), "{worker}");
    }
}

#[test]
fn a_start_in_which_all_three_stand_still_is_given_up_and_its_ranks_with_it() {
    let machine =
        Machine::new(ALIKE, |builder| builder.arg("--ready-timeout", "1s").arg("--restart-limit", 0));
    let mut events = machine.hive.events();
    let id = machine.spawned("load=10m,moves=nothing,child=session", json!({}));
    let loading = machine.hive.wait(&id, "loading", |worker| worker["phase"] == "loading");
    let leader = pid(&loading);
    eventually("its rank and its child are there", || children(leader).len() == 2);
    let ranks = children(leader);
    let (story, last) = machine.hive.story(&mut events, &id);
    assert_eq!(story, ["spawning", "backoff", "stopping", "gone"]);
    assert_eq!(last["exit"]["reason"], "ready_timeout", "{last}");
    assert!(!is_alive(leader) && ranks.iter().all(|(pid, _)| !is_alive(*pid)), "{ranks:?}");
}

/// Three children that stay when their parent is gone: in its group, there too with its environment set aside,
/// and in a session of its own.
const THREE: &str = "child=bare,child=session";

/// The leader of a worker with [`THREE`], and these.
fn with_three_children(machine: &Machine, id: &str) -> (u32, Vec<u32>) {
    let worker = machine.hive.wait_state(id, "ready");
    let leader = pid(&worker);
    let found = children(leader);
    let groups: BTreeSet<u32> = found.iter().map(|(_, group)| *group).collect();
    assert_eq!((found.len(), groups.len()), (3, 2), "two stayed in the group of {leader}: {found:?}");
    let bare = found.iter().filter(|(pid, _)| variable(u64::from(*pid), "RBEE_OWNER").is_none());
    assert_eq!(bare.count(), 1, "the kernel shows no mark of it");
    (leader, found.into_iter().map(|(pid, _)| pid).collect())
}

#[test]
fn when_its_leader_dies_all_its_ranks_are_dead_before_it_is_started_again() {
    let machine = Machine::new(ALIKE, |builder| builder);
    let mut events = machine.hive.events();
    let id = machine.spawned(THREE, json!({}));
    let (leader, ranks) = with_three_children(&machine, &id);
    kill(leader, 9);
    let again = std::iter::from_fn(|| events.next_event())
        .map(|(_, worker)| worker)
        .find(|worker| worker["restart_count"] == 1 && worker["phase"] == "launching")
        .expect("it is started again");
    let alive: Vec<u32> = ranks.into_iter().filter(|pid| is_alive(*pid)).collect();
    assert_eq!(alive, Vec::<u32>::new(), "when this was told: {again}");
    assert_ne!(pid(&machine.hive.wait_state(&id, "ready")), leader);
}

#[test]
fn when_it_is_stopped_its_port_is_free_and_nobody_is_left() {
    let machine = Machine::new(ALIKE, |builder| builder);
    for force in [false, true] {
        let id = machine.spawned(THREE, json!({}));
        let (leader, ranks) = with_three_children(&machine, &id);
        let port = u16::try_from(machine.hive.worker(&id)["port"].as_u64().unwrap()).unwrap();
        machine.hive.delete(&format!("/v1/workers/{id}?force={force}"));
        machine.hive.wait_state(&id, "gone");
        let alive: Vec<u32> = ranks.into_iter().chain([leader]).filter(|pid| is_alive(*pid)).collect();
        assert_eq!(alive, Vec::<u32>::new(), "force={force}");
        TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    }
}

/// Asks a worker for work that takes ten minutes, and does not wait for it.
fn ask_for_work(worker: &Value) -> TcpStream {
    let port = u16::try_from(worker["port"].as_u64().unwrap()).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let body = r#"{"prompt":"a b","ms":600000}"#;
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

#[test]
fn it_is_busy_when_the_requests_of_all_its_engines_fill_its_slots() {
    let machine = Machine::new(ALIKE, |builder| builder);
    let id = machine.spawned("", json!({"parallel": 3}));
    let worker = machine.hive.wait_state(&id, "ready");
    assert_eq!(worker["slots_available"], 3, "metrics of other names count nothing");
    // Its two engines tell 1 and 0, then 1 and 1, then 2 and 1.
    let mut work = Vec::new();
    for (free, state) in [(2, "ready"), (1, "ready"), (0, "busy")] {
        work.push(ask_for_work(&worker));
        let seen = machine.hive.wait(&id, "counted", |worker| worker["slots_available"] == free);
        assert_eq!(seen["state"], state, "{seen}");
    }
    machine.hive.delete(&format!("/v1/workers/{id}?force=true"));
    machine.hive.wait_state(&id, "gone");
}

#[test]
fn it_keeps_its_mark_where_setproctitle_would_overwrite_it() {
    let machine = Machine::new(ALIKE, |builder| builder);
    let worker = machine.hive.wait_state(&machine.spawned("retitled", json!({})), "ready");
    assert!(variable(worker["pid"].as_u64().unwrap(), "RBEE_OWNER").is_some());
}

#[test]
fn one_that_overwrites_its_environment_is_watched_started_again_and_stopped_all_the_same() {
    let mut manifest: Value = serde_json::from_str(include_str!("../src/kinds/builtin/vllm.json")).unwrap();
    manifest["env"] = json!({});
    let machine = Machine::new(ALIKE, |builder| builder.kind(manifest));
    let id = machine.spawned("retitled,child=session", json!({}));
    let first = machine.hive.wait_state(&id, "ready");
    assert_eq!(variable(first["pid"].as_u64().unwrap(), "RBEE_OWNER"), None, "the kernel shows zeros");
    let ranks = children(pid(&first));
    kill(pid(&first), 9);
    let second = machine
        .hive
        .wait(&id, "ready again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    assert!(ranks.len() == 2 && ranks.iter().all(|(pid, _)| !is_alive(*pid)), "{ranks:?}");
    machine.hive.delete(&format!("/v1/workers/{id}"));
    machine.hive.wait_state(&id, "gone");
    assert!(!is_alive(pid(&second)));
}
