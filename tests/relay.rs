//! The relay against queens that are away, slow, wrong or rude: the newest picture arrives when they are
//! well again, and the end of the relay never takes long.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rbee_hive::api::{Heartbeat, HiveStatus};
use rbee_hive::health::Conditions;
use rbee_hive::id::Token;
use rbee_hive::mock::queen;
use rbee_hive::relay::{Relay, RelayConfig};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Against hanging; no test gets near it.
const LONG: Duration = Duration::from_secs(60);
/// Short, for then the backoff is short as well.
const OFTEN: Duration = Duration::from_millis(100);
/// So long that only changes cause posts.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The hive's side: pictures are numbered, and the number travels as the timestamp.
struct Hive {
    relay: Relay,
    picture: Arc<AtomicU64>,
}

impl Hive {
    fn of(scheme: &str, queen: SocketAddr, interval: Duration) -> Self {
        let picture = Arc::new(AtomicU64::new(0));
        let newest = Arc::clone(&picture);
        let config = RelayConfig {
            url: format!("{scheme}://{queen}").parse().unwrap(),
            token: Token::parse("s3cret"),
            interval,
            conditions: Conditions::new().unwrap(),
        };
        let newest = Box::new(move || heartbeat(newest.load(Ordering::SeqCst), HiveStatus::Ready));
        Self { relay: Relay::start(config, newest).unwrap(), picture }
    }

    fn start(queen: SocketAddr, interval: Duration) -> Self {
        Self::of("http", queen, interval)
    }

    fn paints(&self, picture: u64) {
        self.picture.store(picture, Ordering::SeqCst);
        self.relay.changed();
    }

    /// Ends the relay on another thread, so that a hang is a failure and not a hang of the test.
    fn finishes(self) {
        let (done, finished) = unbounded();
        std::thread::spawn(move || {
            self.relay.finish(heartbeat(u64::MAX, HiveStatus::Stopped));
            done.send(()).unwrap();
        });
        finished.recv_timeout(LONG).expect("the end of the relay is bounded");
    }
}

fn heartbeat(picture: u64, status: HiveStatus) -> Heartbeat {
    Heartbeat {
        hive_id: "h".into(),
        timestamp: picture.to_string(),
        status,
        url: "http://127.0.0.1:1".into(),
        version: "0".into(),
        boot_id: "b".into(),
        sequence: 0,
        workers: Vec::new(),
    }
}

/// A post as the queen read it.
#[derive(Debug)]
struct Post {
    head: String,
    heartbeat: Heartbeat,
}

impl Post {
    fn picture(&self) -> u64 {
        self.heartbeat.timestamp.parse().unwrap()
    }
}

/// Reads one post; none when the connection ends.
fn read_post(stream: &mut TcpStream) -> Option<Post> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.expect("a post has a length")];
    stream.read_exact(&mut body).ok()?;
    Some(Post { head, heartbeat: serde_json::from_slice(&body).unwrap() })
}

/// Serves a connection as a queen should, until it ends.
fn serve(mut stream: TcpStream, posts: &Sender<Post>) {
    while let Some(post) = read_post(&mut stream) {
        // Answered first: whoever has the post knows that the relay has, or will have, the answer.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        if posts.send(post).is_err() {
            return;
        }
    }
}

/// A queen that treats her first connections as `faults` say and all others well.
struct Queen {
    addr: SocketAddr,
    posts: Receiver<Post>,
}

type Fault = Box<dyn FnOnce(TcpStream) + Send>;

impl Queen {
    fn with(faults: Vec<Fault>) -> Self {
        Self::listening(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), faults)
    }

    fn listening(listener: TcpListener, faults: Vec<Fault>) -> Self {
        let addr = listener.local_addr().unwrap();
        let (posts, received) = unbounded();
        std::thread::spawn(move || {
            let mut faults = faults.into_iter();
            for stream in listener.incoming() {
                match faults.next() {
                    Some(fault) => fault(stream.unwrap()),
                    None => serve(stream.unwrap(), &posts),
                }
            }
        });
        Self { addr, posts: received }
    }

    /// Waits for `picture`; what comes before it is older.
    fn gets(&self, picture: u64) -> Post {
        loop {
            let post = self.posts.recv_timeout(LONG).expect("the newest picture arrives");
            assert!(post.picture() <= picture);
            if post.picture() == picture {
                return post;
            }
        }
    }
}

/// Answers the first post with `bytes` and closes.
fn answering(bytes: &'static [u8]) -> Fault {
    Box::new(move |mut stream| {
        read_post(&mut stream);
        let _ = stream.write_all(bytes);
    })
}

/// Answers with `head`, then with `again` for as long as somebody listens.
fn endless(head: &'static [u8], again: &'static [u8]) -> Fault {
    Box::new(move |mut stream| {
        read_post(&mut stream);
        let _ = stream.write_all(head);
        while stream.write_all(again).is_ok() {}
    })
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// A socket that has a port and refuses, until it listens.
fn refusing() -> (OwnedFd, SocketAddr) {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let addr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, addr)
}

/// Three wrong connections, then right ones: the picture of the meantime arrives, and the end is heard.
fn recovers_from(fault: fn() -> Fault) {
    let queen = Queen::with((0..3).map(|_| fault()).collect());
    let hive = Hive::start(queen.addr, OFTEN);
    hive.paints(7);
    assert!(queen.gets(7).heartbeat.sequence <= 64, "failures back off");
    hive.finishes();
    assert_eq!(queen.gets(u64::MAX).heartbeat.status, HiveStatus::Stopped);
}

#[test]
fn a_queen_that_answers_500_gets_the_newest_picture_later() {
    recovers_from(|| answering(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"));
}

#[test]
fn a_queen_that_answers_garbage_gets_the_newest_picture_later() {
    recovers_from(|| answering(b"\0\xff\x1b[2J one does not speak HTTP here\r\n\r\n"));
}

#[test]
fn a_queen_that_breaks_off_in_a_head_gets_the_newest_picture_later() {
    recovers_from(|| answering(b"HTTP/1.1 200 OK\r\nContent-"));
}

#[test]
fn a_queen_that_resets_gets_the_newest_picture_later() {
    recovers_from(|| Box::new(reset));
}

#[test]
fn a_head_without_end_is_given_up() {
    recovers_from(|| endless(b"HTTP/1.1 200 OK\r\n", b"X-Again: and again\r\n"));
}

#[test]
fn a_body_without_end_is_not_read_to_its_end() {
    recovers_from(|| endless(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", &[b'.'; 4096]));
}

#[test]
fn a_body_that_breaks_off_costs_the_connection_alone() {
    recovers_from(|| answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"mess"));
}

#[test]
fn an_absent_queen_costs_nothing_and_is_told_when_she_comes() {
    let (socket, addr) = refusing();
    let hive = Hive::start(addr, OFTEN);
    for picture in 1..=100_000 {
        hive.paints(picture);
    }
    rustix::net::listen(&socket, 8).unwrap();
    let queen = Queen::listening(socket.into(), Vec::new());
    assert!(queen.gets(100_000).heartbeat.sequence < 1_000, "changes are not queued");
}

#[test]
fn the_end_does_not_wait_for_an_absent_queen() {
    let (_socket, addr) = refusing();
    Hive::start(addr, OFTEN).finishes();
}

#[test]
fn a_queen_that_hangs_gets_the_newest_picture_when_she_lets_go() {
    let (let_go, released) = unbounded::<()>();
    let (hung, hanging) = unbounded();
    let queen = Queen::with(vec![Box::new(move |mut stream| {
        hung.send(read_post(&mut stream)).unwrap();
        let _ = released.recv();
    })]);
    let hive = Hive::start(queen.addr, OFTEN);
    hanging.recv_timeout(LONG).unwrap();
    hive.paints(9);
    drop(let_go);
    queen.gets(9);
}

/// A queen whose first connection hangs for ever.
fn hanging_once() -> (Queen, Receiver<()>) {
    let (hung, hanging) = unbounded();
    let queen = Queen::with(vec![Box::new(move |stream| {
        hung.send(()).unwrap();
        std::mem::forget(stream);
    })]);
    (queen, hanging)
}

#[test]
fn a_post_that_hangs_is_cut_and_the_last_word_still_arrives() {
    let (queen, hanging) = hanging_once();
    let hive = Hive::start(queen.addr, NEVER);
    hanging.recv_timeout(LONG).unwrap();
    hive.finishes();
    let last = queen.gets(u64::MAX);
    assert_eq!((last.heartbeat.status, last.heartbeat.sequence), (HiveStatus::Stopped, 2));
}

#[test]
fn a_handshake_that_hangs_is_cut() {
    let (queen, hanging) = hanging_once();
    let hive = Hive::of("https", queen.addr, NEVER);
    hanging.recv_timeout(LONG).unwrap();
    hive.finishes();
}

#[test]
fn dropping_the_relay_gives_a_hanging_post_up() {
    let (queen, hanging) = hanging_once();
    let hive = Hive::start(queen.addr, NEVER);
    hanging.recv_timeout(LONG).unwrap();
    drop(hive);
}

/// A socket whose backlog is full, and what fills it: a connect to it hangs.
fn full() -> (OwnedFd, SocketAddr, Vec<OwnedFd>) {
    let (socket, addr) = refusing();
    rustix::net::listen(&socket, 0).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fill = (0..8).map(|_| {
        let client = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let _ = rustix::net::connect(&client, &addr);
        client
    });
    let fill = fill.collect();
    (socket, addr, fill)
}

#[test]
fn a_queen_that_never_accepts_gets_the_newest_picture_once_she_does() {
    let (socket, addr, fill) = full();
    let hive = Hive::start(addr, OFTEN);
    hive.paints(3);
    drop(fill);
    let queen = Queen::listening(socket.into(), Vec::new());
    queen.gets(3);
}

#[test]
fn a_connect_that_hangs_is_cut() {
    let (_socket, addr, _fill) = full();
    Hive::start(addr, NEVER).finishes();
}

#[test]
fn a_kept_connection_that_is_reset_is_retried_at_once() {
    let (first, firsts) = unbounded();
    let queen = Queen::with(vec![Box::new(move |mut stream| {
        first.send(read_post(&mut stream)).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        first.send(read_post(&mut stream)).unwrap();
        reset(stream);
    })]);
    let hive = Hive::start(queen.addr, NEVER);
    assert_eq!(firsts.recv_timeout(LONG).unwrap().unwrap().heartbeat.sequence, 1);
    hive.paints(1);
    assert_eq!(firsts.recv_timeout(LONG).unwrap().unwrap().heartbeat.sequence, 2);
    assert_eq!(queen.gets(1).heartbeat.sequence, 2, "the same heartbeat once more, not the next one");
}

#[test]
fn a_connection_closed_between_posts_is_replaced() {
    let queen = Queen::with(vec![answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]);
    let hive = Hive::start(queen.addr, OFTEN);
    hive.paints(2);
    queen.gets(2);
}

#[test]
fn a_burst_of_changes_is_a_few_posts_over_one_connection() {
    let queen = Queen::with(Vec::new());
    let hive = Hive::start(queen.addr, NEVER);
    for picture in 1..=10_000 {
        hive.paints(picture);
    }
    // The queen serves one connection at a time: what arrives came over the first.
    let post = queen.gets(10_000);
    assert!(post.heartbeat.sequence < 1_000, "sequence {}", post.heartbeat.sequence);
}

#[test]
fn a_post_carries_path_and_token_and_grows_in_sequence() {
    let queen = Queen::with(Vec::new());
    let _hive = Hive::start(queen.addr, OFTEN);
    for sequence in 1..=3 {
        let post = queen.posts.recv_timeout(LONG).unwrap();
        assert_eq!(post.heartbeat.sequence, sequence);
        assert!(post.head.starts_with("POST /heartbeat HTTP/1.1\r\n"), "{}", post.head);
        assert!(
            post.head.to_ascii_lowercase().contains("\r\nauthorization: bearer s3cret\r\n"),
            "{}",
            post.head
        );
    }
}

#[test]
fn a_redirect_is_a_failure_and_is_not_followed() {
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = elsewhere.local_addr().unwrap();
    let queen = Queen::with(vec![Box::new(move |mut stream| {
        read_post(&mut stream);
        let answer =
            format!("HTTP/1.1 307 Over There\r\nLocation: http://{location}/\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
    })]);
    let _hive = Hive::start(queen.addr, OFTEN);
    assert_eq!(queen.posts.recv_timeout(LONG).unwrap().heartbeat.sequence, 2);
    assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_mock_queen_hears_the_last_word_after_a_fault() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let options = queen::Options { token: Token::parse("s3cret"), fault: Some(503), print: false };
    let queen = queen::Queen::start(listener, options).unwrap();
    let hive = Hive::start(queen.addr(), OFTEN);
    hive.paints(4);
    queen.set_fault(None);
    queen.heartbeats().find(LONG, |beat| beat.timestamp == "4").expect("the newest picture arrives");
    hive.finishes();
    assert_eq!(queen.hives()[0].status, HiveStatus::Stopped);
}
