//! The example program places models on three hives.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Hive, build_library};
use crate::{builder, client, hive};

/// What cargo has built of `examples/queen.rs`, beside this test.
fn program() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let program = folder.join("queen");
    assert!(program.is_file(), "`cargo test` builds it, and so does `cargo build --example queen`");
    program
}

fn queen(hives: &[&Hive], models: &[&str]) -> Command {
    let urls: Vec<&str> = hives.iter().map(|hive| hive.url.as_str()).collect();
    let mut command = Command::new(program());
    command.arg(urls.join(",")).args(models);
    command
}

#[test]
fn a_small_queen_places_models_where_they_fit_best() {
    let roomy = hive(builder().ports(1));
    let cpu = client(&roomy.url).devices().unwrap().cpu;
    // Half of what is free now is kept for others, or all of it.
    let half = cpu.ram_total_bytes - cpu.ram_available_bytes / 2;
    let modest = hive(builder().arg("--reserve", format!("cpu={half}")));
    let full = hive(builder().arg("--reserve", format!("cpu={}", cpu.ram_total_bytes)));
    let output = queen(&[&full, &modest, &roomy], &["hf:org/tiny", "hf:org/tiny"]).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    // The roomiest one first; it has one port, so that the second worker goes where it fits next best.
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].starts_with(&format!("hf:org/tiny on cpu of {}: http://", roomy.url)), "{out}");
    assert!(lines[1].starts_with(&format!("hf:org/tiny on cpu of {}: http://", modest.url)), "{out}");
    assert!(err.contains(&full.url) && err.contains("NO_FREE_PORT"), "{err}");
    let workers = [&full, &modest, &roomy].map(|hive| client(&hive.url).workers().unwrap().len());
    assert_eq!(workers, [0, 1, 1]);
    let output = queen(&[&full], &["hf:org/tiny"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().ends_with("no hive takes it\"\n"));
}

#[test]
fn the_library_starts_no_thread() {
    let hive = hive(builder());
    let library = hive.folder.path().join("no_thread.so");
    build_library("no_thread_stub.c", &library);
    let output = queen(&[&hive], &["hf:org/tiny"]).env("LD_PRELOAD", &library).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.starts_with("hf:org/tiny on cpu of "), "{}: {err}", output.status);
}
