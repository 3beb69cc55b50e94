//! What a hive takes of the machine: now, and over time.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::world::World;

/// Time between two lines of the table.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// What a process takes; descriptors by what they are, threads by name.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub rss_kib: u64,
    pub descriptors: BTreeMap<String, usize>,
    pub threads: BTreeMap<String, usize>,
}

impl Figures {
    pub fn of(pid: u32) -> Self {
        let mut figures = Self::default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        figures.rss_kib = rss.and_then(|rss| rss.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            let sort = if target.starts_with('/') { &target } else { target.split(":[").next().unwrap() };
            *figures.descriptors.entry(sort.to_owned()).or_default() += 1;
        }
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            *figures.threads.entry(name.trim_end().to_owned()).or_default() += 1;
        }
        figures
    }

    /// What there is more of than there was, beside `spare` sockets.
    pub fn more_than(&self, before: &Self, spare: usize) -> Vec<String> {
        let mut more = Vec::new();
        for (now, before) in [(&self.descriptors, &before.descriptors), (&self.threads, &before.threads)] {
            for (what, count) in now {
                let allowed = before.get(what).unwrap_or(&0) + if what == "socket" { spare } else { 0 };
                if *count > allowed {
                    more.push(format!("{what}: {count}, not {allowed}"));
                }
            }
        }
        more
    }
}

/// How a hive that lives on fares, a line each minute.
pub struct Table {
    begin: Instant,
    next: Instant,
    runs: u64,
    /// After each run.
    all: Vec<Figures>,
    line: String,
}

impl Table {
    pub fn new() -> Self {
        println!("  time   runs actions adopted starts  rss KiB descriptors threads");
        let begin = Instant::now();
        Self { begin, next: begin, runs: 0, all: Vec::new(), line: String::new() }
    }

    /// After each run.
    pub fn run(&mut self, old: &World, mortal: &World) {
        self.runs += 1;
        let count = |all: &BTreeMap<String, usize>| all.values().sum::<usize>();
        let now = old.figures();
        self.line = format!(
            "{:>5} s {:>6} {:>7} {:>7} {:>6} {:>8} {:>11} {:>7}",
            self.begin.elapsed().as_secs(),
            self.runs,
            old.actions + mortal.actions,
            mortal.adoptions,
            mortal.starts,
            now.rss_kib,
            count(&now.descriptors),
            count(&now.threads),
        );
        self.all.push(now);
        if Instant::now() >= self.next {
            println!("{}", self.line);
            self.next = Instant::now() + LINE_EVERY;
        }
    }

    /// What has grown: since the first run, and since half of them.
    pub fn end(&self) {
        println!("{}", self.line);
        let [first, .., last] = &self.all[..] else { return };
        let half = &self.all[self.all.len() / 2];
        for (since, before) in [("the first run", first), ("half of the runs", half)] {
            let grown = last.rss_kib.cast_signed() - before.rss_kib.cast_signed();
            println!("growth since {since}: rss {grown} KiB, {:?}", last.more_than(before, 0));
        }
    }
}
