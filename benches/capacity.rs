//! How long the two questions before a placement take: the real daemon, two GPUs of a stand-in for NVIDIA's
//! library, loopback. Times include those of the client.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::daemon::Hive;
use support::daemon::gguf::Llama;
use support::daemon::nvml::Nvml;
use support::{Kept, MOCK, Times, figure, heading};

const GPUS: &str = "gpu 00000000:01:00.0 GPU-a 12288 12000 NVIDIA GeForce RTX 3060\n\
                    gpu 00000000:41:00.0 GPU-b 24576 24000 NVIDIA GeForce RTX 3090\n";

/// About 100 MB, like SmolLM2-135M in 8 bits.
const SMALL: Llama =
    Llama { layers: 24, embd: 576, ff: 1536, heads: 9, kv_heads: 3, vocab: 49_152, trained_ctx: 8192 };

/// Tokens of a large vocabulary: they make the header some megabytes long.
const TOKENS: u32 = 128_256;

fn main() {
    let nvml = Nvml::new(GPUS);
    let kind = json!({"kind": "any", "protocol": "native", "program": MOCK, "backends": ["cpu", "cuda"],
        "args": ["worker"]});
    let library = nvml.library();
    let hive = Hive::builder().kind(kind).env("RBEE_HIVE_NVML_LIBRARY", library.to_str().unwrap()).start();
    let mut kept = Kept::connect(hive.address, None);

    heading("devices and capacity: the questions before a placement");
    let mut devices = Times::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        devices.push(timed(&mut kept, "/v1/devices", 200));
    }
    devices.row("GET /v1/devices, asked in a loop", "wanted: median < 1");

    let path =
        |name: &str| format!("/v1/capacity?kind=any&device=gpu1&model=file:{}/{name}", hive.models.display());
    SMALL.write_with_tokens(&hive.models.join("warm.gguf"), TOKENS);
    timed(&mut kept, &path("warm.gguf"), 204);
    let mut warm = Times::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        warm.push(timed(&mut kept, &path("warm.gguf"), 204));
    }
    warm.row("GET /v1/capacity, the model was asked for before", "wanted: median < 1");

    let mut cold = Times::default();
    let mut read = 0;
    for n in 0..50 {
        let name = format!("cold-{n}.gguf");
        SMALL.write_with_tokens(&hive.models.join(&name), TOKENS);
        let before = read_bytes(hive.pid());
        cold.push(timed(&mut kept, &path(&name), 204));
        read = read_bytes(hive.pid()) - before;
    }
    cold.row("GET /v1/capacity, a file never seen before", "wanted: < 20");
    let size = std::fs::metadata(hive.models.join("cold-0.gguf")).unwrap().len();
    figure("  size of that file", size, "bytes", "");
    figure("  read by the hive meanwhile, all sources", read, "bytes", "the header, and what /proc tells");
    figure("  looks at the GPUs in all", nvml.looks().len(), "", "at most one a second and one a change");
}

fn timed(kept: &mut Kept, path: &str, wanted: u16) -> Duration {
    let began = Instant::now();
    let (status, body) = kept.get(path);
    assert_eq!(status, wanted, "{path}: {body}");
    began.elapsed()
}

/// What a process has read so far, from disk, cache, pipes and sockets.
fn read_bytes(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap()
}
