//! Questions to an engine, beside the hive's own.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::PATIENCE;

/// How often somebody who waits for an engine asks it.
const POLL: Duration = Duration::from_millis(2);

/// The status and body of an answer to a GET; `None` if nobody listens.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = match TcpStream::connect(("127.0.0.1", port)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return None,
        Err(error) => panic!("{error}"),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // An engine that ends meanwhile is one that does not answer.
    stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Asks `/health` until it is 200; gives each answer that differed from the one before, with its time, refused
/// being 0.
pub fn health_until_ready(port: u16) -> Vec<(u16, Instant)> {
    let mut seen: Vec<(u16, Instant)> = Vec::new();
    let until = Instant::now() + PATIENCE;
    loop {
        let status = get(port, "/health").map_or(0, |(status, _)| status);
        let now = Instant::now();
        if seen.last().is_none_or(|(last, _)| *last != status) {
            seen.push((status, now));
        }
        if status == 200 {
            return seen;
        }
        assert!(now < until, "the engine is never ready: {seen:?}");
        std::thread::sleep(POLL);
    }
}

/// Slots at work, by the engine's own words; none while it does not answer.
pub fn slots_at_work(port: u16) -> usize {
    let body = get(port, "/slots").map_or_else(String::new, |(_, body)| body);
    let slots: Value = serde_json::from_str(&body).unwrap_or_default();
    slots.as_array().map_or(0, |slots| slots.iter().filter(|slot| slot["is_processing"] == true).count())
}

/// Waits until so many slots are at work; gives the moment.
pub fn slots_until(port: u16, count: usize) -> Instant {
    let until = Instant::now() + PATIENCE;
    while slots_at_work(port) != count {
        assert!(Instant::now() < until, "never {count} slots at work");
        std::thread::sleep(POLL);
    }
    Instant::now()
}

/// What is asked: exactly so many tokens.
fn question(tokens: u32, stream: bool) -> String {
    json!({"prompt": "Once upon a time", "n_predict": tokens, "ignore_eos": true, "stream": stream})
        .to_string()
}

/// Has `tokens` tokens written; gives their text.
pub fn complete(port: u16, tokens: u32) -> String {
    let url = format!("http://127.0.0.1:{port}/completion");
    let config = ureq::Agent::config_builder().timeout_global(Some(2 * PATIENCE)).build();
    let mut reply = config.new_agent().post(&url).send(question(tokens, false)).unwrap();
    let answer: Value = serde_json::from_str(&reply.body_mut().read_to_string().unwrap()).unwrap();
    assert_eq!(answer["tokens_predicted"], tokens, "{answer}");
    answer["content"].as_str().unwrap().to_owned()
}

/// An answer that is being written; dropping it hangs up.
pub struct Answering {
    stream: TcpStream,
}

impl Answering {
    /// Asks for more than is ever waited for.
    pub fn begin(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = question(100_000, true);
        let length = body.len();
        let head = format!("POST /completion HTTP/1.1\r\nHost: engine\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        Self { stream }
    }

    /// Reads until so many tokens have come.
    pub fn tokens(&mut self, count: usize) {
        let mut text = String::new();
        while text.matches("data: ").count() < count {
            let mut piece = [0; 4096];
            let length = self.stream.read(&mut piece).unwrap();
            assert!(length > 0, "the answer ended: {text}");
            text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }

    /// Reads to the end, which comes before the answer is whole.
    pub fn expect_cut(mut self) {
        let mut rest = Vec::new();
        // An end in order or a reset: both are ends.
        let _ = self.stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("\"stop\":true"), "the answer was whole: {rest}");
    }
}
