//! What can happen to a hive, and how it is drawn.

use rbee_hive::mock::fault::FAULTS;

use crate::random::Random;

/// One thing that happens. Numbers that point at something are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Action {
    Spawn {
        kind: &'static str,
        faults: String,
        from_hub: bool,
    },
    Stop {
        nth: u64,
        force: bool,
    },
    /// A process of a worker, leader or not, gets a signal.
    SignalWorker {
        nth: u64,
        signal: i32,
    },
    /// The guardian gets a signal.
    SignalGuardian {
        signal: i32,
    },
    /// SIGKILL, and the next hive after a while.
    KillHive {
        pause_ms: u64,
    },
    /// SIGTERM, and the next hive.
    EndHive,
    /// The next hive takes over.
    Upgrade {
        by: Upgrade,
    },
    /// SIGSTOP, perhaps a worker that dies meanwhile, SIGCONT.
    Pause {
        ms: u64,
        kill: bool,
    },
    /// SIGHUP.
    Reload,
    Drain(bool),
    Queen(Mood),
    /// A rule as `rbee-mock hub --fault` takes it; none: all are forgotten.
    Hub(Option<String>),
    Download {
        repository: u64,
    },
    CancelDownload {
        nth: u64,
    },
    DeleteModel {
        repository: u64,
    },
    /// So many descriptors more can be opened; none: as many as usual.
    Descriptors(Option<u64>),
    /// A connection that is held.
    Client(Manner),
    /// All connections that were held are closed.
    Hangup,
    Read(&'static str),
    Wait {
        ms: u64,
    },
}

/// How a hive is told to keep its workers.
#[derive(Debug, Clone, Copy)]
pub enum Upgrade {
    Signal,
    Request,
}

/// How the queen is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    Away,
    Answers(u16),
    Hangs,
    Garbage,
    Resets,
}

/// What a client does with the connection that it holds.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    Silent,
    HalfHead,
    HalfBody,
    UnreadEvents,
    UnreadLog,
    UnreadPipeline,
}

impl Manner {
    /// What it sends; `id` is some worker's.
    pub fn text(self, id: &str) -> String {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        match self {
            Self::Silent => String::new(),
            Self::HalfHead => "GET /v1/workers/list HTTP/1.1\r\nHo".to_owned(),
            Self::HalfBody => {
                "POST /v1/workers/spawn HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{\"mo".to_owned()
            }
            Self::UnreadEvents => get("/v1/events"),
            Self::UnreadLog => get(&format!("/v1/workers/{id}/logs?follow=true")),
            Self::UnreadPipeline => get("/v1/devices").repeat(5000),
        }
    }
}

const READS: [&str; 8] = [
    "/health",
    "/ready",
    "/v1/workers/list",
    "/v1/devices",
    "/v1/workers/kinds",
    "/v1/models",
    "/v1/capacity?model=hf:org/m1",
    "/v1/nothing",
];

const HUB_FAULTS: [&str; 12] = [
    "cdn:cut=300000*3",
    "cdn:reset=100000*3",
    "cdn:stall=200000*1",
    "bytes:rate=500000",
    "hang-up*4",
    "cdn:status=503*3",
    "tree:status=500*2",
    "info:html*2",
    "cdn:corrupt=1000*1",
    "resolve:too-many=1*1",
    "cdn:no-ranges*2",
    "cdn:endless*1",
];

impl Action {
    /// `mortal`: also what ends the hive.
    pub fn draw(random: &mut Random, mortal: bool) -> Self {
        match random.within(0..100) {
            0..24 => Self::Spawn {
                kind: random.one_of(&["mock", "mock", "mock-probe", "mock-probe", "script"]),
                faults: faults(random),
                from_hub: random.chance(15),
            },
            24..34 => Self::Stop { nth: random.within(0..16), force: random.chance(40) },
            34..42 => Self::SignalWorker {
                nth: random.within(0..64),
                signal: random.one_of(&[9, 9, 9, 9, 11, 6, 15, 19]),
            },
            42..45 => Self::SignalGuardian { signal: random.one_of(&[9, 9, 15, 19]) },
            45..51 if mortal => Self::KillHive { pause_ms: pause_ms(random, 600) },
            51..53 if mortal => Self::EndHive,
            53..57 if mortal => Self::Upgrade { by: random.one_of(&[Upgrade::Signal, Upgrade::Request]) },
            57..59 => Self::Pause { ms: pause_ms(random, 2000), kill: random.chance(50) },
            59 => Self::Reload,
            60 => Self::Drain(random.chance(40)),
            61..66 => Self::Queen(match random.within(0..8) {
                0..3 => Mood::Well,
                3 => Mood::Away,
                4 => Mood::Answers(random.one_of(&[500, 404, 301, 204])),
                5 => Mood::Hangs,
                6 => Mood::Garbage,
                _ => Mood::Resets,
            }),
            66..70 => Self::Hub(random.chance(75).then(|| random.one_of(&HUB_FAULTS).to_owned())),
            70..74 => Self::Download { repository: random.within(0..3) },
            74..76 => Self::CancelDownload { nth: random.within(0..8) },
            76..78 => Self::DeleteModel { repository: random.within(0..3) },
            78..81 => Self::Descriptors(random.chance(50).then(|| random.within(0..12))),
            81..88 => Self::Client(random.one_of(&[
                Manner::Silent,
                Manner::HalfHead,
                Manner::HalfBody,
                Manner::UnreadEvents,
                Manner::UnreadLog,
                Manner::UnreadPipeline,
            ])),
            88 => Self::Hangup,
            89..95 => Self::Read(random.one_of(&READS)),
            _ => Self::Wait { ms: pause_ms(random, 400) },
        }
    }
}

/// Mostly short: what is close together in time meets.
fn pause_ms(random: &mut Random, most: u64) -> u64 {
    let most = if random.chance(75) { most / 8 } else { most };
    random.within(0..most)
}

/// None for half of the workers; of the others, one or two of all that the mock knows.
fn faults(random: &mut Random) -> String {
    if random.chance(50) {
        return String::new();
    }
    let count = random.within(1..3);
    let faults: Vec<String> = (0..count).map(|_| fault(random)).collect();
    faults.join(",")
}

fn fault(random: &mut Random) -> String {
    let usages: Vec<&str> = FAULTS.iter().map(|(usage, _)| *usage).collect();
    let usage = random.one_of(&usages);
    let name = usage.split(['=', '[']).next().unwrap();
    match usage.rsplit('=').next().unwrap() {
        "DUR" => format!("{name}={}ms", random.within(0..3000)),
        "CODE]" => format!("{name}={}", random.within(0..256)),
        "LINES]" => format!("{name}={}", random.within(0..5000)),
        _ => name.to_owned(),
    }
}
