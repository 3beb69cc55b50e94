//! A real hive for the examples in the documentation: `rbee-mock` as hive and as worker, on loopback and in a folder of
//! its own, gone with the example.
//!
//! For doctests alone. One is built apart from the crate's programs, and finds them where cargo says that what was
//! built lies: in the folder above that of the libraries.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::demo::{gguf, stage};
use super::hub::{Hub, Options, Repository};
use crate::client::HiveClient;

/// A running hive, and a client of it.
pub struct Example {
    client: HiveClient,
    hive: Child,
    folder: PathBuf,
    _hub: Hub,
}

/// Starts one. Its kind is `mock`; `hf:org/tiny` is in its model cache, and its hub has `hf:org/other`.
pub fn hive() -> Example {
    let folder = std::env::temp_dir().join(format!("rbee-example-{}", uuid::Uuid::new_v4().simple()));
    let mut model = Vec::new();
    gguf::write(&mut model).expect("memory takes it");
    let hub = Hub::start(Options::default()).expect("loopback has ports");
    hub.add("org/other", Repository::new().with("other.gguf", model.clone()));
    cache(&folder.join("models/models--org--tiny"), &model).expect("the folder for temporary files takes it");
    let program = program();
    let kind = folder.join("kind.json");
    let manifest = json!({"kind": "mock", "protocol": "native", "program": program, "backends": ["cpu"],
        "args": ["worker", "--slots", "{parallel}"]});
    fs::write(&kind, manifest.to_string()).expect("the folder for temporary files takes it");
    let mut command = Command::new(&program);
    command
        .args(["rbee-hive", "serve", "--bind", "127.0.0.1:0", "--hive-id", "example", "--worker-ports"])
        .arg(stage::free_ports().expect("loopback has ports"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--model-dir")
        .arg(folder.join("models"))
        .arg("--kind-file")
        .arg(kind)
        .env_clear()
        .env("HF_ENDPOINT", hub.url())
        // The GPUs of this machine are none of an example's business.
        .envs([("RBEE_HIVE_NVML_LIBRARY", "/nowhere"), ("RBEE_HIVE_NVIDIA_SMI", "/nowhere")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut hive = command.spawn().expect("the program runs");
    let mut line = String::new();
    let stdout = hive.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it is text");
    let url = line.trim_end().strip_prefix("rbee-hive listening on ").expect("the hive listens");
    Example { client: HiveClient::new(url).expect("it is a URL"), hive, folder, _hub: hub }
}

/// `hf:org/tiny`, as `huggingface_hub` would have put it into the cache.
fn cache(repository: &Path, model: &[u8]) -> std::io::Result<()> {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repository.join("snapshots").join(commit);
    for folder in [&snapshot, &repository.join("blobs"), &repository.join("refs")] {
        fs::create_dir_all(folder)?;
    }
    fs::write(repository.join("refs/main"), commit)?;
    fs::write(repository.join("blobs/0"), model)?;
    symlink("../../blobs/0", snapshot.join("tiny.gguf"))
}

fn program() -> PathBuf {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let built = std::env::split_paths(&paths)
        .filter(|path| path.ends_with("deps"))
        .filter_map(|path| Some(path.parent()?.join("rbee-mock")))
        .find(|program| program.is_file());
    built.expect("rbee-mock is built: `cargo build --bins`, or `cargo test`, which does it first")
}

impl Deref for Example {
    type Target = HiveClient;

    fn deref(&self) -> &HiveClient {
        &self.client
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Its workers end with it; where an example has ended it already, there is nothing left to be told.
        let _ = self.client.shutdown(false);
        let _ = self.hive.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
