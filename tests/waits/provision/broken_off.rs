//! Ends and kills in the middle, and everything at once: what is there is whole.

use rbee_hive::mock::hub::Options;
use serde_json::json;

use super::support::{Hive, PATIENCE, eventually};
use super::{Server, kind_of, kinds_folder, listed, names, pack, program_of, provision, versions};

#[test]
fn the_end_of_the_hive_ends_a_provision_and_the_next_start_tidies_up() {
    let server = Server::with(Options { rate: Some(1 << 20), ..Options::default() });
    let mut program = program_of("1.0");
    program.resize(64 << 20, b'#');
    server.publish("vllm", "latest", &program);
    let mut hive = server.hive().start();
    std::thread::scope(|scope| {
        let ask = scope.spawn(|| provision(&hive, json!({"kind": "vllm"})));
        assert!(server.hub.wait_for(PATIENCE, |seen| seen.iter().any(|seen| seen.sent > 1 << 19)));
        hive.signal(15);
        let reply = ask.join().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (503, "SHUTTING_DOWN"), "{}", reply.text);
    });
    assert!(hive.wait_exit().success());
    assert!(names(&kinds_folder(&hive)).is_empty());
    let mut hive = hive.restart(server.hive());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                provision(&hive, json!({"kind": "vllm"}))
            }))
        });
        eventually("it is under way", || !names(&kinds_folder(&hive)).is_empty());
        hive.signal(9);
    });
    hive.wait_exit();
    assert!(!names(&kinds_folder(&hive)).is_empty(), "a killed hive leaves what it was making");
    let hive = hive.restart(Hive::builder());
    eventually("it is gone", || names(&kinds_folder(&hive)).is_empty());
}

/// A hundred kills, somewhere between the question and the answer; four hives share them.
#[test]
fn a_kill_at_any_moment_leaves_the_old_kind_or_the_new_one_whole() {
    let news = std::thread::scope(|scope| {
        let hives: Vec<_> = (0..4).map(|hive| scope.spawn(move || kill_and_look(hive, 25))).collect();
        hives.into_iter().map(|hive| hive.join().unwrap()).sum::<usize>()
    });
    println!("100 kills: {news} times the new kind was there, {} times the old one", 100 - news);
    assert!((1..100).contains(&news), "both were met");
}

/// Kills a hive so many times while it installs; how often the new version was there afterwards.
fn kill_and_look(hive_number: u64, rounds: u64) -> usize {
    let server = Server::start();
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let version_of = |version: u64| {
        let manifest = json!({"kind": "tiny", "protocol": "native", "program": "./run", "backends": ["cpu"],
            "version_args": ["--version"]});
        let program = format!(
            "#!/bin/sh\n[ \"$(cat \"${{0%/*}}/VERSION\")\" = {version} ] && echo version {version}\n"
        );
        pack(&[
            ("kind.json", 0o644, manifest.to_string().as_bytes()),
            ("run", 0o755, program.as_bytes()),
            ("noise", 0o644, &noise),
            ("VERSION", 0o644, version.to_string().as_bytes()),
        ])
    };
    server.publish("tiny", "0", &version_of(0));
    let mut hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "0"})).status, 200);
    let (mut now, mut news) = (0, 0);
    for round in 1..=rounds {
        server.publish("tiny", &round.to_string(), &version_of(round));
        let address = hive.address;
        let body = json!({"kind": "tiny", "version": round.to_string()}).to_string();
        let (tell, told) = crossbeam_channel::bounded(1);
        let ask = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = format!(
                "POST /v1/workers/provision HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
            let _ = tell.send(());
            let _ = stream.read(&mut [0; 64]);
        });
        told.recv().unwrap();
        // Spread over 160 ms: an install takes about that long beside three others.
        let moment = (hive_number * rounds + round) * 7_919 % 160_000;
        std::thread::sleep(std::time::Duration::from_micros(moment));
        hive.signal(9);
        ask.join().unwrap();
        hive = hive.restart(server.hive());
        let kind = listed(&hive, "tiny").unwrap_or_else(|| panic!("round {round}: neither\n{}", hive.log()));
        let version = kind.version.as_deref().unwrap_or_default().parse().unwrap_or(u64::MAX);
        assert!(version == now || version == round, "round {round}: {kind:?}, {now} was there");
        news += usize::from(version == round);
        now = version;
        assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200, "it is whole");
        eventually("nothing else is left", || {
            names(&kinds_folder(&hive)) == ["tiny"] && versions(&hive, "tiny").len() == 1
        });
    }
    news
}

/// Two versions, removals, spawns and SIGHUPs, all at once and again and again.
#[test]
fn installing_removing_and_launching_at_once_leaves_one_or_none_and_whole() {
    let server = Server::start();
    for version in ["1.0", "2.0"] {
        server.publish("tiny", version, &kind_of("tiny", version));
    }
    let hive = server.hive().ports(40).start();
    let hive = &hive;
    let again = |what: &dyn Fn() -> u16, good: &[u16]| {
        for _ in 0..30 {
            let status = what();
            assert!(good.contains(&status), "{status}\n{}", hive.log());
        }
    };
    std::thread::scope(|scope| {
        for version in ["1.0", "2.0"] {
            let ask = move || provision(hive, json!({"kind": "tiny", "version": version})).status;
            // 409: somebody removed it at once.
            scope.spawn(move || again(&ask, &[200, 409]));
        }
        scope.spawn(move || again(&|| hive.delete("/v1/workers/kinds?kind=tiny").status, &[202, 404]));
        scope.spawn(|| {
            let body = json!({"model_ref": hive.model_ref(), "kind": "tiny"});
            let spawn = || {
                hive.signal(1);
                let reply = hive.post("/v1/workers/spawn", &body);
                if reply.status == 201 || reply.status == 202 || reply.status == 200 {
                    let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
                    hive.delete(&format!("/v1/workers/{id}?force=true"));
                    return 200;
                }
                reply.status
            };
            again(&spawn, &[200, 404, 409]);
        });
    });
    eventually("all workers are gone", || hive.processes().is_empty());
    let is_there = listed(hive, "tiny").is_some();
    eventually("what nobody uses is removed", || versions(hive, "tiny").len() == usize::from(is_there));
    // Out of sight first, then off the disk.
    eventually("nothing else is left", || names(&kinds_folder(hive)).iter().all(|name| name == "tiny"));
    assert!(!hive.log().contains("damaged") && !hive.log().contains("panic"), "{}", hive.log());
    assert_eq!(provision(hive, json!({"kind": "tiny"})).status, if is_there { 200 } else { 404 });
}
