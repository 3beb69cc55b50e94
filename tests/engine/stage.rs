//! The daemon with the engine as its llama-server, and who watches it.

use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use crate::support::{Builder, Hive, PATIENCE, Reply};

/// The program that takes llama-server's arguments.
pub fn engine() -> PathBuf {
    let program = std::env::var_os("RBEE_ENGINE").expect("RBEE_ENGINE names a program");
    std::path::absolute(program).unwrap()
}

/// The model.
pub fn model() -> PathBuf {
    let model = std::env::var_os("RBEE_REAL_MODEL").expect("RBEE_REAL_MODEL names a GGUF");
    std::fs::canonicalize(model).unwrap()
}

/// A daemon whose llama-server is the engine.
pub fn builder() -> Builder {
    Hive::builder().arg("--worker", format!("llama-server={}", engine().display()))
}

/// The built-in kind under another name, its arguments as `change` leaves them.
pub fn kind(name: &str, change: impl FnOnce(&mut Vec<Value>)) -> Value {
    let mut kind: Value =
        serde_json::from_str(include_str!("../../src/kinds/builtin/llama-server.json")).unwrap();
    kind["kind"] = name.into();
    kind["program"] = engine().to_str().unwrap().into();
    change(kind["args"].as_array_mut().unwrap());
    kind
}

/// The built-in kind, its program run by a shell that first does `before`.
pub fn kind_after(name: &str, before: &str) -> Value {
    let mut kind = kind(name, |args| {
        let script = format!("{before}; exec \"$0\" \"$@\"");
        args.splice(..0, ["-c".into(), script.into(), engine().to_str().unwrap().into()]);
    });
    kind["program"] = "/bin/sh".into();
    kind
}

/// A kind whose engine starts only when `gate` is there.
pub fn kind_held_by(gate: &Path) -> Value {
    kind_after("held", &format!("until [ -e '{}' ]; do sleep 0.02; done", gate.display()))
}

/// Puts the model under `name` into the daemon's model directory; gives its reference.
pub fn place_model(hive: &Hive, name: &str) -> String {
    let path = hive.models.join(name);
    if std::fs::hard_link(model(), &path).is_err() {
        std::fs::copy(model(), &path).unwrap();
    }
    reference(&path)
}

/// The reference of a file.
pub fn reference(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// What is asked of the engine, but for what a test is about: one thread, for threads that wait for each other are
/// slow on a machine that does other things too.
pub fn order(model_ref: &str) -> Value {
    json!({"model_ref": model_ref, "ctx": 2048, "parallel": 2, "extra_args": ["--threads", "1"]})
}

/// Asks the daemon on a connection of its own, so that none is left open.
pub fn ask(hive: &Hive, method: &str, path: &str, body: Option<&Value>) -> Reply {
    hive.request(method, path, &[("Connection", "close")], body.map(Value::to_string).as_deref())
}

/// Spawns; gives id and port.
pub fn spawn(hive: &Hive, order: &Value) -> (String, u16) {
    let reply = ask(hive, "POST", "/v1/workers/spawn", Some(order));
    assert_eq!(reply.status, 202, "{}", reply.text);
    let worker = reply.json();
    (worker["worker_id"].as_str().unwrap().to_owned(), port_of(&worker))
}

/// The port in a worker's URL.
pub fn port_of(worker: &Value) -> u16 {
    worker["url"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// The process of a worker.
pub fn pid_of(worker: &Value) -> u32 {
    u32::try_from(worker["pid"].as_u64().unwrap()).unwrap()
}

/// The daemon's events, with the moment at which each came.
pub struct Watch {
    events: Receiver<(Instant, Value)>,
    connection: TcpStream,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Its thread reads to the end, which is now; the daemon may have been faster.
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}

impl Watch {
    /// Begins with the present picture.
    pub fn of(hive: &Hive) -> Self {
        let (sender, events) = unbounded();
        let mut stream = hive.events();
        let connection = stream.connection();
        std::thread::spawn(move || {
            while let Some((name, event)) = stream.next_event() {
                if name == "worker" && sender.send((Instant::now(), event)).is_err() {
                    return;
                }
            }
        });
        Self { events, connection }
    }

    /// All that is told of the worker up to the event that is `wanted`.
    pub fn until(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<(Instant, Value)> {
        let mut told = Vec::new();
        let until = Instant::now() + 2 * PATIENCE;
        while let Ok((at, event)) = self.events.recv_deadline(until) {
            if event["worker_id"] == id {
                let done = wanted(&event);
                told.push((at, event));
                if done {
                    return told;
                }
            }
        }
        panic!("{id} was never {what}: {told:?}");
    }

    /// The event that is `wanted`, and when it came.
    pub fn wait(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> (Instant, Value) {
        self.until(id, what, wanted).pop().unwrap()
    }

    /// The event that tells of this state.
    pub fn state(&self, id: &str, state: &str) -> (Instant, Value) {
        self.wait(id, state, |worker| worker["state"] == state)
    }
}
