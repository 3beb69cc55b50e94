use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;

/// Against hanging; no test gets near it.
const LONG: Duration = Duration::from_secs(60);
const SECRET: &str = "hf_secret";

/// An answer as far as it came.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Whether the connection was reset.
    is_reset: bool,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| *other == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn ask(method: &str, url: &str, headers: &str) -> Answer {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let head = format!("{method} /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut all = Vec::new();
    let is_reset = stream.read_to_end(&mut all).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = all.split_off(end);
    let head = String::from_utf8(all).unwrap();
    let status = head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    Answer { status, head, body, is_reset }
}

fn get(url: &str) -> Answer {
    ask("GET", url, "")
}

fn part(url: &str, range: &str) -> Answer {
    ask("GET", url, &format!("Range: bytes={range}\r\n"))
}

/// 100 kB in which each byte is where it belongs.
fn weights() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n % 251) as u8).collect()
}

struct Rig {
    hub: Hub,
    commit: String,
}

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let hub = Hub::start(options).unwrap();
        let repository = Repository::new().with("config.json", "{}").with("q4/m.gguf", weights());
        let commit = hub.add("o/r", repository);
        Self { hub, commit }
    }

    fn api(&self, path: &str) -> String {
        format!("{}/api/models/o/r{path}", self.hub.url())
    }

    fn small(&self) -> String {
        format!("{}/o/r/resolve/main/config.json", self.hub.url())
    }

    fn large(&self) -> String {
        format!("{}/o/r/resolve/main/q4/m.gguf", self.hub.url())
    }

    /// A fresh location of the large file.
    fn location(&self) -> String {
        get(&self.large()).header("Location").to_owned()
    }

    fn breaks(&self, rule: &str) {
        self.hub.add_rule(rule.parse().unwrap());
    }
}

#[test]
fn a_repository_is_told_of() {
    let rig = Rig::new();
    for path in ["".to_owned(), "/revision/main".to_owned(), format!("/revision/{}", rig.commit)] {
        let info = get(&rig.api(&path)).json();
        assert_eq!(info["sha"], rig.commit);
        assert_eq!(info["siblings"][1]["rfilename"], "q4/m.gguf");
    }
    let info = get(&rig.api("/revision/main?blobs=true")).json();
    assert_eq!(info["siblings"][1]["lfs"]["size"], 100_000);
    let tree = get(&rig.api("/tree/main?recursive=true")).json();
    let kinds: Vec<_> = tree.as_array().unwrap().iter().map(|entry| &entry["type"]).collect();
    assert_eq!(kinds, ["file", "directory", "file"]);
    assert_eq!(tree[2]["lfs"]["oid"], info["siblings"][1]["lfs"]["sha256"]);
    assert_eq!(get(&rig.api("/tree/main")).json().as_array().unwrap().len(), 2);
}

#[test]
fn a_tree_comes_in_pages() {
    let rig = Rig::with(Options { page: 2, ..Options::default() });
    let first = get(&rig.api("/tree/main?recursive=True"));
    assert_eq!(first.json().as_array().unwrap().len(), 2);
    let next = first.header("Link").strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let last = get(next);
    assert_eq!(last.json()[0]["path"], "q4/m.gguf");
    assert_eq!(last.header("Link"), "");
}

#[test]
fn a_small_file_comes_from_the_hub() {
    let rig = Rig::new();
    for method in ["HEAD", "GET"] {
        let answer = ask(method, &rig.small(), "");
        assert_eq!((answer.status, answer.header("Content-Length")), (200, "2"));
        assert_eq!(answer.header("ETag"), "\"9e26dfeeb6e641a33dae4961196235bdb965b21b\"");
        assert_eq!(answer.header("X-Repo-Commit"), rig.commit);
        assert_eq!(answer.body, if method == "GET" { b"{}".as_slice() } else { b"" });
    }
}

#[test]
fn a_large_file_comes_from_the_cdn_by_a_signed_location() {
    let rig = Rig::new();
    for method in ["HEAD", "GET"] {
        let answer = ask(method, &rig.large(), "");
        assert_eq!((answer.status, answer.header("X-Linked-Size")), (302, "100000"));
        assert_eq!(answer.header("X-Linked-Etag").len(), 66);
        assert_eq!(answer.header("X-Repo-Commit"), rig.commit);
        assert!(answer.header("Location").starts_with(rig.hub.cdn_url()));
    }
    let location = rig.location();
    assert_eq!(get(&location).body, weights());
    assert_eq!(get(location.split_once('?').unwrap().0).status, 403);
    assert!(!rig.hub.cdn_saw_token());
    assert_eq!(ask("GET", &location, "Authorization: Bearer x\r\n").status, 400);
    assert!(rig.hub.cdn_saw_token());
}

#[test]
fn parts_are_sent() {
    let rig = Rig::new();
    let location = rig.location();
    for (range, wanted, told) in [
        ("0-0", 0..1, "bytes 0-0/100000"),
        ("99990-", 99_990..100_000, "bytes 99990-99999/100000"),
        ("-5", 99_995..100_000, "bytes 99995-99999/100000"),
        ("500-999", 500..1000, "bytes 500-999/100000"),
    ] {
        let answer = part(&location, range);
        assert_eq!((answer.status, answer.header("Content-Range")), (206, told));
        assert_eq!(answer.body, weights()[wanted]);
    }
    let answer = part(&location, "100000-");
    assert_eq!((answer.status, answer.header("Content-Range")), (416, "bytes */100000"));
    let other = ask("GET", &location, "Range: bytes=0-0\r\nIf-Range: \"other\"\r\n");
    assert_eq!(other.status, 200);
}

#[test]
fn a_file_on_disk_is_sent_as_one_in_memory() {
    let rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("q4")).unwrap();
    std::fs::write(folder.path().join("q4/m.gguf"), weights()).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::write(folder.path().join(".hidden"), "").unwrap();
    let commit = rig.hub.add("o/r", Repository::of_folder(folder.path()).unwrap());
    assert_eq!(commit, rig.commit);
    assert_eq!(get(&rig.location()).body, weights());
    assert_eq!(part(&rig.location(), "7-9").body, weights()[7..10]);
    rig.breaks("corrupt=8");
    assert_ne!(part(&rig.location(), "7-9").body, weights()[7..10]);
}

#[test]
fn a_connection_is_kept() {
    let rig = Rig::new();
    let address = rig.hub.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /o/r/resolve/main/config.json HTTP/1.1\r\n\r\n".repeat(3).as_slice()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 3);
}

#[test]
fn who_may_not_is_told_so_as_the_hub_does_it() {
    let token = Token::parse(SECRET);
    let rig = Rig::with(Options { token, ..Options::default() });
    for (name, access) in [("private", Access::Private), ("gated", Access::Gated), ("closed", Access::Closed)]
    {
        rig.hub.add(&format!("o/{name}"), Repository::new().with("f", "x").access(access));
    }
    let said = |path: &str, token: &str| {
        let authorization = format!("Authorization: Bearer {token}\r\n");
        let url = format!("{}{path}", rig.hub.url());
        let answer = ask("GET", &url, if token.is_empty() { "" } else { &authorization });
        (answer.status, answer.header("X-Error-Code").to_owned())
    };
    for (path, token, status, code) in [
        ("/o/private/resolve/main/f", "", 401, "RepoNotFound"),
        ("/o/private/resolve/main/f", SECRET, 200, ""),
        ("/o/private/resolve/main/f", "wrong", 401, ""),
        ("/api/models/o/private", "", 401, "RepoNotFound"),
        ("/api/models/o/gated/tree/main", "", 200, ""),
        ("/o/gated/resolve/main/f", "", 401, "GatedRepo"),
        ("/o/gated/resolve/main/f", SECRET, 200, ""),
        ("/o/closed/resolve/main/f", "", 401, "GatedRepo"),
        ("/o/closed/resolve/main/f", SECRET, 403, "GatedRepo"),
        ("/api/models/o/none/revision/main", "", 401, "RepoNotFound"),
        ("/api/models/o/none/revision/main", SECRET, 404, "RepoNotFound"),
        ("/api/models/o/r/revision/none", SECRET, 404, "RevisionNotFound"),
        ("/o/r/resolve/none/config.json", "", 404, "RevisionNotFound"),
        ("/o/r/resolve/main/none", "", 404, "EntryNotFound"),
        ("/none", "", 404, ""),
    ] {
        assert_eq!(said(path, token), (status, code.to_owned()), "{path} {token:?}");
    }
}

#[test]
fn a_revision_may_have_slashes() {
    let rig = Rig::new();
    rig.hub.add("o/r", Repository::new().with("f", "pr").on("refs/pr/1"));
    assert_eq!(get(&format!("{}/o/r/resolve/refs%2Fpr%2F1/f", rig.hub.url())).body, b"pr");
    assert_eq!(get(&rig.small()).status, 200, "main stays where it is");
}

#[test]
fn bodies_end_too_soon() {
    let rig = Rig::new();
    rig.breaks("cut=1000*1");
    let cut = get(&rig.location());
    assert_eq!((cut.body.len(), cut.header("Content-Length"), cut.is_reset), (1000, "100000", false));
    rig.breaks("reset=0*1");
    assert!(get(&rig.location()).is_reset);
    rig.breaks("any:hang-up*1@m.gguf");
    assert_eq!(get(&rig.large()).status, 0);
    assert_eq!(get(&rig.location()).body, weights(), "all is well again");
}

#[test]
fn a_stalled_connection_stays_until_one_side_ends() {
    let rig = Rig::new();
    rig.breaks("stall=10*2");
    let location = rig.location();
    let asking = std::thread::spawn({
        let location = location.clone();
        move || get(&location).body.len()
    });
    let stalled = |count: usize| {
        move |seen: &[Seen]| seen.iter().filter(|seen| seen.sent == 10 && !seen.ended).count() == count
    };
    assert!(rig.hub.wait_for(LONG, stalled(1)));
    let address = location.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut other = TcpStream::connect(address.0).unwrap();
    other.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", address.1).as_bytes()).unwrap();
    assert!(rig.hub.wait_for(LONG, stalled(2)));
    drop(other);
    assert!(rig.hub.wait_for(LONG, stalled(1)), "the client has gone");
    drop(rig);
    assert_eq!(asking.join().unwrap(), 10);
}

#[test]
fn a_byte_is_wrong_as_often_as_asked() {
    let rig = Rig::new();
    rig.breaks("corrupt=70000*2");
    assert_eq!(part(&rig.location(), "0-69999").body, weights()[..70_000]);
    for _ in 0..2 {
        let (body, right) = (get(&rig.location()).body, weights());
        assert_eq!(body.len(), right.len());
        let wrong: Vec<_> = (0..right.len()).filter(|at| body[*at] != right[*at]).collect();
        assert_eq!(wrong, [70_000]);
    }
    assert_eq!(get(&rig.location()).body, weights());
}

#[test]
fn headers_lie() {
    let rig = Rig::new();
    let location = rig.location();
    for (rule, length, range) in [
        ("length-off=5*1", "15", "bytes 10-19/100000"),
        ("length-off=-5*1", "5", "bytes 10-19/100000"),
        ("range-off=3*1", "10", "bytes 13-22/100000"),
        ("total-off=-1*1", "10", "bytes 10-19/99999"),
    ] {
        rig.breaks(rule);
        let answer = part(&location, "10-19");
        assert_eq!(answer.body, weights()[10..20], "{rule}");
        assert_eq!(
            (answer.header("Content-Length"), answer.header("Content-Range")),
            (length, range),
            "{rule}"
        );
    }
    rig.breaks("no-ranges*1");
    let answer = part(&location, "10-19");
    assert_eq!((answer.status, answer.header("Content-Range"), answer.body.len()), (200, "", 100_000));
    rig.breaks("chunked*1");
    let answer = part(&location, "10-19");
    assert_eq!(answer.header("Transfer-Encoding"), "chunked");
    assert_eq!(answer.body, [b"a\r\n", &weights()[10..20], b"\r\n0\r\n\r\n"].concat());
}

#[test]
fn an_endless_body_does_not_end() {
    let rig = Rig::new();
    rig.breaks("info:endless");
    let address = rig.hub.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /api/models/o/r HTTP/1.1\r\n\r\n").unwrap();
    let mut piece = vec![0; 1024 * 1024];
    for _ in 0..4 {
        stream.read_exact(&mut piece).unwrap();
    }
    drop(stream);
    assert!(rig.hub.wait_for(LONG, |seen| seen[0].ended));
}

#[test]
fn other_answers_take_the_place_of_the_right_one() {
    let rig = Rig::new();
    for (rule, url, status, name, value) in [
        ("status=500*1", rig.small(), 500, "X-Repo-Commit", ""),
        ("too-many=7*1", rig.large(), 429, "Retry-After", "7"),
        ("resolve:gated-repo*1", rig.large(), 401, "X-Error-Code", "GatedRepo"),
        ("tree:html*1", rig.api("/tree/main"), 200, "Content-Type", "text/html; charset=utf-8"),
        ("redirect-loop*1", rig.small(), 302, "Location", "/o/r/resolve/main/config.json?"),
        ("redirect=http://h/x*1", rig.large(), 302, "X-Linked-Size", "100000"),
        ("redirect=http://h/x*1", rig.large(), 302, "Location", "http://h/x"),
    ] {
        rig.breaks(rule);
        let answer = get(&url);
        assert_eq!((answer.status, answer.header(name)), (status, value), "{rule}");
        assert!([200, 302].contains(&get(&url).status), "{rule} is over");
    }
}

#[test]
fn a_location_expires_and_another_one_is_good() {
    let rig = Rig::new();
    rig.breaks("expire-after=2");
    let location = rig.location();
    let statuses: Vec<_> = (0..4).map(|_| part(&location, "0-9").status).collect();
    assert_eq!(statuses, [206, 206, 403, 403]);
    assert_eq!(part(&rig.location(), "0-9").status, 206);
}

#[test]
fn a_slow_connection_is_slow_from_its_first_byte() {
    let rig = Rig::with(Options { rate: Some(1_000_000), ..Options::default() });
    let location = rig.location();
    let began = std::time::Instant::now();
    assert_eq!(get(&location).body, weights());
    assert!(began.elapsed() > Duration::from_millis(80), "100 kB at 1 MB/s");
    rig.hub.heal();
    assert_eq!(get(&rig.small()).body, b"{}");
}

#[test]
fn requests_are_noted() {
    let rig = Rig::new();
    part(&rig.location(), "5-9");
    ask("POST", &rig.api(""), "Content-Length: 3\r\n");
    let seen = rig.hub.requests();
    assert!(seen.iter().all(|seen| seen.ended && !seen.with_token));
    assert_eq!([seen[0].status, seen[1].status, seen[2].status], [302, 206, 405]);
    assert_eq!((seen[1].side, seen[1].sent, seen[1].range.as_deref()), (Side::Cdn, 5, Some("bytes=5-9")));
    let line = seen[1].to_string();
    assert!(
        line.starts_with("cdn \"GET\" \"/o/r/") && line.ends_with(" range=\"bytes=5-9\" token=no"),
        "{line}"
    );
    rig.hub.forget_requests();
    assert_eq!(rig.hub.requests(), []);
}
