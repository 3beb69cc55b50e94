//! Chaos: the real daemon with real processes, to which everything happens that can, from a seed; what must hold
//! holds after each run. Beside it: kills of the hive at any moment, and its replacement under load.
//!
//! `RBEE_CHAOS_S=600 cargo test --test chaos chaos -- --nocapture` plays seeds for ten minutes and prints how the
//! hive's memory, descriptors and threads go. `RBEE_CHAOS_SEEDS` says how many seeds at most, `RBEE_CHAOS_FIRST` with
//! which it begins, `RBEE_CHAOS_ACTIONS` how many actions a run has, `RBEE_KILLS` how often a hive is killed,
//! `RBEE_REQUESTS` how many requests workers answer while it is replaced.

mod action;
mod checks;
mod court;
mod figures;
mod kills;
mod random;
mod setting;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
mod world;

use std::time::{Duration, Instant};

use figures::Table;
use world::World;

/// A number that was asked for.
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Each seed is played to two hives: one that is killed, ended and replaced on the way and ended after it, and one
/// that lives on through all of them, whose figures show what grows.
#[test]
fn chaos_leaves_nothing_behind() {
    let time = asked("RBEE_CHAOS_S").map(Duration::from_secs);
    let seeds = asked("RBEE_CHAOS_SEEDS").unwrap_or(if time.is_some() { u64::MAX } else { 1 });
    let actions = asked("RBEE_CHAOS_ACTIONS").unwrap_or(if time.is_some() { 60 } else { 30 });
    let first = asked("RBEE_CHAOS_FIRST").unwrap_or(1);
    let begin = Instant::now();
    let mut old = World::start(first);
    let mut table = Table::new();
    let mut mortal = World::start(first);
    for seed in first..first.saturating_add(seeds) {
        mortal.play(seed, actions, true);
        mortal.end_and_restart(seed + 1);
        old.play(seed, actions, false);
        table.run(&old, &mortal);
        if time.is_some_and(|time| begin.elapsed() > time) {
            println!("seeds {first} to {seed}");
            break;
        }
    }
    mortal.end();
    old.end();
    table.end();
}
