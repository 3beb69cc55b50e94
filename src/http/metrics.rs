//! What is counted of requests, and how figures are written for Prometheus.
//!
//! Counting takes no lock: each event loop adds to atomic numbers, of which there are as many as the table of endpoints
//! says. What no endpoint is meant by is one more row, so that a stranger's path makes no new series.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::http::endpoints::{ENDPOINTS, ENDPOINTS_COUNT};

/// The label of requests that are for none of the endpoints, or that are no requests.
pub const UNKNOWN: &str = "unknown";

/// Statuses that are told apart; all others are counted as 0.
const STATUSES: [u16; 22] = [
    200, 202, 204, 400, 401, 403, 404, 405, 408, 409, 413, 417, 422, 429, 431, 500, 501, 502, 503, 505, 507,
    0,
];

/// Upper bounds of the histogram, in microseconds: what the picture answers takes some, a provision minutes.
const BOUNDS_US: [(u64, &str); 8] = [
    (100, "0.0001"),
    (1_000, "0.001"),
    (10_000, "0.01"),
    (100_000, "0.1"),
    (1_000_000, "1"),
    (10_000_000, "10"),
    (100_000_000, "100"),
    (u64::MAX, "+Inf"),
];

/// Requests by endpoint and status.
#[derive(Debug)]
pub struct Requests([Row; ENDPOINTS_COUNT + 1]);

#[derive(Debug, Default)]
struct Row {
    statuses: [AtomicU64; STATUSES.len()],
    /// Not summed up: each request is in one.
    buckets: [AtomicU64; BOUNDS_US.len()],
    sum_us: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Row::default()))
    }
}

impl Requests {
    /// One more, of the endpoint of this number; it took so long to the first byte of its answer.
    pub fn count(&self, endpoint: Option<usize>, status: u16, took: Duration) {
        let row = &self.0[endpoint.unwrap_or(ENDPOINTS_COUNT).min(ENDPOINTS_COUNT)];
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|(bound, _)| us <= *bound).unwrap_or(BOUNDS_US.len() - 1);
        row.statuses[status].fetch_add(1, Ordering::Relaxed);
        row.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        row.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Writes them. What an endpoint is there to answer, and our own failures, are there from the beginning, with 0: a
    /// rate sees the first of them.
    pub fn write(&self, out: &mut Figures) {
        let name = |at: usize| ENDPOINTS.get(at).map_or(UNKNOWN, |endpoint| endpoint.name);
        out.family(
            "rbee_http_requests_total",
            Kind::Counter,
            "Requests that were answered, by endpoint and status.",
        );
        for (at, row) in self.0.iter().enumerate() {
            for (status, count) in STATUSES.iter().zip(&row.statuses) {
                let count = count.load(Ordering::Relaxed);
                let is_told = ENDPOINTS.get(at).is_some_and(|endpoint| {
                    [500, 503].contains(status) || endpoint.answers.iter().any(|told| told.status == *status)
                });
                if count > 0 || is_told {
                    let status = status.to_string();
                    out.sample(
                        "rbee_http_requests_total",
                        &[("endpoint", name(at)), ("status", &status)],
                        count,
                    );
                }
            }
        }
        let family = "rbee_http_request_duration_seconds";
        out.family(family, Kind::Histogram, "From a whole request head to the first byte of the answer.");
        for (at, row) in self.0.iter().enumerate() {
            let endpoint = ("endpoint", name(at));
            let mut count = 0;
            for ((_, bound), bucket) in BOUNDS_US.iter().zip(&row.buckets) {
                count += bucket.load(Ordering::Relaxed);
                out.sample(&format!("{family}_bucket"), &[endpoint, ("le", bound)], count);
            }
            let sum = row.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
            out.sample(&format!("{family}_sum"), &[endpoint], sum);
            out.sample(&format!("{family}_count"), &[endpoint], count);
        }
    }
}

/// What a family of figures is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were below each bound.
    Histogram,
}

/// The text format of Prometheus, version 0.0.4.
#[derive(Debug, Default)]
pub struct Figures(String);

impl Figures {
    /// Begins a family: its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, text: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {text}\n# TYPE {name} {kind}\n"));
    }

    /// A figure of the family. The values of labels hold no quote, backslash or line end: they are words of the hive's.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            self.line(format_args!("{open}{label}=\"{value}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{close} {value}\n"));
    }

    /// A family of one figure.
    pub fn single(&mut self, name: &str, kind: Kind, text: &str, value: impl fmt::Display) {
        self.family(name, kind, text);
        self.sample(name, &[], value);
    }

    /// All of it.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes what is written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Code;

    #[test]
    fn each_status_of_the_table_has_a_number_of_its_own() {
        for endpoint in &ENDPOINTS {
            let told = endpoint.answers.iter().map(|told| told.status);
            for status in told.chain(endpoint.codes().map(|code| code.wire().0)) {
                assert!(STATUSES.contains(&status), "{}: {status}", endpoint.name);
            }
        }
        assert!(STATUSES.contains(&Code::MethodNotAllowed.wire().0));
    }

    #[test]
    fn buckets_hold_what_is_below_and_the_last_one_holds_all() {
        let requests = Requests::default();
        requests.count(Some(0), 200, Duration::from_micros(100));
        requests.count(Some(0), 200, Duration::from_millis(2));
        requests.count(None, 404, Duration::from_secs(1000));
        requests.count(Some(usize::MAX), 999, Duration::MAX);
        let mut figures = Figures::default();
        requests.write(&mut figures);
        let text = figures.into_text();
        let bucket = |endpoint: &str, bound: &str, count: u64| {
            let line = format!(
                "rbee_http_request_duration_seconds_bucket{{endpoint=\"{endpoint}\",le=\"{bound}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        };
        bucket("health", "0.0001", 1);
        bucket("health", "0.001", 1);
        bucket("health", "0.01", 2);
        bucket("health", "+Inf", 2);
        bucket("unknown", "100", 0);
        bucket("unknown", "+Inf", 2);
        assert!(text.contains("rbee_http_requests_total{endpoint=\"health\",status=\"200\"} 2\n"));
        assert!(text.contains("rbee_http_requests_total{endpoint=\"unknown\",status=\"0\"} 1\n"));
    }
}
