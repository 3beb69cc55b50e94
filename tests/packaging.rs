//! What packaging/ says of the hive is so: settings, paths, times. The tools of those whom it is for look at the rest in
//! `.ci/run`.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rbee_hive::limits;
use support::Hive;

/// All files of packaging/ with their contents.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

fn packaging() -> Vec<(String, String)> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging"))
}

/// The file of this name.
fn file(name: &str) -> String {
    packaging().into_iter().find(|(path, _)| path.ends_with(name)).expect(name).1
}

/// What follows `key` in each line that has it, up to what ends a value there.
fn values(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let after = lines.filter_map(|line| Some(line.split_once(key)?.1.trim_start_matches([' ', '=', '"'])));
    after.map(|rest| rest.split(['"', ',', '}', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn each_setting_is_one_that_the_hive_has() {
    let help = Command::new(env!("CARGO_BIN_EXE_rbee-hive")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut used = BTreeSet::new();
    for (path, text) in packaging() {
        for rest in text.split("RBEE_HIVE_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
            used.insert((rest[..end].to_owned(), path.clone()));
        }
    }
    used.retain(|(name, _)| !["", "TOKEN"].contains(&name.as_str()));
    assert!(used.len() > 20, "they were found: {used:?}");
    for (name, path) in used {
        let flag = format!("  --{} ", name.to_lowercase().replace('_', "-"));
        assert!(help.contains(&flag), "{path}: RBEE_HIVE_{name}");
    }
}

#[test]
fn whoever_stops_a_hive_waits_for_the_longest_end() {
    let usual = Duration::from_secs(30); // --shutdown-timeout
    let last_words = limits::RELAY_CUT + limits::RELAY_LAST_WORD;
    let end = usual
        + limits::CASCADE_KILL_WAIT
        + last_words
        + limits::HTTP_DRAIN
        + limits::REQUEST_THREADS_END
        + limits::THREADS_END
        + limits::REPLY_WAIT;
    for (name, key) in [
        ("rbee-hive.service", "TimeoutStopSec"),
        ("daemonset.yaml", "terminationGracePeriodSeconds:"),
        ("rbee-hive.nomad.hcl", "kill_timeout "),
    ] {
        let given = values(&file(name), key);
        let [seconds] = &given[..] else { panic!("{name}: {given:?}") };
        let given = Duration::from_secs(seconds.trim_end_matches('s').parse().expect(name));
        assert!(given > end, "{name}: {given:?} is less than {end:?}");
    }
    let given = values(&file("rbee-hive.service"), "WatchdogSec");
    let watchdog = Duration::from_secs(given[0].parse().unwrap());
    assert!(watchdog / 2 > limits::REPLY_WAIT, "who is slow to answer is not killed for it: {watchdog:?}");
}

#[test]
fn each_path_that_is_asked_for_how_the_hive_is_answers() {
    let hive = Hive::builder().token("secret").start();
    let paths =
        [values(&file("daemonset.yaml"), "httpGet: {path:"), values(&file("nomad.hcl"), " path ")].concat();
    assert_eq!(paths, ["/health", "/ready", "/health", "/ready"]);
    for path in paths {
        let answer = hive.raw(format!("GET {path} HTTP/1.1\r\nHost: hive\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, 200, "{path} without a token");
    }
}
