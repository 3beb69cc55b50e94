//! The scenarios of `tests/scenarios/`, each against the fleet in made-up time, and those tagged `@daemon`
//! also against the real daemon with real processes.

mod support;

#[path = "scenarios/daemon.rs"]
mod daemon;
#[path = "scenarios/memory.rs"]
mod memory;

use std::path::Path;
use std::time::Duration;

use gherkin::{Feature, GherkinEnv, Scenario};

/// What a scenario can do and see. Each step of the feature files is one of these.
trait World {
    fn given(&mut self, setting: Option<(&str, u64)>);
    fn spawn(&mut self, probed: bool);
    fn launched(&mut self);
    /// Its callback, or the answer of its probe.
    fn becomes_ready(&mut self);
    fn take_slots(&mut self);
    fn free_slot(&mut self);
    fn killed_by(&mut self, signal: &str);
    fn stop(&mut self, force: bool);
    fn cascade(&mut self);
    fn drain(&mut self, drain: bool, stop_idle: bool);
    fn expect_spawns_refused(&mut self);
    fn backoff_over(&mut self);
    /// Anything that only made-up time can do; `false` if this world cannot.
    fn made_up(&mut self, step: &str) -> bool;
    fn expect_state(&mut self, state: &str);
    fn expect(&mut self, what: &str, value: &str);
    fn expect_end(&mut self);
}

fn play(world: &mut dyn World, step: &str) {
    let words: Vec<&str> = step.split_whitespace().collect();
    match words.as_slice() {
        ["a", "hive"] => world.given(None),
        ["a", "hive", "with", _, rest @ .., "of", value] => {
            world.given(Some((&rest.join(" "), number(value))))
        }
        ["a", "hive", "with", _, rest @ .., "of", value, "seconds"] => {
            world.given(Some((&rest.join(" "), number(value))));
        }
        ["a", "ready", kind, "worker"] => {
            world.spawn(*kind == "probed");
            world.launched();
            world.becomes_ready();
        }
        ["a", kind, "worker", "is", "spawned"] => world.spawn(*kind == "probed"),
        ["it", "is", "launched"] => world.launched(),
        ["it", "is", "launched", "and", ..] => {
            world.launched();
            world.becomes_ready();
        }
        ["all", "its", "slots", "are", "taken"] => world.take_slots(),
        ["a", "slot", "is", "free", "again"] => world.free_slot(),
        ["its", "process", "is", "killed", "by", signal] => world.killed_by(signal),
        ["its", "backoff", "is", "over"] => world.backoff_over(),
        ["it", "is", "stopped"] => world.stop(false),
        ["it", "is", "stopped", "by", "force"] => world.stop(true),
        ["the", "hive", "is", "told", "to", "stop"] => world.cascade(),
        ["the", "hive", "is", "drained"] => world.drain(true, false),
        ["the", "hive", "is", "drained", "and", "stops", "who", "is", "idle"] => world.drain(true, true),
        ["the", "hive", "is", "drained", "no", "more"] => world.drain(false, false),
        ["a", "spawn", "is", "refused"] => world.expect_spawns_refused(),
        ["the", "hive", "ends"] => world.expect_end(),
        ["it", "is", state @ ("spawning" | "ready" | "busy" | "stopping" | "gone")] => {
            world.expect_state(state);
        }
        ["its", "exit", "message", "is", value @ ..] => world.expect("exit message", &value.join(" ")),
        ["its", what @ .., "is", value] if world.knows(what) => world.expect(&what.join(" "), value),
        _ => assert!(world.made_up(step), "nobody can play: {step}"),
    }
}

impl dyn World + '_ {
    fn knows(&self, what: &[&str]) -> bool {
        matches!(what, ["phase" | "health"] | ["restart", "count"] | ["exit", "reason" | "signal" | "code"])
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn scenarios() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "feature") {
            found.extend(Feature::parse_path(&path, GherkinEnv::default()).unwrap().scenarios);
        }
    }
    assert!(found.len() > 15, "the scenarios are gone");
    found
}

fn run(scenario: &Scenario, world: &mut dyn World) {
    for step in &scenario.steps {
        println!("{}: {} {}", scenario.name, step.keyword.trim(), step.value);
        play(world, &step.value);
    }
}

#[test]
fn every_scenario_holds_for_the_fleet_in_made_up_time() {
    for scenario in scenarios() {
        run(&scenario, &mut memory::Memory::new());
    }
}

#[test]
fn tagged_scenarios_hold_for_the_real_daemon() {
    let tagged: Vec<Scenario> =
        scenarios().into_iter().filter(|scenario| scenario.tags.iter().any(|tag| tag == "daemon")).collect();
    assert!(tagged.len() >= 8, "the tagged scenarios are gone");
    std::thread::scope(|scope| {
        for scenario in &tagged {
            scope.spawn(move || run(scenario, &mut daemon::Daemon::new()));
        }
    });
}

/// The step's number of seconds: `… 5 seconds …`.
fn seconds(step: &str) -> Option<Duration> {
    let words: Vec<&str> = step.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "seconds")?;
    words.get(at.checked_sub(1)?)?.parse().ok().map(Duration::from_secs)
}
