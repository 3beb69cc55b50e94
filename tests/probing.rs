//! Probes of many workers at once: who does not answer delays nobody else.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Hive, eventually};

/// Workers that are as deaf as they can be.
const DEAF: usize = 64;

/// A kind that may take a minute to answer a probe.
fn patient() -> Value {
    json!({"kind": "patient", "protocol": "probe", "program": env!("CARGO_BIN_EXE_rbee-mock"), "backends": ["cpu"],
        "args": ["worker", "--protocol", "probe", "--model", "{model_path}", "--host", "{host}", "--port", "{port}"],
        "probe": {"path": "/health", "interval": "1s", "timeout": "60s"}})
}

/// Established connections to ports of this machine, by port: who is at the other end of each.
fn connections() -> BTreeMap<u16, Vec<String>> {
    let mut found: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields[1].split_once(':').unwrap().1, 16).unwrap();
        if fields[3] == "01" {
            let peers: &mut Vec<String> = found.entry(port).or_default();
            // The kernel shows one twice if the table changes while it is read.
            if !peers.iter().any(|peer| peer == fields[2]) {
                peers.push(fields[2].to_owned());
            }
        }
    }
    found
}

#[test]
fn a_worker_becomes_ready_while_sixty_four_others_leave_their_probes_unanswered() {
    let hive = Hive::builder().kind(patient()).ports(DEAF as u16 + 1).start();
    let deaf: Vec<String> = (0..DEAF).map(|_| hive.spawn("patient", "deaf")).collect();
    let port = |worker: &Value| u16::try_from(worker["port"].as_u64().unwrap()).unwrap();
    let ports: Vec<u16> = deaf.iter().map(|id| port(&hive.worker(id))).collect();
    let probes = || {
        let all = connections();
        ports.iter().map(|port| all.get(port).cloned()).collect::<Option<Vec<Vec<String>>>>()
    };
    eventually("each deaf worker has a probe under way", || probes().is_some());
    let before = probes().expect("probes are not given up for a minute");

    let last = hive.spawn("patient", "");
    let ready = hive.wait_state(&last, "ready");
    assert_eq!(ready["restart_count"], 0);

    assert_eq!(probes(), Some(before), "they are the same probes, and nobody has answered them");
    let workers = hive.workers();
    let loading = workers.iter().filter(|worker| worker["phase"] == "loading").count();
    assert_eq!((workers.len(), loading), (DEAF + 1, DEAF));
}
