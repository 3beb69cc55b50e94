//! Guessing the token: an address that shows too many wrong ones is not listened to for a while, and nobody else is
//! any the worse.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};
use support::{Hive, PATIENCE, eventually, variable};

use rbee_hive::limits::{ATTEMPTS_BLOCK, ATTEMPTS_MAX};

const TOKEN: &str = "s3cret-of-the-hive";
const LIST: &str = "GET /v1/workers/list";
/// Addresses of this machine, as many as one likes.
const GUESSER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const QUEEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A connection from an address of its own.
struct From(TcpStream);

struct Told {
    status: u16,
    retry_after: Option<u64>,
    code: String,
}

impl From {
    fn new(address: Ipv4Addr, hive: &Hive) -> Self {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((address, 0))).unwrap();
        connect(&socket, &hive.address).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, line: &str, token: Option<&str>, body: &str) -> Told {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        write!(self.0, "{line} HTTP/1.1\r\nHost: h\r\n{token}Content-Length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = Vec::new();
        let (head, body) = loop {
            let mut piece = [0; 4096];
            let count = self.0.read(&mut piece).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
            let text = std::str::from_utf8(&answer).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if body.len() >= value("Content-Length: ").unwrap().parse().unwrap() {
                break (head.to_owned(), body.to_owned());
            }
        };
        let retry_after = head.lines().find_map(|line| line.strip_prefix("Retry-After: "));
        Told {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            retry_after: retry_after.map(|seconds| seconds.parse().unwrap()),
            code: serde_json::from_str::<Value>(&body).unwrap()["error"]["code"]
                .as_str()
                .unwrap_or("")
                .to_owned(),
        }
    }
}

/// One request on a connection of its own.
fn ask(hive: &Hive, from: Ipv4Addr, line: &str, token: Option<&str>) -> (u16, String) {
    let told = From::new(from, hive).ask(line, token, "");
    (told.status, told.code)
}

/// Guesses from `from` until the address is blocked.
fn guess(hive: &Hive, from: Ipv4Addr, line: &str) {
    for n in 0..ATTEMPTS_MAX {
        let told = ask(hive, from, line, Some(&format!("zq7marker-{n}")));
        assert_eq!(told, (401, "INVALID_API_KEY".into()), "{n}");
    }
    assert_eq!(ask(hive, from, line, Some("zq7marker")), (429, "TOO_MANY_ATTEMPTS".into()));
}

#[test]
fn who_guesses_is_not_listened_to_and_others_are() {
    let hive = Hive::builder().token(TOKEN).start();
    guess(&hive, GUESSER, LIST);
    let mut guesser = From::new(GUESSER, &hive);
    let told = guesser.ask(LIST, Some(TOKEN), "");
    assert_eq!((told.status, &*told.code), (429, "TOO_MANY_ATTEMPTS"), "nor is it told that it is right now");
    let seconds = told.retry_after.expect("it is told when to come again");
    assert!((1..=ATTEMPTS_BLOCK.as_secs()).contains(&seconds), "{seconds}");
    let later = guesser.ask("POST /v1/workers/spawn", Some("zq7marker"), "{}");
    assert_eq!(later.status, 429);
    assert!(later.retry_after <= Some(seconds), "to go on does not make it longer");
    // What needs no token needs none.
    for open in ["GET /health", "GET /v1/health"] {
        assert_eq!(ask(&hive, GUESSER, open, Some("zq7marker")).0, 200);
    }
    assert_eq!(ask(&hive, GUESSER, LIST, None), (401, "MISSING_API_KEY".into()));

    assert_eq!(ask(&hive, QUEEN, LIST, Some(TOKEN)).0, 200);
    assert_eq!(ask(&hive, QUEEN, LIST, Some("zq7marker")), (401, "INVALID_API_KEY".into()));
    // The log tells of it once, and no token.
    eventually("it is logged", || hive.log().contains(" address=127.0.0.2 "));
    let log = hive.log();
    assert_eq!(log.matches("address blocked").count(), 1, "{log}");
    assert!(!log.contains("zq7marker") && !log.contains(TOKEN), "{log}");
}

#[test]
fn who_shows_no_token_guesses_nothing() {
    let hive = Hive::builder().token(TOKEN).start();
    let mut browser = From::new(GUESSER, &hive);
    for _ in 0..3 * ATTEMPTS_MAX {
        assert_eq!(browser.ask(LIST, None, "").code, "MISSING_API_KEY");
    }
    assert_eq!(browser.ask(LIST, Some(TOKEN), "").status, 200);
}

#[test]
fn a_queen_behind_the_same_address_goes_on_over_its_connections() {
    let hive = Hive::builder().token(TOKEN).start();
    let mut queen = From::new(GUESSER, &hive);
    assert_eq!(queen.ask(LIST, Some(TOKEN), "").status, 200);
    guess(&hive, GUESSER, LIST);
    for _ in 0..3 {
        assert_eq!(queen.ask(LIST, Some(TOKEN), "").status, 200);
    }
    // A connection that a proxy shares among many is of no use for guessing either.
    assert_eq!(queen.ask(LIST, Some("zq7marker"), "").status, 401);
    assert_eq!(queen.ask(LIST, Some(TOKEN), "").status, 429);
}

#[test]
fn a_worker_with_an_old_token_keeps_nobody_out_nor_is_a_worker_kept_out() {
    let hive = Hive::builder().token(TOKEN).start();
    let id = hive.spawn("mock", "");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let own = variable(pid, "RBEE_WORKER_TOKEN").unwrap();
    let beat = json!({"worker_id": id, "timestamp": "t", "health_status": "healthy"}).to_string();
    let beats = |token: &str| {
        let mut worker = From::new(Ipv4Addr::LOCALHOST, &hive);
        let told = worker.ask("POST /v1/heartbeat", Some(token), &beat);
        (told.status, told.code)
    };
    for _ in 0..ATTEMPTS_MAX {
        assert_eq!(beats("0123456789abcdef"), (401, "INVALID_API_KEY".into()));
    }
    assert_eq!(beats("0123456789abcdef"), (429, "TOO_MANY_ATTEMPTS".into()));
    assert_eq!(
        beats(TOKEN),
        (429, "TOO_MANY_ATTEMPTS".into()),
        "it does not open callbacks, but would be told so"
    );
    assert_eq!(beats(&own).0, 200);
    assert_eq!(hive.get("/v1/workers/list").status, 200, "the queen is on the same machine");

    guess(&hive, Ipv4Addr::LOCALHOST, LIST);
    assert_eq!(beats(&own).0, 200);
    assert_eq!(hive.worker(&id)["state"], "ready", "over a connection that is known");
}

#[test]
fn without_a_token_there_is_nothing_to_guess() {
    let hive = Hive::start();
    let mut anybody = From::new(GUESSER, &hive);
    for _ in 0..3 * ATTEMPTS_MAX {
        assert_eq!(anybody.ask(LIST, Some("zq7marker"), "").status, 200);
    }
}
