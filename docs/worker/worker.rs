//! A whole native worker of rbee-hive in the standard library alone: it answers with a text's words in reverse.
//!
//! SIGTERM ends it as it ends every program that does not catch it.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static LOADED: AtomicBool = AtomicBool::new(false);
static FREE: AtomicU32 = AtomicU32::new(0);

/// The argument behind `--name`.
fn arg(name: &str) -> Option<String> {
    env::args().skip_while(|arg| arg.strip_prefix("--") != Some(name)).nth(1)
}

fn needed(name: &str) -> String {
    arg(name).unwrap_or_else(|| panic!("--{name} is needed"))
}

fn token() -> String {
    env::var("RBEE_WORKER_TOKEN").expect("a hive sets RBEE_WORKER_TOKEN")
}

/// `{"name":"value",…}`, with `more` as it stands.
fn object(texts: &[(&str, &str)], more: &str) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let fields: Vec<_> =
        texts.iter().map(|(name, text)| format!("\"{name}\":\"{}\"", escape(text))).collect();
    format!("{{{},{more}}}", fields.join(","))
}

/// Whether the hive answered 200: it may be away, slow or wrong for a while.
fn call(path: &str, body: &str) -> bool {
    let answer = || -> Result<String, Box<dyn Error>> {
        let url = needed("hive-url");
        let host = url.strip_prefix("http://").ok_or("no http:// URL")?.trim_end_matches('/');
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            token(),
            body.len()
        )?;
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status)?;
        Ok(status)
    };
    let answer = answer().unwrap_or_else(|error| error.to_string());
    let heard = answer.split(' ').nth(1) == Some("200");
    if !heard {
        eprintln!("not heard path={path} answer={answer:?}");
    }
    heard
}

fn tell(addr: &str, changed: &Receiver<()>) {
    // Here a model would be loaded.
    std::fs::metadata(needed("model")).expect("the model is there");
    LOADED.store(true, SeqCst);
    let (id, slots) = (needed("worker-id"), FREE.load(SeqCst));
    let [model_ref, backend, device] = ["model-ref", "backend", "device"].map(needed);
    let url = format!("http://{addr}");
    let texts = [
        ("worker_id", &*id),
        ("url", &url),
        ("model_ref", &model_ref),
        ("backend", &backend),
        ("device", &device),
    ];
    while !call("/v1/workers/ready", &object(&texts, &format!("\"slots_total\":{slots}"))) {
        sleep(Duration::from_secs(1));
    }
    let pause = arg("heartbeat").map_or(30.0, |text| text.parse().expect("--heartbeat is in seconds"));
    loop {
        let free = FREE.load(SeqCst);
        let state = if free == 0 { "busy" } else { "ready" };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let texts =
            [("worker_id", &*id), ("timestamp", &now), ("health_status", "healthy"), ("state", state)];
        let heard = call(
            "/v1/heartbeat",
            &object(&texts, &format!("\"slots_total\":{slots},\"slots_available\":{free}")),
        );
        let pause = if heard { pause } else { f64::min(pause, 5.0) };
        let _ = changed.recv_timeout(Duration::from_secs_f64(pause)); // woken: the next heartbeat goes out now
    }
}

fn serve(stream: TcpStream, changed: &Sender<()>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let (mut first, mut length, mut bearer) = (String::new(), 0, String::new());
    lines.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => bearer = value.to_owned(),
            _ => {}
        }
    }
    let mut body = String::new();
    lines.by_ref().take(length).read_to_string(&mut body)?;
    let target = first.rsplit_once(' ').map_or("", |(target, _)| target);
    let may_leave = bearer == format!("Bearer {}", token());
    let slot = |n: u32| n.checked_sub(1);
    let (status, text) = match target {
        "GET /health" if LOADED.load(SeqCst) => ("200 OK", "ok".to_owned()),
        "GET /health" => ("503 Service Unavailable", "loading".to_owned()),
        "POST /v1/shutdown" if may_leave => ("200 OK", String::new()),
        "POST /v1/shutdown" => ("401 Unauthorized", String::new()),
        "POST /v1/reverse" if FREE.fetch_update(SeqCst, SeqCst, slot).is_ok() => {
            let _ = changed.send(());
            let words: Vec<&str> = body.split_whitespace().rev().collect();
            sleep(Duration::from_millis(100) * u32::try_from(words.len()).unwrap_or(u32::MAX));
            FREE.fetch_add(1, SeqCst);
            let _ = changed.send(());
            ("200 OK", words.join(" "))
        }
        "POST /v1/reverse" => ("503 Service Unavailable", "no slot is free".to_owned()),
        _ => ("404 Not Found", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    lines.get_mut().write_all((head + &text).as_bytes())?;
    if target == "POST /v1/shutdown" && may_leave {
        exit(0);
    }
    Ok(())
}

fn main() {
    FREE.store(arg("slots").map_or(1, |text| text.parse().expect("--slots is a number")), SeqCst);
    let addr = format!("{}:{}", arg("host").as_deref().unwrap_or("127.0.0.1"), needed("port"));
    let listener = TcpListener::bind(&addr).expect("the port is free");
    let (changed, changes) = channel();
    spawn(move || {
        // A worker that cannot load or tell ends, so that the hive sees it.
        let told = std::panic::catch_unwind(|| tell(&addr, &changes));
        exit(if told.is_ok() { 0 } else { 1 });
    });
    for stream in listener.incoming().flatten() {
        let changed = changed.clone();
        spawn(move || serve(stream, &changed));
    }
}
