//! A whole native worker of rbee-hive, standard library alone. It answers with a text's words in reverse.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{self, Thread, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, process};

static FREE: AtomicU32 = AtomicU32::new(0);

/// The argument behind `--name`.
fn arg(name: &str) -> Option<String> {
    env::args().skip_while(|arg| arg.strip_prefix("--") != Some(name)).nth(1)
}

fn bearer() -> String {
    format!("Bearer {}", env::var("RBEE_WORKER_TOKEN").expect("a hive sets RBEE_WORKER_TOKEN"))
}

/// Whether the hive answered 200: it may be away, slow or wrong for a while.
fn call(hive: &str, path: &str, body: &str) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(hive)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "POST {path} HTTP/1.1\r\nHost: {hive}\r\nAuthorization: {}\r\n", bearer())?;
        write!(stream, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())?;
        write!(stream, "Connection: close\r\n\r\n{body}")?;
        io::read_to_string(stream)
    };
    let answer = ask().unwrap_or_else(|error| error.to_string());
    let heard = answer.split(' ').nth(1) == Some("200");
    if !heard {
        eprintln!("not heard path={path} answer={answer:?}");
    }
    heard
}

fn serve(stream: TcpStream, teller: &Thread) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length, mut is_hive) = (String::new(), 0, false);
    stream.read_line(&mut first)?;
    for line in stream.by_ref().lines() {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => is_hive = value == bearer(),
            _ => {}
        }
    }
    let body = io::read_to_string(stream.by_ref().take(length))?;
    let target = first.rsplit_once(' ').map_or("", |(target, _)| target);
    let (status, text) = match target {
        "GET /health" => ("200 OK", String::new()),
        "POST /v1/shutdown" if is_hive => ("200 OK", String::new()),
        "POST /v1/shutdown" => ("401 Unauthorized", String::new()),
        "POST /v1/reverse" if FREE.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1)).is_ok() => {
            teller.unpark();
            let words: Vec<&str> = body.split_whitespace().rev().collect();
            words.iter().for_each(|_| sleep(Duration::from_millis(100)));
            FREE.fetch_add(1, SeqCst);
            teller.unpark();
            ("200 OK", words.join(" "))
        }
        "POST /v1/reverse" => ("503 Service Unavailable", "no slot is free".to_owned()),
        _ => ("404 Not Found", String::new()),
    };
    write!(stream.get_mut(), "HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
    if target == "POST /v1/shutdown" && is_hive {
        process::exit(0);
    }
    Ok(())
}

/// SIGTERM ends it, as it ends every program that does not catch it.
fn main() {
    let needed = |name| arg(name).unwrap_or_else(|| panic!("--{name} is needed"));
    let [id, backend, device, port, url] = ["worker-id", "backend", "device", "port", "hive-url"].map(needed);
    let hive = url.strip_prefix("http://").expect("a hive on this machine has an http:// URL");
    let model_ref = needed("model-ref").replace('\\', "\\\\").replace('"', "\\\"");
    let slots = arg("slots").map_or(1, |text| text.parse().expect("--slots is a number"));
    let pause = arg("heartbeat").map_or(30.0, |text| text.parse().expect("--heartbeat is in seconds"));
    let addr = format!("{}:{port}", arg("host").as_deref().unwrap_or("127.0.0.1"));

    let (listener, teller) = (TcpListener::bind(&addr).expect("the port is free"), thread::current());
    std::fs::metadata(needed("model")).expect("the model is there"); // here it would be loaded
    FREE.store(slots, SeqCst);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let teller = teller.clone();
            thread::spawn(move || serve(stream, &teller));
        }
    });
    let place = format!(r#""url":"http://{addr}","backend":"{backend}","device":"{device}""#);
    let ready = format!(r#"{{"worker_id":"{id}","model_ref":"{model_ref}",{place},"slots_total":{slots}}}"#);
    while !call(hive, "/v1/workers/ready", &ready) {
        sleep(Duration::from_secs(1));
    }
    loop {
        let free = FREE.load(SeqCst);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let state = if free == 0 { "busy" } else { "ready" };
        let work = format!(r#""state":"{state}","slots_total":{slots},"slots_available":{free}"#);
        let body = format!(r#"{{"worker_id":"{id}","timestamp":"{now}","health_status":"healthy",{work}}}"#);
        let heard = call(hive, "/v1/heartbeat", &body);
        // A slot that is taken or free again ends the pause.
        thread::park_timeout(Duration::from_secs_f64(if heard { pause } else { f64::min(pause, 5.0) }));
    }
}
