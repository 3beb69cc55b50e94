//! What lies on the shelf: versions, and what others put there or changed.

use std::path::Path;

use serde_json::{Value, json};

use super::support::{Hive, eventually, kill};
use super::{
    MOCK, Server, kind_of, kinds_folder, listed, names, pack, program_of, provision, refused, versions,
};

#[test]
fn a_new_version_takes_the_place_and_the_old_one_stays_while_a_worker_needs_it() {
    let server = Server::start();
    server.publish("tiny", "1.0", &kind_of("tiny", "1.0"));
    server.publish("tiny", "2.0", &kind_of("tiny", "2.0"));
    let hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "1.0"})).status, 200);
    let old = hive.spawn("tiny", "");
    let pid = hive.wait_state(&old, "ready")["pid"].as_u64().unwrap();
    let told = provision(&hive, json!({"kind": "tiny", "version": "2.0"})).json();
    assert_eq!(told["version"], "2.0", "{told}");
    assert_eq!(versions(&hive, "tiny").len(), 2, "the old one is in use");
    // Even after a crash it is started again from what it was started with.
    kill(u32::try_from(pid).unwrap(), 9);
    hive.wait(&old, "ready again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    hive.delete(&format!("/v1/workers/{old}"));
    hive.wait_state(&old, "gone");
    eventually("the old version is removed", || versions(&hive, "tiny").len() == 1);
    assert!(versions(&hive, "tiny")[0].starts_with("2.0-"));
    let new = hive.spawn("tiny", "");
    hive.wait_state(&new, "ready");

    // What is the latest is looked up, and fetched only if it is another one.
    server.publish("tiny", "latest", &kind_of("tiny", "2.0"));
    let before = server.sent();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "latest"})).json()["version"], "2.0");
    assert_eq!(server.sent(), before);
    server.publish("tiny", "latest", &kind_of("tiny", "3.0"));
    assert_eq!(
        provision(&hive, json!({"kind": "tiny"})).json()["version"],
        "2.0",
        "nobody asked for another"
    );
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "latest"})).json()["version"], "3.0");
}

#[test]
fn what_was_changed_after_its_installation_is_not_launched() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    let hive = server.hive().start();
    let told = provision(&hive, json!({"kind": "tiny"})).json();
    let id = hive.spawn("tiny", "");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let license = Path::new(told["path"].as_str().unwrap()).ancestors().nth(2).unwrap().join("LICENSE");
    std::fs::write(&license, "do as WE like!!!").unwrap();
    let spawn = json!({"model_ref": hive.model_ref(), "kind": "tiny"});
    let reply = hive.post("/v1/workers/spawn", &spawn);
    assert_eq!((reply.status, reply.code().as_str()), (409, "KIND_NOT_INSTALLED"), "{}", reply.text);
    assert!(reply.text.contains("damaged; provision it again"), "{}", reply.text);
    // Nor is a worker started again from it.
    kill(u32::try_from(pid).unwrap(), 9);
    let last = hive.wait_state(&id, "gone");
    assert!(last["exit"].to_string().contains("damaged; provision it again"), "{last}");
    assert!(hive.log().contains("an installed kind is damaged kind=tiny file=Damaged"), "{}", hive.log());
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).json()["message"], "version latest is installed");
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");
    eventually("the damaged one is removed", || versions(&hive, "tiny").len() == 1);
}

#[test]
fn a_program_that_somebody_else_put_there_is_never_replaced() {
    let server = Server::start();
    server.publish("mock", "1.0", &kind_of("mock", "1.0"));
    server.publish("vllm", "1.0", &program_of("1.0"));
    let hive = server.hive().arg("--worker", "vllm=/nowhere/vllm").start();
    let here = provision(&hive, json!({"kind": "mock"}));
    assert_eq!((here.status, &here.json()["path"]), (200, &json!(MOCK)), "{}", here.text);
    for kind in ["mock", "vllm"] {
        let message = refused(&hive, json!({"kind": kind, "version": "1.0"}), 409, "KIND_NOT_INSTALLED");
        assert!(message.ends_with("is not replaced"), "{message}");
    }
    assert!(server.hub.requests().is_empty());
}

/// A hive that has installed `tiny` and was stopped, and the name of the install's folder.
fn stopped_with_tiny(server: &Server) -> (Hive, String) {
    server.publish("tiny", "1.0", &kind_of("tiny", "1.0"));
    let mut hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "1.0"})).status, 200);
    hive.signal(15);
    hive.wait_exit();
    let name = versions(&hive, "tiny").remove(0);
    (hive, name)
}

#[test]
fn what_somebody_else_put_beside_the_installs_is_left_alone() {
    let (hive, _) = stopped_with_tiny(&Server::start());
    let elsewhere = tempfile::tempdir().unwrap();
    let kinds = kinds_folder(&hive);
    let theirs = ["my-kind.json", ".hidden", "Notes/todo", "tiny/README", "tiny/.notes", "new/1.0/engine"];
    let theirs = theirs.map(|path| kinds.join(path)).into_iter();
    let theirs: Vec<_> = theirs.chain([elsewhere.path().join("1.0-0123abcd/engine")]).collect();
    let hex = "0123456789abcdef".repeat(2);
    let ours =
        [format!(".new-{hex}/files/x"), format!(".old-{hex}/x"), "tiny/0.9-0123abcd/files/x".to_owned()];
    let ours = ours.map(|path| kinds.join(path));
    for file in theirs.iter().chain(&ours) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "of worth").unwrap();
    }
    // Through these nothing is removed either.
    std::os::unix::fs::symlink(elsewhere.path(), kinds.join("linked")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), kinds.join("tiny/0.8-0123abcd")).unwrap();
    let hive = hive.restart(Hive::builder());
    eventually("what is ours is removed", || {
        !ours.iter().any(|path| path.exists()) && !kinds.join("tiny/0.8-0123abcd").is_symlink()
    });
    for file in &theirs {
        assert!(file.exists(), "{}", file.display());
    }
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200, "what counts is still there");
}

#[test]
fn an_install_that_leads_out_of_its_folder_is_none_and_is_not_removed() {
    let leads: [fn(&Path, &Path, &str); 3] = [
        |home, elsewhere, name| {
            std::fs::rename(home, elsewhere.join("tiny")).unwrap();
            std::os::unix::fs::symlink(elsewhere.join("tiny"), home).unwrap();
            assert!(home.join(name).exists());
        },
        |home, elsewhere, name| {
            std::fs::rename(home.join(name), elsewhere.join(name)).unwrap();
            std::fs::remove_file(home.join("current")).unwrap();
            std::os::unix::fs::symlink(elsewhere.join(name), home.join("current")).unwrap();
        },
        |home, elsewhere, name| {
            std::fs::rename(home.join(name), elsewhere.join(name)).unwrap();
            std::fs::remove_file(home.join("current")).unwrap();
            let up = Path::new("../../..").join(elsewhere.file_name().unwrap()).join(name);
            std::os::unix::fs::symlink(up, home.join("current")).unwrap();
            assert!(home.join("current/install.json").exists());
        },
    ];
    for (number, lead) in leads.into_iter().enumerate() {
        let server = Server::start();
        let (hive, name) = stopped_with_tiny(&server);
        let elsewhere = hive.folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        lead(&kinds_folder(&hive).join("tiny"), &elsewhere, &name);
        let hive = hive.restart(server.hive());
        assert!(listed(&hive, "tiny").is_none(), "{number}");
        assert!(hive.log().contains("leads to no install in its own folder"), "{}", hive.log());
        let reply = provision(&hive, json!({"kind": "tiny", "version": "1.0"}));
        if number == 0 {
            // Where others may have their own, nothing is installed.
            assert_eq!((reply.status, reply.code().as_str()), (500, "INTERNAL"), "{}", reply.text);
            assert_eq!(names(&elsewhere.join("tiny")), [name.as_str(), "current"]);
        } else {
            assert_eq!(reply.status, 200, "{}", reply.text);
            hive.delete("/v1/workers/kinds?kind=tiny");
            eventually("what was installed anew is removed", || names(&kinds_folder(&hive)).is_empty());
            assert!(elsewhere.join(&name).join("install.json").exists());
        }
    }
}

#[test]
fn a_record_that_names_what_is_not_in_its_folder_is_none() {
    let (mut hive, name) = stopped_with_tiny(&Server::start());
    let file = kinds_folder(&hive).join("tiny").join(name).join("install.json");
    let record: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let edits: [fn(&mut Value); 4] = [
        |record| record["entry"] = json!("../../../../../kind-0.json"),
        |record| record["files"][0]["path"] = json!("/etc/passwd"),
        |record| record["files"][0]["path"] = json!("k/../../x"),
        |record| record["files"] = json!([]),
    ];
    for edit in edits {
        let mut edited = record.clone();
        edit(&mut edited);
        std::fs::write(&file, edited.to_string()).unwrap();
        hive = hive.restart(Hive::builder());
        assert!(listed(&hive, "tiny").is_none(), "{edited}");
        assert!(hive.log().contains("its record names what cannot be in it"), "{}", hive.log());
        hive.signal(15);
        hive.wait_exit();
    }
}

#[test]
fn what_an_operator_did_to_the_folder_is_told_and_no_trap() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    let hive = server.hive().start();
    let home = kinds_folder(&hive).join("tiny");
    std::fs::create_dir_all(home.join("current")).unwrap();
    let message = refused(&hive, json!({"kind": "tiny"}), 500, "INTERNAL");
    assert_eq!(message, "the data directory cannot be written: is a directory");
    assert_eq!(names(&home), ["current"], "nothing is left of it");
    std::fs::remove_dir(home.join("current")).unwrap();
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200);
    std::fs::remove_dir_all(&home).unwrap();
    assert_eq!(hive.delete("/v1/workers/kinds?kind=tiny").status, 202, "it has gone already");
    assert!(listed(&hive, "tiny").is_none());
}

/// What was written just now is not read again before the first launch.
#[test]
fn a_spawn_after_an_installation_reads_no_files_again() {
    let server = Server::start();
    let manifest = json!({"kind": "tiny", "protocol": "native", "program": "./run", "backends": ["cpu"],
        "args": ["worker"]});
    let program = format!("#!/bin/sh\nexec {MOCK} \"$@\"\n");
    let zeros = vec![0; 64 << 20];
    let manifest = manifest.to_string();
    let files: [(&str, u32, &[u8]); 3] = [
        ("kind.json", 0o644, manifest.as_bytes()),
        ("run", 0o755, program.as_bytes()),
        ("zeros", 0o644, &zeros),
    ];
    server.publish("tiny", "latest", &pack(&files));
    let hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200);
    let bytes_read = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", hive.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let before = bytes_read();
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");
    let read = bytes_read() - before;
    assert!(read < 32 << 20, "{read} bytes were read");
}
