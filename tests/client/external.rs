//! A crate of somebody else's, built against the client library alone.

use std::path::Path;
use std::process::Command;

use crate::{builder, hive};

/// Built in a folder of its own, with the versions that this crate is locked to: nothing is asked of a registry. What
/// cargo has built already is built once.
#[test]
#[ignore = "it builds a crate: .ci/run does it"]
fn a_crate_of_thirty_lines_goes_from_devices_to_a_worker_that_has_stopped() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(here.join("tests/external/src/main.rs")).unwrap().lines().count();
    assert!(lines <= 40, "{lines}");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let manifest = std::fs::read_to_string(here.join("tests/external/Cargo.toml")).unwrap();
    let manifest = manifest.replace("\"../..\"", &format!("{:?}", here.display().to_string()));
    std::fs::create_dir(at("src")).unwrap();
    std::fs::write(at("Cargo.toml"), manifest).unwrap();
    std::fs::copy(here.join("tests/external/src/main.rs"), at("src/main.rs")).unwrap();
    std::fs::copy(here.join("Cargo.lock"), at("Cargo.lock")).unwrap();
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--manifest-path"]).arg(at("Cargo.toml"));
    assert!(cargo.env("CARGO_TARGET_DIR", &target).status().unwrap().success());
    let hive = hive(builder());
    let output =
        Command::new(target.join("debug/external")).args([&hive.url, "hf:org/tiny"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    print!("{out}");
    let said: Vec<&str> = out.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(said, ["devices", "capacity", "spawned", "ready", "stopped"]);
}
