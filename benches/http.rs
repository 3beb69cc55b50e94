//! Requests per second of the hive's reads beside nginx that serves the same bytes, in the way in which it is
//! fastest: wrk, in turns, so that whatever else the machine does befalls both.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use support::daemon::Hive;
use support::nginx::Nginx;
use support::{Changes, cpu_ns, family, installed, median};

const WORKERS: usize = 16;
const ROUNDS: usize = 5;
const ROUND_SECONDS: u32 = 2;

fn main() {
    let Some(wrk) = installed("wrk") else {
        println!("\nSKIPPED: wrk is not installed, so that nothing is measured\n");
        return;
    };
    let hive = Hive::builder().ports(32).arg("--heartbeat-interval", "30s").start();
    let changes = Changes::of(&hive);
    for _ in 0..WORKERS {
        let id = hive.spawn("mock", "");
        changes.state(&id, "ready");
    }
    let paths = ["/health", "/v1/workers/list"];
    let answers = paths.map(|path| hive.get(path));
    let bodies: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
    let nginx = Nginx::start(&bodies);

    println!(
        "\nhttp: requests per second and processor time of one, medians of {ROUNDS} rounds of {ROUND_SECONDS} s in turns"
    );
    println!(
        "{:<18} {:>6} {:>5} {:>10} {:>6} {:>10} {:>6} {:>7}  {:<24} wanted: ratio ≥ 0.9",
        "path", "bytes", "conns", "rbee-hive", "CPU µs", "nginx", "CPU µs", "ratio", "of each round"
    );
    for (n, path) in paths.into_iter().enumerate() {
        let own_path = (hive.address, path.to_owned());
        let peer = nginx.as_ref().map(|nginx| fastest_way(&wrk, nginx, n));
        for connections in [8, 64] {
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                for turn in 0..2 {
                    if (round + turn) % 2 == 0 {
                        own.push(load(&wrk, &[hive.pid()], &own_path, connections, ROUND_SECONDS));
                    } else if let (Some(nginx), Some((_, path))) = (&nginx, &peer) {
                        others.push(load(&wrk, &family(nginx.pid()), path, connections, ROUND_SECONDS));
                    }
                }
            }
            let per_second = |loads: &[Load]| median(loads.iter().map(|load| load.per_second).collect());
            let cpu_us = |loads: &[Load]| median(loads.iter().map(|load| load.cpu_us).collect());
            let (rate, cost) = (per_second(&own), cpu_us(&own));
            print!("{path:<18} {:>6} {connections:>5} {rate:>10.0} {cost:>6.1}", bodies[n].len());
            if let Some((way, _)) = peer {
                let pairs = own.iter().zip(&others);
                let ratios: Vec<f64> = pairs.map(|(own, other)| own.per_second / other.per_second).collect();
                let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
                let (rate, cost) = (per_second(&others), cpu_us(&others));
                print!(" {rate:>10.0} {cost:>6.1} {:>7.2}  {} ({way})", median(ratios), each.join(" "));
            }
            println!();
        }
    }
}

/// How nginx answers with its body `n` cheapest, hence fastest, and where.
fn fastest_way(wrk: &Path, nginx: &Nginx, n: usize) -> (&'static str, (SocketAddr, String)) {
    let tried = Nginx::WAYS.map(|way| (way, (nginx.address, format!("/{way}/{n}"))));
    let pids = family(nginx.pid());
    let rated = tried.map(|way| (load(wrk, &pids, &way.1, 64, 1).cpu_us, way));
    let cheapest = rated.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    cheapest.expect("there are ways").1
}

/// What a server did.
struct Load {
    per_second: f64,
    /// Processor time of its processes for a request, in microseconds: less a matter of what else runs.
    cpu_us: f64,
}

/// Asks for one path for so many seconds, with wrk; any answer but 2xx is a failure of the bench.
fn load(
    wrk: &Path,
    server: &[u32],
    (address, path): &(SocketAddr, String),
    connections: u32,
    seconds: u32,
) -> Load {
    let before = cpu_ns(server);
    let mut command = Command::new(wrk);
    command.args(["-t2", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    let text = command.arg(format!("http://{address}{path}")).output().unwrap().stdout;
    let cpu_us = (cpu_ns(server) - before) as f64 / 1000.0;
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("Non-2xx"), "{text}");
    let requests = text.lines().find_map(|line| line.split_once(" requests in "));
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let (Some((requests, _)), Some(rate)) = (requests, rate) else { panic!("{text}") };
    let requests: f64 = requests.trim().parse().unwrap();
    Load { per_second: rate.trim().parse().unwrap(), cpu_us: cpu_us / requests }
}
