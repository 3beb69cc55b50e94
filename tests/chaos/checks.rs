//! What must hold when all is calm, and what after the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::support::{Hive, PATIENCE, descendants_of, is_alive, variable};

/// Waits until nothing is wrong, or fails with what is.
pub fn settles(what: &str, mut wrong: impl FnMut() -> Option<String>) {
    let until = Instant::now() + PATIENCE;
    while let Some(wrong) = wrong() {
        assert!(Instant::now() < until, "{what}: {wrong}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The living processes of workers of a data directory's hives, and whose they are: id and run.
pub fn marked(folder: &Path) -> BTreeMap<u32, (String, String)> {
    let mark = |pid: u32| {
        let mark = variable(pid.into(), "RBEE_OWNER")?;
        let mut words = mark.split('/').skip(1).map(str::to_owned);
        Some((pid, (words.next()?, words.next()?)))
    };
    descendants_of(folder).into_iter().filter_map(mark).collect()
}

/// What is wrong between the list and the processes: each worker's process lives, each process is some worker's.
pub fn strangers(hive: &Hive, workers: &[Value]) -> Option<String> {
    let marked = marked(hive.folder.path());
    let mut listed = BTreeSet::new();
    for worker in workers {
        let (id, pid) = (worker["worker_id"].as_str().unwrap(), &worker["pid"]);
        let Some(pid) = pid.as_u64().and_then(|pid| u32::try_from(pid).ok()) else { continue };
        match marked.get(&pid) {
            Some(mark) if mark.0 == id => drop(listed.insert(mark.clone())),
            other => return Some(format!("{id} has no process {pid}, which is {other:?}")),
        }
    }
    let stranger = marked.iter().find(|(_, mark)| !listed.contains(*mark));
    stranger.map(|(pid, mark)| format!("the process {pid} of {mark:?} is in no list: {workers:?}"))
}

/// What a picture says of the workers, without what changes by itself.
pub fn essence(workers: &Value) -> BTreeSet<String> {
    let essence = |worker: &Value| {
        let fields = ["worker_id", "state", "pid", "url", "restart_count", "model_ref"];
        fields.map(|field| worker[field].to_string()).join(" ")
    };
    workers.as_array().into_iter().flatten().map(essence).collect()
}

/// The guardian of this folder's hive.
pub fn guardian(folder: &Path) -> Option<u32> {
    let data = folder.join("data");
    let is_it = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"guard") && words.next() == Some(data.as_os_str().as_encoded_bytes())
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_it(&line)) && is_alive(*pid))
}

/// After a hive that ended well: no process, no record, no guardian.
pub fn nothing_is_left(hive: &Hive) {
    assert_eq!(hive.processes(), Vec::<u32>::new(), "processes are left");
    assert_eq!(hive.records(), Vec::<String>::new(), "records are left");
    settles("the guardian ends", || guardian(hive.folder.path()).map(|pid| pid.to_string()));
}

/// In the cache of models: a blob is what its name says, and part of one can be taken up again.
pub fn cache_is_sound(models: &Path) {
    for repository in fs::read_dir(models).unwrap().flatten() {
        let blobs = repository.path().join("blobs");
        for blob in fs::read_dir(&blobs).into_iter().flatten().flatten() {
            let (name, bytes) = (blob.file_name().into_string().unwrap(), fs::read(blob.path()).unwrap());
            if name.len() == 64 {
                let sum: String =
                    digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(name, sum, "a blob with wrong bytes");
            }
            let partial = name.strip_suffix(".parallel.incomplete").or(name.strip_suffix(".incomplete"));
            if let Some(digest) = partial {
                let record = blobs.join(format!("{digest}.incomplete.parts"));
                assert!(bytes.is_empty() || record.exists(), "{name} has no record");
            }
        }
    }
}

/// A hive's log holds no word of a bug.
pub fn log_is_clean(log: &str) {
    let is_bad = |line: &&str| {
        let line = line.to_lowercase();
        ["panic", "poison", "abort"].iter().any(|word| line.replace("sigabrt", "").contains(word))
    };
    let bad: Vec<&str> = log.lines().filter(is_bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
