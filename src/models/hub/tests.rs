//! The client against real sockets: servers that do what a hub does, and what one should not.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::limits::{HUB_HEADER_BYTES_MAX, HUB_PAGE_BYTES_MAX};
use crate::models::reference::ModelRef;
use crate::models::remote::{Connection, Digest, Origin as _};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as a server sees it.
#[derive(Debug, Clone)]
struct Asked {
    /// Path and query.
    target: String,
    headers: Vec<(String, String)>,
    /// How many came before it on this connection.
    before: usize,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn range(&self) -> std::ops::Range<usize> {
        let range = self.header("range").unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
    }
}

/// What a server does after it has sent something.
enum Then {
    Keep,
    Close,
    /// Sends nothing more, and keeps the connection open as long as the other side does.
    Hang,
    /// Sends the same for ever.
    Repeat,
}

type Answer = (Vec<u8>, Then);

/// A server on loopback; ends with the test.
struct Server {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepts: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, connections) = (Arc::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (log, open, answer) = (Arc::clone(&asked), Arc::clone(&connections), Arc::new(answer));
        let accepts = std::thread::spawn(move || {
            let mut served = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let mut one = BufReader::new(stream);
                if one.get_ref().peer_addr().is_err() || one.fill_buf().is_ok_and(|sent| sent == b"end") {
                    break;
                }
                served.push(std::thread::spawn(move || serve(one, &log, &*answer)));
            }
            served.into_iter().for_each(|served| served.join().unwrap());
        });
        Self { addr, asked, connections, accepts: Some(accepts) }
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}{rest}", self.addr)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn targets(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.target).collect()
    }

    fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        TcpStream::connect(self.addr).and_then(|mut end| end.write_all(b"end")).unwrap();
        for stream in &*self.connections.lock().unwrap() {
            // The other side may have closed it.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.accepts.take().unwrap().join().unwrap();
    }
}

fn serve(mut stream: BufReader<TcpStream>, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) {
    for before in 0.. {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let target = lines[0].split(' ').nth(1).unwrap().to_owned();
        let header = |line: &String| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let asked = Asked { target, headers: lines[1..].iter().map(header).collect(), before };
        log.lock().unwrap().push(asked.clone());
        let (bytes, then) = answer(&asked);
        let mut sent = stream.get_mut().write_all(&bytes);
        match then {
            Then::Keep => {}
            Then::Close => return drop(stream.get_mut().shutdown(std::net::Shutdown::Both)),
            Then::Hang => return drop(stream.read(&mut [0])),
            Then::Repeat => {
                while sent.is_ok() {
                    sent = stream.get_mut().write_all(&bytes);
                }
                return;
            }
        }
    }
}

fn plain(status: &str, headers: &str, body: &[u8]) -> Answer {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    (bytes, Then::Keep)
}

fn redirect(location: &str) -> Answer {
    plain("302 Found", &format!("Location: {location}\r\n"), b"Found. Redirecting")
}

/// The part of `whole` that was asked for.
fn part(whole: &[u8], asked: &Asked) -> Answer {
    let range = asked.range();
    let told = format!("Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, whole.len());
    plain("206 Partial Content", &told, &whole[range])
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn file(bytes: &[u8]) -> RemoteFile {
    RemoteFile { path: "q 4/m.gguf".into(), bytes: bytes.len() as u64, digest: Digest::Sha256([0xab; 32]) }
}

fn model(text: &str) -> HubRef {
    match text.parse() {
        Ok(ModelRef::Hub(hub)) => hub,
        other => panic!("{other:?}"),
    }
}

/// A hub at `server`, whose token is `hf_s3cret`.
fn hub(server: &Server, question: Duration, stall: Duration) -> Hub {
    hub_with(server, "hf_s3cret", question, stall)
}

fn hub_with(server: &Server, token: &str, question: Duration, stall: Duration) -> Hub {
    let config = HubConfig::from_env(&|name| match name {
        "HF_ENDPOINT" => Some(server.url("").into()),
        "HF_TOKEN" => Some(token.into()),
        _ => None,
    });
    Hub::with_times(config.unwrap(), question, stall)
}

/// When nobody waits any more.
fn later() -> Instant {
    Instant::now() + LONG
}

fn revision(server: &Server) -> Result<Revision, HubError> {
    hub(server, LONG, LONG).revision(&model("hf:org/repo@refs/pr/1"), &Cut::default(), later())
}

fn origin(server: &Server) -> HubOrigin {
    hub(server, LONG, LONG).origin(&model("hf:org/repo"), COMMIT, &Cut::default())
}

fn read(
    connection: &mut (dyn Connection + '_),
    file: &RemoteFile,
    range: std::ops::Range<u64>,
) -> Result<(u64, Vec<u8>), HubError> {
    let mut body = connection.open(file, range)?;
    let mut bytes = Vec::new();
    body.bytes.read_to_end(&mut bytes).expect("it comes whole");
    Ok((body.from, bytes))
}

/// What the first `open` of the first four of ten bytes ends in.
fn opened(server: &Server) -> Result<(), HubError> {
    let origin = origin(server);
    let mut connection = origin.connect().unwrap();
    connection.open(&file(&data(10)), 0..4).map(|_| ())
}

fn entry(path: &str, bytes: u64) -> String {
    format!(r#"{{"type":"file","path":"{path}","size":{bytes},"oid":"{}"}}"#, "0a".repeat(20))
}

/// Answers about a revision; `tree` answers for its files.
fn with_tree(tree: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |asked| match asked.target.contains("/revision/") {
        true => plain("200 OK", "", format!(r#"{{"sha":"{COMMIT}"}}"#).as_bytes()),
        false => tree(asked),
    })
}

#[test]
fn a_revision_is_a_commit_and_all_pages_of_its_files() {
    let server = with_tree(|asked| {
        let next = "Link: </api/models/org/repo/tree/x?cursor=a%2Cb>; rel=\"next\"\r\n";
        match asked.target.contains("cursor") {
            false => plain("200 OK", next, format!("[{}]", entry("b", 2)).as_bytes()),
            true => plain("200 OK", "", format!("[{}]", entry("a", 1)).as_bytes()),
        }
    });
    let found = revision(&server).unwrap();
    assert_eq!(found.commit, COMMIT);
    assert_eq!(
        found.files.iter().map(|file| (&*file.path, file.bytes)).collect::<Vec<_>>(),
        [("a", 1), ("b", 2)]
    );
    let tree = format!("/api/models/org/repo/tree/{COMMIT}?recursive=true");
    let targets = server.targets();
    assert_eq!(targets[..2], ["/api/models/org/repo/revision/refs%2Fpr%2F1".to_owned(), tree]);
    assert_eq!(targets[2], "/api/models/org/repo/tree/x?cursor=a%2Cb");
    assert_eq!(server.connections(), 1, "one connection for all");
    let first = &server.asked()[0];
    assert_eq!(first.header("authorization"), Some("Bearer hf_s3cret"));
    assert_eq!(first.header("user-agent"), Some(concat!("rbee-hive/", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_list_that_goes_on_elsewhere_or_for_ever_is_no_hubs() {
    let elsewhere = Server::start(|_| plain("200 OK", "", b"[]"));
    let link = format!("Link: <{}>; rel=\"next\"\r\n", elsewhere.url("/more"));
    let server = with_tree(move |_| plain("200 OK", &link, b"[]"));
    assert_eq!(revision(&server), Err(HubError::BadAnswer("its list of files goes on elsewhere")));
    assert_eq!(elsewhere.connections(), 0);
    let server = with_tree(|_| plain("200 OK", "Link: <?again>; rel=\"next\"\r\n", b"[]"));
    assert_eq!(revision(&server), Err(HubError::BadAnswer("its list of files has too many pages")));
    assert_eq!(server.asked().len(), 1 + HUB_PAGES_MAX);
}

#[test]
fn what_is_not_json_or_has_no_end_is_no_hubs() {
    let server = with_tree(|_| plain("200 OK", "Content-Type: text/html\r\n", b"<!DOCTYPE html><p>Log in"));
    assert_eq!(revision(&server), Err(HubError::BadAnswer("not the JSON of a hub")));
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let begun = AtomicUsize::new(0);
    let server = with_tree(move |_| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        begun.fetch_add(1, Ordering::Relaxed);
        ([&head[..], &chunk.repeat(1 + HUB_PAGE_BYTES_MAX as usize / 0x10000)].concat(), Then::Hang)
    });
    assert_eq!(revision(&server), Err(HubError::TOO_LONG));
    let server = with_tree(|_| (b"HTTP/1.1 200 OK\r\n".to_vec(), Then::Repeat));
    assert_eq!(revision(&server), Err(HubError::BadAnswer("not HTTP as it should be")));
}

#[test]
fn a_refusal_is_told_by_its_code() {
    for (status, code, meant) in [
        ("404 Not Found", "RevisionNotFound", HubError::NoRevision),
        ("401 Unauthorized", "RepoNotFound", HubError::NoRepository { with_token: true }),
        ("403 Forbidden", "GatedRepo", HubError::Denied { with_token: true }),
    ] {
        let code = format!("X-Error-Code: {code}\r\nX-Error-Message: some\r\n");
        let server = Server::start(move |_| plain(status, &code, b"{}"));
        assert_eq!(revision(&server), Err(meant));
    }
    let server = Server::start(|_| plain("429 Too Many Requests", "Retry-After: 3\r\n", b""));
    let meant = HubError::Busy { status: 429, retry_after: Some(Duration::from_secs(3)) };
    assert_eq!(revision(&server), Err(meant));
    assert!(meant.is_passing());
    let server = Server::start(|_| plain("401 Unauthorized", "", b""));
    let open = hub_with(&server, "", LONG, LONG);
    let found = open.revision(&model("hf:org/repo"), &Cut::default(), later());
    assert_eq!(found, Err(HubError::NoRepository { with_token: false }));
}

#[test]
fn without_a_network_nothing_is_asked() {
    let server = Server::start(|_| plain("200 OK", "", b""));
    let vars = [("HF_ENDPOINT", server.url("")), ("HF_HUB_OFFLINE", "1".to_owned())];
    let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
    let hub = Hub::new(HubConfig::from_env(&env).unwrap());
    assert!(hub.is_offline());
    let cut = Cut::default();
    assert_eq!(hub.revision(&model("hf:org/repo"), &cut, later()), Err(HubError::Offline));
    let origin = hub.origin(&model("hf:org/repo"), COMMIT, &cut);
    let opened = origin.connect().unwrap().open(&file(&[1]), 0..1).map(|_| ());
    assert_eq!(opened, Err(HubError::Offline));
    assert_eq!(server.connections(), 0);
    drop(server);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let config = HubConfig::from_env(&|name| (name == "HF_ENDPOINT").then(|| url.clone().into())).unwrap();
    let refused = Hub::new(config).revision(&model("hf:org/repo"), &cut, later());
    assert_eq!(refused, Err(HubError::Broken(ErrorKind::ConnectionRefused)));
}

#[test]
fn bytes_come_by_range_from_where_the_hub_sends_and_it_is_asked_once() {
    let whole = data(1000);
    let bytes = whole.clone();
    let cdn = Server::start(move |asked| part(&bytes, asked));
    let location = cdn.url("/signed?a=b");
    let server = Server::start(move |_| redirect(&location));
    let origin = origin(&server);
    let mut connection = origin.connect().unwrap();
    for range in [0..400, 400..999, 999..1000] {
        let expected = whole[range.start as usize..range.end as usize].to_vec();
        assert_eq!(read(&mut *connection, &file(&whole), range.clone()), Ok((range.start, expected)));
    }
    assert_eq!(server.targets(), [format!("/org/repo/resolve/{COMMIT}/q%204/m.gguf")]);
    assert_eq!(cdn.targets(), ["/signed?a=b"; 3]);
    assert_eq!((server.connections(), cdn.connections()), (1, 1), "connections are kept");
    let (first, last) = (&server.asked()[0], &cdn.asked()[2]);
    assert_eq!((first.header("range"), last.header("range")), (Some("bytes=0-399"), Some("bytes=999-999")));
    assert_eq!(first.header("accept-encoding"), Some("identity"));
    assert_eq!(last.before, 2);
}

#[test]
fn a_token_is_shown_to_the_hub_and_to_nobody_else() {
    let whole = data(10);
    let other = Server::start(move |asked| part(&whole, asked));
    // The same host by another port, and the same port by another name.
    for host in ["127.0.0.1", "localhost"] {
        let location = format!("http://{host}:{}/there", other.addr.port());
        let server = Server::start(move |asked| match &*asked.target {
            "/here" => redirect(&location),
            _ => redirect("/here"),
        });
        assert_eq!(opened(&server), Ok(()));
        let shown: Vec<_> =
            server.asked().iter().map(|asked| asked.header("authorization").is_some()).collect();
        assert_eq!(shown, [true, true], "a redirect on the hub itself keeps it");
    }
    assert_eq!(other.asked().len(), 2);
    for asked in other.asked() {
        assert!(!format!("{asked:?}").contains("s3cret"), "{asked:?}");
    }
}

#[test]
fn redirects_end() {
    let bad = |what| Err(HubError::BadAnswer(what));
    let server = Server::start(|asked| redirect(if asked.target == "/a" { "/b" } else { "/a" }));
    assert_eq!(opened(&server), bad("it redirects in a circle"));
    let server = Server::start(|asked| redirect(&format!("{}/x", asked.target)));
    assert_eq!(opened(&server), bad("it redirects too often"));
    assert_eq!(server.asked().len(), 1 + crate::limits::HUB_REDIRECTS_MAX as usize);
    for nowhere in ["file:///etc/passwd", "http://me:pw@127.0.0.1/", "//"] {
        let server = Server::start(move |_| redirect(nowhere));
        assert_eq!(opened(&server), bad("it redirects to nowhere"), "{nowhere}");
    }
    let server = Server::start(|_| plain("302 Found", "", b""));
    assert_eq!(opened(&server), bad("it redirects to nowhere"));
}

#[test]
fn an_expired_location_is_asked_for_anew_once() {
    let whole = data(10);
    let bytes = whole.clone();
    let cdn = Server::start(move |asked| match (&*asked.target, asked.before) {
        ("/1", 1) | ("/3", _) => plain("403 Forbidden", "", b"<Code>AccessDenied</Code>"),
        _ => part(&bytes, asked),
    });
    let (signed, base) = (AtomicUsize::new(0), cdn.url("/"));
    let server =
        Server::start(move |_| redirect(&format!("{base}{}", 1 + signed.fetch_add(1, Ordering::Relaxed))));
    let origin = origin(&server);
    let mut connection = origin.connect().unwrap();
    let file = file(&whole);
    for range in [0..4, 4..8] {
        assert!(read(&mut *connection, &file, range).is_ok());
    }
    assert_eq!(cdn.targets(), ["/1", "/1", "/2"]);
    // One that never was any good is believed.
    let mut other = origin.connect().unwrap();
    assert_eq!(read(&mut *other, &file, 0..4), Err(HubError::Denied { with_token: true }));
    assert_eq!(cdn.targets()[3..], ["/3"]);
}

#[test]
fn a_server_without_ranges_begins_at_the_beginning() {
    let whole = data(1000);
    let bytes = whole.clone();
    let server = Server::start(move |_| plain("200 OK", "", &bytes));
    let origin = origin(&server);
    let mut connection = origin.connect().unwrap();
    assert_eq!(read(&mut *connection, &file(&whole), 500..600), Ok((0, whole[..600].to_vec())));
    assert_eq!(read(&mut *connection, &file(&whole), 900..1000), Ok((0, whole.clone())));
    assert_eq!(read(&mut *connection, &file(&whole), 0..1000), Ok((0, whole)));
    assert_eq!(server.connections(), 2, "the first was left in the middle, the second is kept");
}

#[test]
fn another_length_than_was_asked_for_is_refused() {
    let range = "the answer has another range than was asked for";
    let length = "the answer has another length than was asked for";
    for (status, headers, body, what) in [
        ("200 OK", "", 11, length),
        ("200 OK", "", 4, length),
        ("206 Partial Content", "", 4, range),
        ("206 Partial Content", "Content-Range: bytes 0-3/11\r\n", 4, range),
        ("206 Partial Content", "Content-Range: bytes 1-4/10\r\n", 4, range),
        ("206 Partial Content", "Content-Range: bytes 0-4/10\r\n", 5, range),
        ("206 Partial Content", "Content-Range: bytes 0-3/10\r\n", 3, length),
        (
            "206 Partial Content",
            "Content-Range: bytes 0-3/10\r\nX-Linked-Size: 11\r\n",
            4,
            "the file has another length than its list says",
        ),
        ("200 OK", "X-Linked-Etag: \"cd\"\r\n", 10, "the file is another one than its list says"),
        ("200 OK", "Content-Encoding: gzip\r\n", 10, "the bytes are packed, which was not asked for"),
        (
            "416 Range Not Satisfiable",
            "Content-Range: bytes */3\r\n",
            0,
            "the file is shorter than its list says",
        ),
    ] {
        let server = Server::start(move |_| plain(status, headers, &data(body)));
        assert_eq!(opened(&server), Err(HubError::BadAnswer(what)), "{status} {headers} {body}");
    }
    let server = Server::start(|_| plain("206 Partial Content", "Content-Range: bytes 0-3/*\r\n", &data(4)));
    assert_eq!(opened(&server), Ok(()));
}

#[test]
fn a_body_ends_with_its_range_and_nothing_beyond_it_is_waited_for() {
    let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/10\r\n";
    for rest in ["Content-Length: 4\r\n\r\nabcd", "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd", "\r\nabcd"] {
        let server = Server::start(move |_| (format!("{head}{rest}").into_bytes(), Then::Hang));
        let origin = origin(&server);
        let mut connection = origin.connect().unwrap();
        assert_eq!(read(&mut *connection, &file(&data(10)), 0..4), Ok((0, b"abcd".to_vec())), "{rest}");
    }
}

/// What reading ends in after the first two of four bytes.
fn broken_off(then: fn() -> Then, stall: Duration, cut: &Cut, when: impl FnOnce()) -> ErrorKind {
    let server = Server::start(move |_| {
        let head =
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Range: bytes 0-3/10\r\n\r\nab";
        (head.as_bytes().to_vec(), then())
    });
    let origin = hub(&server, LONG, stall).origin(&model("hf:org/repo"), COMMIT, cut);
    let mut connection = origin.connect().unwrap();
    let mut body = connection.open(&file(&data(10)), 0..4).unwrap();
    let mut first = [0; 2];
    body.bytes.read_exact(&mut first).unwrap();
    when();
    body.bytes.read(&mut [0; 2]).unwrap_err().kind()
}

#[test]
fn a_body_that_breaks_off_or_stalls_is_an_error() {
    assert_eq!(broken_off(|| Then::Close, LONG, &Cut::default(), || {}), ErrorKind::UnexpectedEof);
    assert_eq!(broken_off(|| Then::Hang, SHORT, &Cut::default(), || {}), ErrorKind::TimedOut);
}

#[test]
fn a_cut_ends_a_body_and_a_question() {
    let cut = Cut::default();
    let late = cut.clone();
    let mut cutter = None;
    let ended = broken_off(
        || Then::Hang,
        LONG,
        &cut,
        || {
            cutter = Some(std::thread::spawn(move || late.cut()));
        },
    );
    assert_eq!(ended, ErrorKind::TimedOut);
    assert!(cut.is_cut());
    cutter.unwrap().join().unwrap();

    let cut = Cut::default();
    let late = cut.clone();
    let server = Server::start(move |_| {
        late.cut();
        (Vec::new(), Then::Hang)
    });
    let hub = hub(&server, LONG, LONG);
    assert_eq!(hub.revision(&model("hf:org/repo"), &cut, later()), Err(HubError::Cut));
    assert_eq!(
        hub.revision(&model("hf:org/repo"), &cut, later()),
        Err(HubError::Cut),
        "and what begins later"
    );
}

#[test]
fn a_hub_that_says_nothing_or_the_same_for_ever_is_given_up() {
    let server = Server::start(|_| (Vec::new(), Then::Hang));
    let found = hub(&server, SHORT, LONG).revision(&model("hf:org/repo"), &Cut::default(), later());
    assert_eq!(found, Err(HubError::Stalled));
    let server = with_tree(|_| (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[".to_vec(), Then::Hang));
    let found = hub(&server, SHORT, LONG).revision(&model("hf:org/repo"), &Cut::default(), later());
    assert_eq!(found, Err(HubError::Stalled));
}

#[test]
fn a_body_that_trickles_ends_when_nobody_waits_any_more() {
    // Zeros without end: each read brings something.
    let server = Server::start(|_| {
        (b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1048575/1099511627776\r\nContent-Length: 1048576\r\n\r\n0".to_vec(), Then::Hang)
    });
    let endless = RemoteFile { bytes: 1 << 40, ..file(&[]) };
    let until = Instant::now() + SHORT;
    let mut reader = hub(&server, LONG, LONG)
        .reader(&model("hf:org/repo"), COMMIT, &endless, &Cut::default(), until)
        .unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    assert_eq!(reader.failed(), Some(HubError::Stalled));
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_no_failure() {
    let whole = data(10);
    let bytes = whole.clone();
    let server = Server::start(move |asked| match asked.before {
        // It takes the next request and closes without an answer.
        1 => (Vec::new(), Then::Close),
        _ => part(&bytes, asked),
    });
    let origin = origin(&server);
    let mut connection = origin.connect().unwrap();
    for range in [0..4, 4..10] {
        assert!(read(&mut *connection, &file(&whole), range).is_ok());
    }
    assert_eq!(server.connections(), 2);
    // Over a new connection it is one.
    let server = Server::start(|_| (Vec::new(), Then::Close));
    assert_eq!(opened(&server), Err(HubError::Broken(ErrorKind::UnexpectedEof)));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_body_that_is_dropped_closes_its_connection() {
    let whole = data(1000);
    let bytes = whole.clone();
    let server = Server::start(move |asked| part(&bytes, asked));
    let origin = origin(&server);
    let mut connection = origin.connect().unwrap();
    let mut body = connection.open(&file(&whole), 0..1000).unwrap();
    body.bytes.read_exact(&mut [0; 10]).unwrap();
    drop(body);
    assert_eq!(read(&mut *connection, &file(&whole), 0..10), Ok((0, whole[..10].to_vec())));
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_header_is_read_in_growing_windows_and_no_further_than_it_is_long() {
    const MIB: usize = 1024 * 1024;
    let whole = data(8 * MIB);
    let bytes = whole.clone();
    let server = Server::start(move |asked| part(&bytes, asked));
    let hub = hub(&server, LONG, LONG);
    let reader =
        || hub.reader(&model("hf:org/repo"), COMMIT, &file(&whole), &Cut::default(), later()).unwrap();
    let mut all = Vec::new();
    reader().read_to_end(&mut all).unwrap();
    assert!(all == whole);
    let windows: Vec<_> = server.asked().iter().map(|asked| asked.range()).collect();
    assert_eq!(windows, [0..MIB, MIB..3 * MIB, 3 * MIB..7 * MIB, 7 * MIB..8 * MIB]);
    assert_eq!(server.connections(), 1);
    reader().read_exact(&mut [0; 100]).unwrap();
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn a_reader_ends_at_its_limit_and_tells_what_the_hub_did() {
    let hub_of = |server: &Server| hub(server, LONG, LONG);
    let huge = RemoteFile { bytes: 2 * HUB_HEADER_BYTES_MAX, ..file(&[]) };
    // A server without ranges, whose file has no end.
    let server = Server::start(|_| ([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[0; 0x40000]].concat(), Then::Repeat));
    let mut reader =
        hub_of(&server).reader(&model("hf:org/repo"), COMMIT, &huge, &Cut::default(), later()).unwrap();
    let read = std::io::copy(&mut (&mut reader).take(HUB_HEADER_BYTES_MAX), &mut std::io::sink());
    assert_eq!(read.unwrap(), HUB_HEADER_BYTES_MAX);
    assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!((reader.failed(), server.asked().len()), (None, 1));

    let server = Server::start(|_| plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b""));
    let mut reader =
        hub_of(&server).reader(&model("hf:org/repo"), COMMIT, &huge, &Cut::default(), later()).unwrap();
    assert!(reader.read(&mut [0]).is_err() && reader.read(&mut [0]).is_err());
    assert_eq!((reader.failed(), server.asked().len()), (Some(HubError::NoFile), 1));
}

#[test]
fn a_proxy_is_a_tunnel_that_sees_no_token_of_its_own() {
    let whole = data(10);
    let bytes = whole.clone();
    let proxy = Server::start(move |asked| match &*asked.target {
        "hub.invalid:80" => (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), Then::Keep),
        _ => part(&bytes, asked),
    });
    let config = HubConfig::from_env(&|name| match name {
        "HF_ENDPOINT" => Some("http://hub.invalid/mirror/".into()),
        "HF_TOKEN" => Some("hf_s3cret".into()),
        "HTTP_PROXY" => Some(proxy.url("").into()),
        _ => None,
    });
    let origin = Hub::new(config.unwrap()).origin(&model("hf:org/repo"), COMMIT, &Cut::default());
    let mut connection = origin.connect().unwrap();
    for range in [0..4, 4..10] {
        assert!(read(&mut *connection, &file(&whole), range).is_ok());
    }
    let target = format!("/mirror/org/repo/resolve/{COMMIT}/q%204/m.gguf");
    assert_eq!(proxy.targets(), ["hub.invalid:80", &target, &target]);
    let shown: Vec<_> = proxy.asked().iter().map(|asked| asked.header("authorization").is_some()).collect();
    assert_eq!(shown, [false, true, true]);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn what_speaks_no_tls_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Until the other side has had enough.
        while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
    });
    let config = HubConfig::from_env(&|name| (name == "HF_ENDPOINT").then(|| url.clone().into())).unwrap();
    let found = Hub::new(config).revision(&model("hf:org/repo"), &Cut::default(), later());
    assert_eq!(found, Err(HubError::BadAnswer("it speaks no TLS, or its certificate is not one to trust")));
    server.join().unwrap();
}
