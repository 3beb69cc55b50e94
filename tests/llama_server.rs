//! What the built-in llama-server is given on one GPU and on several, and what its caches in host memory cost:
//! the real daemon beside a driver that a test makes up. The engine only stands still: its arguments are read
//! where the kernel keeps them.

mod support;

use serde_json::{Value, json};
use support::gguf::Llama;
use support::nvml::Nvml;
use support::{Hive, Reply, command_line, variable};

const MIB: u64 = 1 << 20;

/// A card of 12 GiB and one of 24, neither used.
const TWO: &str = "gpu 00000000:01:00.0 GPU-a 12288 12000 NVIDIA GeForce RTX 3060\n\
                   gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";

/// About 7.5 GiB of weights.
const EIGHT: Llama =
    Llama { layers: 32, embd: 4096, ff: 14336, heads: 32, kv_heads: 8, vocab: 128_256, trained_ctx: 131_072 };

const ENGINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/still.sh");

struct Machine {
    hive: Hive,
    _nvml: Nvml,
}

/// The kind `llama-server` with these arguments in place of its own bounds for caches.
fn caching(args: &[&str]) -> Value {
    let mut manifest: Value =
        serde_json::from_str(include_str!("../src/kinds/builtin/llama-server.json")).unwrap();
    let all = manifest["args"].as_array_mut().unwrap();
    let own = all.iter().position(|arg| arg == "--cache-ram").unwrap();
    all.truncate(own);
    all.extend(args.iter().map(|arg| json!(arg)));
    manifest["args_allow"] = json!(["--cache-ram", "--ctx-checkpoints"]);
    manifest["kind"] = json!("caching");
    manifest["program"] = json!(ENGINE);
    manifest
}

impl Machine {
    fn new() -> Self {
        Self::with(&["--cache-ram", "0", "--ctx-checkpoints", "0"])
    }

    /// A hive whose kind `caching` has these arguments.
    fn with(args: &[&str]) -> Self {
        let nvml = Nvml::new(TWO);
        let hive = Hive::builder()
            .kind(caching(args))
            .arg("--worker", format!("llama-server={ENGINE}"))
            .env("RBEE_HIVE_NVML_LIBRARY", nvml.library().to_str().unwrap())
            .start();
        EIGHT.write(&hive.models.join("eight.gguf"));
        EIGHT.write_windowed(&hive.models.join("windowed.gguf"), 512);
        Self { hive, _nvml: nvml }
    }

    fn capacity(&self, kind: &str, device: &str) -> Reply {
        let model = self.model("eight").replace('/', "%2F");
        self.hive.get(&format!("/v1/capacity?kind={kind}&model={model}&device={device}&ctx=512"))
    }

    fn model(&self, name: &str) -> String {
        format!("file:{}/{name}.gguf", self.hive.models.display())
    }

    fn spawn(&self, more: Value) -> Reply {
        let mut body = json!({"model_ref": self.model("eight"), "kind": "llama-server"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.hive.post("/v1/workers/spawn", &body)
    }

    /// Spawns it, and waits for its process.
    fn launched(&self, more: Value) -> Value {
        let reply = self.spawn(more);
        assert_eq!(reply.status, 202, "{}", reply.text);
        let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
        let worker = self.hive.wait(&id, "launched", |worker| worker["phase"] == "loading");
        command_line(worker["pid"].as_u64().unwrap()); // from now on its environment is seen too
        worker
    }

    fn end(&self, worker: &Value) {
        let id = worker["worker_id"].as_str().unwrap();
        self.hive.delete(&format!("/v1/workers/{id}?force=true"));
        self.hive.wait_state(id, "gone");
    }
}

/// What follows an option on a process's command line.
fn option(worker: &Value, name: &str) -> String {
    let line = command_line(worker["pid"].as_u64().unwrap());
    let at = line.iter().position(|arg| arg == name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
    line[at + 1].clone()
}

fn bytes(reply: &Reply, header: &str) -> u64 {
    reply.header(header).parse().unwrap_or_else(|_| panic!("{header}: {reply:?}"))
}

#[test]
fn a_model_on_two_gpus_is_split_as_it_was_promised() {
    let machine = Machine::new();
    let both = machine.launched(json!({"device": ["gpu0", "gpu1"], "memory_bytes": 18_000 * MIB}));
    let pid = both["pid"].as_u64().unwrap();
    assert_eq!(variable(pid, "CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-a,GPU-b"));
    assert_eq!(option(&both, "--tensor-split"), "6000,12000");
    assert_eq!(option(&both, "--n-gpu-layers"), "999");
    machine.end(&both);
    let turned = machine.launched(json!({"device": ["gpu1", "gpu0"], "memory_bytes": 18_000 * MIB}));
    let pid = turned["pid"].as_u64().unwrap();
    assert_eq!(variable(pid, "CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-b,GPU-a"), "as asked for");
    assert_eq!(option(&turned, "--tensor-split"), "12000,6000", "the parts are in the order of the cards");
    machine.end(&turned);
    // An estimate is split no otherwise.
    let estimated = machine.launched(json!({"device": "gpu0,gpu1"}));
    let reserved = estimated["reserved_bytes"].as_u64().unwrap();
    let parts: Vec<u64> =
        option(&estimated, "--tensor-split").split(',').map(|part| part.parse().unwrap()).collect();
    let sum = parts.iter().sum::<u64>();
    assert!((reserved / MIB..=reserved / MIB + 2).contains(&sum), "{parts:?} of {reserved}");
    assert_eq!(parts[0].div_ceil(2), parts[1].div_ceil(4), "12000 and 24000 are free: {parts:?}");
}

#[test]
fn where_there_is_nothing_to_split_nothing_is_said() {
    let machine = Machine::new();
    for (device, layers) in [("gpu1", "999"), ("cpu", "0")] {
        let worker = machine.launched(json!({"device": device}));
        assert_eq!(option(&worker, "--tensor-split"), "0", "{device}");
        assert_eq!(option(&worker, "--n-gpu-layers"), layers, "{device}");
        machine.end(&worker);
    }
}

#[test]
fn the_built_in_kind_bounds_what_grows_in_host_memory() {
    let machine = Machine::new();
    let worker = machine.launched(json!({"device": "gpu1"}));
    assert_eq!(
        (option(&worker, "--cache-ram"), option(&worker, "--ctx-checkpoints")),
        ("0".into(), "0".into())
    );
}

#[test]
fn a_prompt_cache_raises_the_promise_on_the_cpu_and_beside_a_gpu() {
    let machine = Machine::new();
    for device in ["cpu", "gpu1", "gpu0,gpu1"] {
        let reserved = |args: &[&str]| {
            let wish = json!({"kind": "caching", "device": device, "extra_args": args, "ctx": 512});
            let worker = machine.launched(wish);
            machine.end(&worker);
            worker["reserved_bytes"].as_u64().unwrap()
        };
        let without = reserved(&[]);
        assert_eq!(reserved(&["--cache-ram", "512"]), without + 512 * MIB, "{device}");
        assert_eq!(reserved(&["--cache-ram=256"]), without + 256 * MIB, "{device}");
        // This model keeps no states: a checkpoint of it holds nothing.
        assert_eq!(reserved(&["--ctx-checkpoints", "32"]), without, "{device}");
    }
}

#[test]
fn checkpoints_of_what_windowed_layers_have_seen_raise_the_promise_each() {
    let machine = Machine::new();
    // 16 layers of a window, 512 cells, 8 heads of 128 numbers of 2 bytes, twice.
    let one = 16 * 512 * 8 * 128 * 2 * 2;
    for device in ["cpu", "gpu1"] {
        let reserved = |count: &str| {
            let worker = machine.launched(json!({"kind": "caching", "model_ref": machine.model("windowed"),
                "device": device, "ctx": 512, "extra_args": ["--ctx-checkpoints", count]}));
            machine.end(&worker);
            worker["reserved_bytes"].as_u64().unwrap()
        };
        let without = reserved("0");
        assert_eq!((reserved("1"), reserved("8")), (without + one, without + 8 * one), "{device}");
    }
}

#[test]
fn a_cache_that_the_host_cannot_hold_is_refused_though_the_gpu_has_room() {
    let machine = Machine::new();
    let plain = machine.spawn(json!({"kind": "caching", "device": "gpu1"}));
    assert_eq!(plain.status, 202, "{}", plain.text);
    // 4 TiB; and one without a bound.
    for cache in ["4194304", "-1"] {
        let wish = json!({"kind": "caching", "device": "gpu1", "extra_args": ["--cache-ram", cache]});
        let refused = machine.spawn(wish);
        assert_eq!((refused.status, refused.code().as_str()), (409, "INSUFFICIENT_RAM"), "{}", refused.text);
        let error = refused.json()["error"].clone();
        assert_eq!(error["details"]["device"], "cpu");
        assert_eq!(error["details"]["required_bytes"], bytes(&refused, "X-Rbee-Required-Bytes"));
        assert_eq!(error["details"]["available_bytes"], bytes(&refused, "X-Rbee-Available-Bytes"));
        assert!(bytes(&refused, "X-Rbee-Required-Bytes") >= 4 << 40);
        assert!(error["message"].as_str().unwrap().contains("--cache-ram"), "{error}");
    }
}

#[test]
fn capacity_counts_the_caches_of_a_manifest_as_spawn_does() {
    let cached = Machine::with(&["--cache-ram", "512"]);
    let ask = |kind: &str, device: &str| {
        let reply = cached.capacity(kind, device);
        assert_eq!(reply.status, 204, "{}", reply.text);
        bytes(&reply, "X-Rbee-Required-Bytes")
    };
    assert_eq!(ask("caching", "cpu"), ask("llama-server", "cpu") + 512 * MIB);
    // What is required of a card and what is available on it are told of the card alone.
    let of_card = ask("llama-server", "gpu1");
    assert_eq!(ask("caching", "gpu1"), of_card);
    let worker = cached.launched(json!({"kind": "caching", "device": "gpu1", "ctx": 512}));
    assert_eq!(worker["reserved_bytes"], of_card + 512 * MIB);
    let tight = Machine::with(&["--cache-ram", "4194304"]);
    let refused = tight.capacity("caching", "gpu1");
    assert_eq!((refused.status, refused.code().as_str()), (409, "INSUFFICIENT_RAM"), "{}", refused.text);
}
