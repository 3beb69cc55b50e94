//! What fits where, asked of the real daemon beside a driver that a test makes up.

mod support;

use std::collections::BTreeSet;
use std::sync::Barrier;

use serde_json::{Value, json};
use support::gguf::{Llama, TINY};
use support::nvml::Nvml;
use support::{Hive, Reply, eventually};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A card of 12 GiB and one of 24, neither used.
const TWO: &str = "gpu 00000000:01:00.0 GPU-a 12288 12000 NVIDIA GeForce RTX 3060\n\
                   gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";

/// About 7.5 GiB of weights, like an 8B model in 8 bits.
const EIGHT: Llama =
    Llama { layers: 32, embd: 4096, ff: 14336, heads: 32, kv_heads: 8, vocab: 128_256, trained_ctx: 131_072 };

/// About 70 GiB of weights, like a 70B model in 8 bits.
const SEVENTY: Llama = Llama { layers: 80, embd: 8192, ff: 28672, heads: 64, ..EIGHT };

struct Machine {
    hive: Hive,
    nvml: Nvml,
}

impl Machine {
    fn new(conf: &str, args: &[(&str, &str)]) -> Self {
        let nvml = Nvml::new(conf);
        let mock = env!("CARGO_BIN_EXE_rbee-mock");
        let kind = |name: &str, backends: &[&str]| {
            json!({"kind": name, "protocol": "native", "program": mock, "backends": backends,
                "args": ["worker", "--slots", "{parallel}"], "env_allow": ["MOCK_*"]})
        };
        let builder = Hive::builder()
            .kind(kind("any", &["cpu", "cuda", "rocm"]))
            .kind(kind("gpu-only", &["cuda"]))
            .ports(80)
            .env("RBEE_HIVE_NVML_LIBRARY", nvml.library().to_str().unwrap());
        let hive = args.iter().fold(builder, |builder, (name, value)| builder.arg(name, value)).start();
        EIGHT.write(&hive.models.join("eight.gguf"));
        SEVENTY.write(&hive.models.join("seventy.gguf"));
        Self { hive, nvml }
    }

    fn model(&self, name: &str) -> String {
        format!("file:{}/{name}.gguf", self.hive.models.display())
    }

    fn capacity(&self, model: &str, query: &str) -> Reply {
        let model = self.model(model).replace('/', "%2F");
        self.hive.get(&format!("/v1/capacity?kind=any&model={model}{query}"))
    }

    fn spawn(&self, model: &str, more: Value) -> Reply {
        let mut body = json!({"model_ref": self.model(model), "kind": "any"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.hive.post("/v1/workers/spawn", &body)
    }

    /// Spawns it and waits until it is ready.
    fn ready(&self, model: &str, more: Value) -> Value {
        let reply = self.spawn(model, more);
        assert_eq!(reply.status, 202, "{}", reply.text);
        self.hive.wait_state(reply.json()["worker_id"].as_str().unwrap(), "ready")
    }
}

fn bytes(reply: &Reply, header: &str) -> u64 {
    reply.header(header).parse().unwrap_or_else(|_| panic!("{header}: {reply:?}"))
}

#[test]
fn devices_are_listed_as_their_driver_tells() {
    let machine = Machine::new(TWO, &[]);
    let devices = machine.hive.get("/v1/devices").json();
    let gpus = devices["gpus"].as_array().unwrap();
    let told: Vec<_> = gpus.iter().map(|gpu| (gpu["id"].as_str(), gpu["vram_gb"].as_u64())).collect();
    assert_eq!(told, [(Some("gpu0"), Some(12)), (Some("gpu1"), Some(24))]);
    assert_eq!(gpus[1]["driver"], "nvml");
    assert_eq!(devices["backends"], json!(["cpu", "cuda"]));
    assert!(devices["cpu"]["cores"].as_u64().unwrap() >= 1);
    assert!(devices["cpu"]["ram_available_bytes"].as_u64() <= devices["cpu"]["ram_total_bytes"].as_u64());
    assert!(devices["disk"]["total_bytes"].as_u64().unwrap() > 0);
    assert_eq!(devices["workers"], 0);
}

#[test]
fn capacity_and_spawn_give_the_same_answer() {
    let machine = Machine::new(TWO, &[]);
    for (model, query, more) in [
        ("eight", "&device=gpu0", json!({"device": "gpu0"})),
        ("eight", "&device=1&ctx=65536&parallel=4", json!({"device": 1, "ctx": 65536, "parallel": 4})),
        ("eight", "&device=gpu0&ctx=131072", json!({"device": "gpu0", "ctx": 131_072})),
        ("eight", "", json!({})),
        ("seventy", "&device=gpu1", json!({"device": "gpu1"})),
        ("seventy", "&device=gpu0,gpu1", json!({"device": ["gpu0", "gpu1"]})),
        ("tiny", "&device=cpu", json!({"device": "cpu"})),
        (
            "tiny",
            "&memory_bytes=99000000000&device=gpu1",
            json!({"memory_bytes": 99_000_000_000u64, "device": "gpu1"}),
        ),
    ] {
        let asked = machine.capacity(model, query);
        let spawned = machine.spawn(model, more);
        let case = format!("{model} {query}: {} {}", asked.text, spawned.text);
        match asked.status {
            204 => {
                assert_eq!(spawned.status, 202, "{case}");
                let id = spawned.json()["worker_id"].as_str().unwrap().to_owned();
                let worker = machine.hive.worker(&id);
                assert_eq!(worker["reserved_bytes"], bytes(&asked, "X-Rbee-Required-Bytes"), "{case}");
                assert!(bytes(&asked, "X-Rbee-Available-Bytes") >= bytes(&asked, "X-Rbee-Required-Bytes"));
                machine.hive.delete(&format!("/v1/workers/{id}?force=true"));
                machine.hive.wait_state(&id, "gone");
            }
            409 => {
                assert_eq!((spawned.status, asked.code()), (409, spawned.code()), "{case}");
                let (asked, spawned) = (asked.json(), spawned.json());
                let details = |reply: &Value| reply["error"]["details"].clone();
                assert_eq!(details(&asked)["required_bytes"], details(&spawned)["required_bytes"], "{case}");
                assert_eq!(details(&asked)["breakdown"], details(&spawned)["breakdown"], "{case}");
            }
            _ => panic!("{case}"),
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let machine = Machine::new(TWO, &[]);
    let reply = machine.capacity("eight", "&device=gpu0&ctx=65536");
    assert_eq!((reply.status, reply.code().as_str()), (409, "INSUFFICIENT_VRAM"), "{}", reply.text);
    let details = reply.json()["error"]["details"].clone();
    assert_eq!(details["required_bytes"], bytes(&reply, "X-Rbee-Required-Bytes"));
    assert_eq!((&details["available_bytes"], &details["device"]), (&json!(12_000 * MIB), &json!("gpu0")));
    let parts = ["weights", "kv_cache", "compute", "constant"];
    let sum: u64 = parts.iter().map(|part| details["breakdown"][part].as_u64().unwrap()).sum();
    assert_eq!(details["required_bytes"], sum);
    // 32 layers of 8 heads of 128 numbers of 2 bytes, twice.
    assert_eq!(details["breakdown"]["kv_cache"], 32 * 8 * 128 * 2 * 2 * 65_536u64);
    let suggestions = details["suggestions"].as_array().unwrap().clone();
    assert!(suggestions.iter().any(|suggestion| suggestion["device"] == "gpu1"), "{suggestions:?}");
    let shorter = suggestions.iter().find_map(|suggestion| suggestion["ctx"].as_u64()).unwrap();
    assert_eq!(machine.capacity("eight", &format!("&device=gpu0&ctx={shorter}")).status, 204);
    assert_eq!(machine.capacity("eight", &format!("&device=gpu0&ctx={}", shorter + 256)).status, 409);

    let reply = machine.capacity("seventy", "&device=gpu0,gpu1");
    let error = reply.json()["error"].clone();
    let most = error["details"]["weights_bytes_max"].as_u64();
    if error["details"]["suggestions"].as_array().unwrap().is_empty() {
        assert!(most.is_some_and(|most| most < 36_000 * MIB), "{error}");
    }
    let cpu = machine.capacity("tiny", "&device=cpu&memory_bytes=1125899906842624");
    assert_eq!((cpu.status, cpu.code().as_str()), (409, "INSUFFICIENT_RAM"));
}

#[test]
fn a_smaller_quantisation_of_the_same_repository_is_suggested() {
    let machine = Machine::new(TWO, &[]);
    let snapshot = machine.hive.models.join("models--org--big/snapshots/c0ffee");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(machine.hive.models.join("models--org--big/refs")).unwrap();
    std::fs::write(machine.hive.models.join("models--org--big/refs/main"), "c0ffee").unwrap();
    SEVENTY.write(&snapshot.join("big-Q8_0.gguf"));
    EIGHT.write(&snapshot.join("big-Q2_K.gguf"));
    let reply = machine.hive.get("/v1/capacity?kind=gpu-only&model=hf:org/big:Q8_0&device=gpu1");
    assert_eq!(reply.status, 409);
    let error = reply.json()["error"].clone();
    let models: Vec<&Value> =
        error["details"]["suggestions"].as_array().unwrap().iter().map(|it| &it["model"]).collect();
    assert!(models.contains(&&json!("hf:org/big:Q2_K")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("hf:org/big:Q2_K"), "{error}");
}

#[test]
fn a_foreign_process_leaves_what_it_leaves() {
    let conf = "gpu 00000000:01:00.0 GPU-a 24576 4000 NVIDIA GeForce RTX 3090\nprocess 1 20000\n";
    let machine = Machine::new(conf, &[]);
    let reply = machine.capacity("eight", "&device=gpu0");
    assert_eq!((reply.status, bytes(&reply, "X-Rbee-Available-Bytes")), (409, 4000 * MIB));
    machine.nvml.set(&conf.replace("24576 4000", "24576 24000").replace("process 1 20000", ""));
    eventually("the memory is free", || machine.capacity("eight", "&device=gpu0").status == 204);
}

#[test]
fn reserved_memory_and_hidden_devices_are_not_given() {
    let machine = Machine::new(TWO, &[("--reserve", "gpu1=20GiB"), ("--hide-device", "gpu0")]);
    let devices = machine.hive.get("/v1/devices").json();
    assert_eq!(devices["gpus"].as_array().unwrap().len(), 1);
    let hidden = machine.capacity("tiny", "&device=gpu0");
    assert_eq!((hidden.status, hidden.code().as_str()), (404, "DEVICE_NOT_FOUND"));
    assert_eq!(hidden.json()["error"]["details"]["devices"], json!(["cpu", "gpu1"]));
    let reply = machine.capacity("eight", "&device=gpu1");
    assert_eq!((reply.status, bytes(&reply, "X-Rbee-Available-Bytes")), (409, 4 * GIB));
}

#[test]
fn parts_and_lost_cards_are_what_they_are() {
    let machine = Machine::new(
        "gpu 00000000:01:00.0 GPU-a 81920 81000 NVIDIA A100\nmig\n\
         instance 1 MIG-1 40960 40000\ninstance 2 MIG-2 4864 4800\n\
         gpu 00000000:02:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\nlost\n",
        &[],
    );
    let devices = machine.hive.get("/v1/devices").json();
    let ids: Vec<&str> =
        devices["gpus"].as_array().unwrap().iter().map(|gpu| gpu["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["gpu0:1", "gpu0:2", "gpu1"]);
    assert_eq!(devices["gpus"][2]["lost"], true);
    assert_eq!(reasons(&machine), ["gpu_lost"]);
    assert_eq!(machine.capacity("eight", "&device=gpu0").status, 404, "its parts are offered instead");
    assert_eq!(machine.capacity("eight", "&device=gpu0:2").status, 409);
    assert_eq!(machine.capacity("tiny", "&device=gpu1").status, 409);
    let worker = machine.ready("eight", json!({"kind": "gpu-only"}));
    assert_eq!(worker["device"], "gpu0:1", "the one with most room");
    let pid = worker["pid"].as_u64().unwrap();
    assert_eq!(support::variable(pid, "CUDA_VISIBLE_DEVICES").as_deref(), Some("MIG-1"));
}

#[test]
fn a_worker_over_two_gpus_sees_both_and_has_a_share_of_each() {
    let machine = Machine::new(TWO, &[]);
    let worker = machine.ready("tiny", json!({"device": ["gpu0", "gpu1"], "memory_bytes": 18_000 * MIB}));
    assert_eq!((&worker["device"], &worker["backend"]), (&json!("gpu0,gpu1"), &json!("cuda")));
    assert_eq!(worker["reserved_bytes"], 18_000 * MIB);
    let pid = worker["pid"].as_u64().unwrap();
    assert_eq!(support::variable(pid, "CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-a,GPU-b"));
    let left = |device: &str| {
        let query = format!("&device={device}&memory_bytes=99999999999");
        bytes(&machine.capacity("tiny", &query), "X-Rbee-Available-Bytes") / MIB
    };
    assert_eq!((left("gpu0"), left("gpu1")), (6000, 12_000));
}

#[test]
fn no_two_of_many_spawns_at_once_get_the_last_gigabyte() {
    const CALLERS: usize = 64;
    let machine = Machine::new(TWO, &[("--threads", "64")]);
    // 24 000 MiB have room for 23 times a GiB.
    let more = json!({"kind": "gpu-only", "device": "gpu1", "memory_bytes": GIB});
    let barrier = Barrier::new(CALLERS);
    let admitted: Vec<u16> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    machine.spawn("tiny", more.clone()).status
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(admitted.iter().filter(|status| **status == 202).count(), 23, "{admitted:?}");
    assert!(admitted.iter().all(|status| [202, 409].contains(status)), "{admitted:?}");
}

#[test]
fn idle_workers_make_room_where_that_is_asked_for() {
    let machine = Machine::new(TWO, &[]);
    let wish = |bytes: u64| json!({"kind": "gpu-only", "device": "gpu1", "memory_bytes": bytes});
    let pinned = {
        let mut pinned = wish(8 * GIB);
        pinned["pinned"] = json!(true);
        machine.ready("tiny", pinned)
    };
    let older = machine.ready("tiny", wish(6 * GIB));
    let newer = machine.ready("tiny", wish(6 * GIB));
    // The driver does not tell who uses how much: what serves has taken its promise.
    machine.nvml.set(&TWO.replace("24576 24000", "24576 3520"));
    let refused = machine.spawn("tiny", wish(8 * GIB));
    assert_eq!(refused.status, 409, "{}", refused.text);
    let mut wanted = wish(8 * GIB);
    wanted["make_room"] = json!(true);
    let suggestions = refused.json()["error"]["details"]["suggestions"].clone();
    assert!(suggestions.as_array().unwrap().iter().any(|it| it["make_room"] == true), "{suggestions}");

    let reply = machine.spawn("tiny", wanted);
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = |worker: &Value| worker["worker_id"].as_str().unwrap().to_owned();
    machine.hive.wait_state(&id(&older), "gone");
    machine.nvml.set(TWO);
    let last = machine.hive.worker(&id(&older));
    assert_eq!(last["exit"]["reason"], "make_room");
    machine.hive.wait_state(reply.json()["worker_id"].as_str().unwrap(), "ready");
    for stays in [&pinned, &newer] {
        assert_eq!(machine.hive.worker(&id(stays))["state"], "ready");
    }
}

#[test]
fn a_file_that_the_reader_refuses_needs_memory_said() {
    let machine = Machine::new(TWO, &[]);
    let path = machine.hive.models.join("odd.gguf");
    TINY.write(&path);
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let refused = machine.spawn("odd", json!({}));
    assert_eq!((refused.status, refused.code().as_str()), (422, "MODEL_INVALID"));
    assert!(refused.text.contains("truncated") && refused.text.contains("memory_bytes"), "{}", refused.text);
    assert_eq!(machine.spawn("odd", json!({"memory_bytes": GIB})).status, 202);
}

#[test]
fn a_driver_that_hangs_hangs_nobody() {
    let mut machine = Machine::new(TWO, &[]);
    let fits = machine.capacity("eight", "&device=gpu0");
    assert_eq!(fits.status, 204, "{}\n{}", fits.text, machine.hive.log());
    machine.nvml.set(&format!("{TWO}hang\n"));
    eventually("the picture is stale", || machine.hive.get("/v1/devices").json()["stale"] == true);
    let devices = machine.hive.get("/v1/devices").json();
    assert_eq!(devices["gpus"].as_array().unwrap().len(), 2, "as last seen");
    assert!(devices["age_s"].as_u64().is_some());
    assert_eq!(machine.capacity("eight", "&device=gpu0").status, 204);
    machine.hive.signal(15);
    assert_eq!(machine.hive.wait_exit().code(), Some(0));
    assert_eq!(machine.hive.processes(), Vec::<u32>::new());
}

/// Why the health is degraded.
fn reasons(machine: &Machine) -> Vec<String> {
    let health = machine.hive.get("/health").json();
    let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
    assert_eq!(health["status"], if reasons.is_empty() { "alive" } else { "degraded" });
    reasons.into_iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_health_tells_of_a_driver_that_hangs_until_it_answers() {
    let machine = Machine::new(TWO, &[]);
    machine.hive.get("/v1/devices");
    assert_eq!(reasons(&machine), [""; 0]);
    machine.nvml.set(&format!("{TWO}hang\n"));
    eventually("the picture is stale", || machine.hive.get("/v1/devices").json()["stale"] == true);
    assert_eq!(reasons(&machine), ["devices_stale"]);
    machine.nvml.set(TWO);
    eventually("who asks for the health has the driver asked", || reasons(&machine).is_empty());
}

#[test]
fn the_health_tells_of_a_container_without_the_process_ids_of_its_host() {
    let far = u32::MAX; // no process here has this number
    let machine =
        Machine::new(&format!("gpu 00000000:01:00.0 GPU-a 24576 4000 RTX\nprocess {far} 20480\n"), &[]);
    assert_eq!(reasons(&machine), [""; 0], "nobody uses it yet");
    machine.ready("tiny", json!({"kind": "gpu-only"}));
    eventually("the health says so", || {
        machine.hive.get("/v1/devices");
        reasons(&machine) == ["gpu_users_unknown"]
    });
}

#[test]
fn many_questions_cost_one_look() {
    let machine = Machine::new(TWO, &[]);
    machine.hive.get("/v1/devices");
    let looks = machine.nvml.looks().len();
    let began = std::time::Instant::now();
    for _ in 0..200 {
        assert_eq!(machine.hive.get("/v1/devices").status, 200);
    }
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(machine.nvml.looks().len() <= looks + seconds, "{} looks", machine.nvml.looks().len() - looks);
    let lookers: BTreeSet<u32> = machine.nvml.looks().into_iter().collect();
    assert_eq!(lookers.len(), 1, "one child for all");
}

/// A hive beside other drivers than NVIDIA's library: `env` says which.
fn hive_with(env: &[(&str, &str)]) -> Hive {
    let kind = json!({"kind": "gpu", "protocol": "native", "program": env!("CARGO_BIN_EXE_rbee-mock"),
        "backends": ["cuda", "rocm"], "args": ["worker"]});
    env.iter().fold(Hive::builder().kind(kind), |builder, (name, value)| builder.env(name, value)).start()
}

fn asks(hive: &Hive, device: &str, bytes: u64) -> Reply {
    let model = hive.model_ref();
    hive.get(&format!("/v1/capacity?kind=gpu&model={model}&device={device}&memory_bytes={bytes}"))
}

#[test]
fn the_command_in_place_of_the_library_gives_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("nvidia-smi");
    let printed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nvidia-smi");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *compute-apps*) sed s/PID/1/ {printed}/two.users.csv;; *) cat {printed}/two.csv;; esac\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hive = hive_with(&[("RBEE_HIVE_NVIDIA_SMI", script.to_str().unwrap())]);
    let gpus = hive.get("/v1/devices").json()["gpus"].as_array().unwrap().clone();
    assert_eq!(gpus.len(), 2, "{gpus:?}");
    for gpu in &gpus {
        assert_eq!(gpu["driver"], "nvidia-smi");
        let (device, free) = (gpu["id"].as_str().unwrap(), gpu["vram_free_bytes"].as_u64().unwrap());
        assert_eq!(asks(&hive, device, free).status, 204, "{device}");
        assert_eq!(asks(&hive, device, free + 1).code(), "INSUFFICIENT_VRAM", "{device}");
    }
}

#[test]
fn cards_of_amd_give_what_the_kernel_says_they_have() {
    let sysfs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/amd/sys");
    let hive = hive_with(&[("RBEE_HIVE_SYSFS", sysfs)]);
    let gpus = hive.get("/v1/devices").json()["gpus"].as_array().unwrap().clone();
    let card = gpus.iter().find(|gpu| gpu["shared_memory"] != true).unwrap();
    assert_eq!((&card["driver"], &card["backend"]), (&json!("sysfs"), &json!("rocm")));
    let (device, free) = (card["id"].as_str().unwrap(), card["vram_free_bytes"].as_u64().unwrap());
    assert_eq!(asks(&hive, device, free).status, 204);
    assert_eq!(asks(&hive, device, free + 1).code(), "INSUFFICIENT_VRAM");
}

#[test]
fn the_command_capacity_says_by_its_exit_code_whether_it_fits() {
    let machine = Machine::new(TWO, &[]);
    let ask = |model: &str, more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rbee-hive"))
            .args(["capacity", model, "--url", &machine.hive.url, "--kind", "any"])
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = ask(&machine.model("eight"), &["--device", "gpu1"]);
    assert!(code == Some(0) && text.ends_with("\nfits\n") && text.starts_with("ON gpu1"), "{text}");
    let (code, text) = ask(&machine.model("seventy"), &["--device", "gpu1", "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &answer["fits"], &answer["device"]), (Some(3), &json!(false), &json!("gpu1")));
    let (code, text) = ask("hf:org/none", &[]);
    assert!(code == Some(1) && text.contains("MODEL_NOT_FOUND"), "{text}");
    let (code, text) = ask(&machine.model("eight"), &["--ctx", "0"]);
    assert!(code == Some(2) && text.starts_with("error: --ctx"), "{text}");
}

#[test]
fn each_of_eight_gpus_answers_for_itself() {
    let conf: String = (0..8)
        .map(|n| format!("gpu 00000000:0{n}:00.0 GPU-{n} 24576 {} NVIDIA L4\n", 3000 * (n + 1)))
        .collect();
    let machine = Machine::new(&conf, &[]);
    for n in 0..8u64 {
        let free = 3000 * (n + 1) * MIB;
        let ask =
            |bytes: u64| machine.capacity("tiny", &format!("&device=gpu{n}&memory_bytes={bytes}")).status;
        assert_eq!((ask(free), ask(free + 1)), (204, 409), "gpu{n}");
    }
}
