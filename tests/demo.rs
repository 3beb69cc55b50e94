//! The demo, as README's first command runs it: all of it is seen, and nothing is left, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{descendants_of, eventually, gguf, kill};

/// A demo whose folder is made in `folder`, by which its processes are known afterwards.
fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-mock"));
    command.arg("demo").env("TMPDIR", folder).env_remove("MOCK_FAULTS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn expect_nothing_left(folder: &Path) {
    assert_eq!(descendants_of(folder), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn the_main_job_is_seen_from_spawn_to_cascade() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let mut rest = &*said;
    for line in [
        "GET /v1/health → 200",
        "→ 202",
        " ready, pid ",
        "\"worker_id\": ",
        " busy, pid ",
        "→ 200  \"the worker says this sentence backwards\"",
        "kill -9 ",
        "backoff, restart 1, ended by SIGKILL",
        " ready, restart 1",
        "POST /v1/shutdown → 202",
        "hive    ended, exit status: 0",
        "stopped: no workers",
        "no process is left",
        "All seen, nothing left",
    ] {
        let Some((_, after)) = rest.split_once(line) else { panic!("no {line:?} there:\n{said}") };
        rest = after;
    }
    assert!(!said.contains('\x1b'), "colours are for terminals");
    expect_nothing_left(folder.path());
}

#[test]
fn an_interrupt_ends_it_and_all_that_it_started() {
    let (folder, things) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (engine, model) = (things.path().join("engine"), things.path().join("model.gguf"));
    std::fs::write(&engine, "#!/bin/sh\nsleep 600\n").unwrap();
    std::fs::set_permissions(&engine, std::fs::Permissions::from_mode(0o755)).unwrap();
    gguf::TINY.write(&model);
    let mut command = demo(folder.path());
    let mut demo = command.arg("--engine").arg(engine).arg("--model").arg(model).spawn().unwrap();
    let mut said = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("spawning, loading, pid ")), "it never loads");
    eventually("demo, hive, engine and its child live", || descendants_of(folder.path()).len() >= 4);

    kill(demo.id(), 2);

    assert_eq!(demo.wait().unwrap().code(), Some(1));
    let mut log = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.starts_with("error: interrupted\n"), "{log}");
    expect_nothing_left(folder.path());
}
