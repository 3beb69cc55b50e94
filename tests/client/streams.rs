//! Logs and downloads, followed over a line that breaks.

use rbee_hive::api::Progress;
use rbee_hive::client::{ClientError, Code};
use rbee_hive::mock::hub::{Hub, Options, Repository};
use serde_json::json;

use crate::client;
use crate::line::Line;
use crate::support::{Hive, eventually, gguf};

#[test]
fn a_log_that_is_followed_has_each_line_once_whatever_the_line_does() {
    let kind = json!({"kind": "talker", "protocol": "probe", "program": "/bin/sh", "backends": ["cpu"],
        "args": ["-c", "seq 3000; read line; exit 0"], "probe": {"path": "/"}});
    let hive = Hive::builder().kind(kind).arg("--restart-limit", 0).start();
    let id = hive.spawn("talker", "");
    let line = Line::to(hive.address);
    let lines = client(&line.url()).follow_logs(&id.parse().unwrap(), 10_000, None).unwrap();
    let mut numbers = Vec::new();
    for (count, text) in lines.enumerate() {
        let text = text.unwrap().1;
        numbers.extend(text.trim_end().parse::<u32>());
        if count % 500 == 499 {
            line.cut();
        }
    }
    assert!(numbers.iter().copied().eq(1..=3000), "{} lines", numbers.len());
}

#[test]
fn a_download_is_told_to_its_end_whatever_the_line_does() {
    let hub = Hub::start(Options { rate: Some(400_000), ..Options::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::TINY.write(&path);
    let mut model = std::fs::read(path).unwrap();
    model.resize(400_000, 0);
    hub.add("org/far", Repository::new().with("far.gguf", model));
    let hive = Hive::builder().env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0").start();
    let line = Line::to(hive.address);
    let far = client(&line.url());
    let begun = far.download("hf:org/far").unwrap();
    let mut bytes = 0;
    let mut last = None;
    for event in far.progress(&begun.download_id, None).unwrap() {
        let progress = event.unwrap().1;
        if let Progress::Downloading { bytes_downloaded, .. } = progress {
            assert!(bytes_downloaded >= bytes, "it never goes back");
            bytes = bytes_downloaded;
            line.cut();
        }
        last = Some(progress);
    }
    assert!(matches!(last, Some(Progress::Complete { .. })), "{last:?}");
    // Who comes back late, after the last event that there is.
    let late: Vec<_> = far.progress(&begun.download_id, Some(1_000_000)).unwrap().collect();
    assert!(matches!(late.last(), Some(Ok((_, Progress::Complete { .. })))), "{late:?}");
    assert!(far.download("hf:org/far").unwrap().local_path.is_some());
}

#[test]
fn a_stream_of_what_the_next_hive_does_not_know_ends_with_its_refusal() {
    let hive = Hive::start();
    let id = hive.spawn("mock", "");
    eventually("it has a log", || !hive.get(&format!("/v1/workers/{id}/logs")).text.is_empty());
    let line = Line::to(hive.address);
    let mut lines = client(&line.url()).follow_logs(&id.parse().unwrap(), 1, None).unwrap();
    lines.next().unwrap().unwrap();
    let other = Hive::start();
    line.lead_to(Some(other.address));
    let error = lines.find_map(Result::err).unwrap();
    assert_eq!(error.code(), Some(Code::WorkerNotFound));
    assert!(lines.next().is_none());
    // Who comes back himself is told at once.
    line.lead_to(Some(hive.address));
    let mut lines = client(&line.url()).follow_logs(&id.parse().unwrap(), 1, None).unwrap().once();
    lines.next().unwrap().unwrap();
    line.cut();
    let error = lines.find_map(Result::err).unwrap();
    assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
}
