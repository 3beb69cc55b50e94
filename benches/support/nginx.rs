//! nginx as a peer, tuned to do nothing but answer; in a folder of its own, ended with it.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Kept, installed};

pub struct Nginx {
    child: Child,
    pub address: SocketAddr,
    /// From its launch to its first answer.
    pub started_in: Duration,
    _folder: TempDir,
}

impl Nginx {
    /// From its memory; from an open file on tmpfs, read or sent.
    pub const WAYS: [&str; 3] = ["return", "file", "sendfile"];

    /// Serves each body in all of [`WAYS`](Self::WAYS), at `/WAY/N`.
    /// `None`, and a line that says so, if it is not installed.
    pub fn start(bodies: &[&str]) -> Option<Self> {
        let Some(program) = installed("nginx") else {
            println!("\nSKIPPED: nginx is not installed, so that there is nothing to compare with\n");
            return None;
        };
        let folder = match tempfile::tempdir_in("/dev/shm") {
            Ok(folder) => folder,
            Err(_) => tempfile::tempdir().unwrap(),
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let configuration = folder.path().join("nginx.conf");
        std::fs::write(&configuration, configure(folder.path(), address, bodies)).unwrap();
        let began = Instant::now();
        let mut command = Command::new(program);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "nginx does not start");
            std::thread::sleep(Duration::from_micros(200));
        }
        assert_eq!(Kept::connect(address, None).get("/return/0").0, 200);
        Some(Self { child, address, started_in: began.elapsed(), _folder: folder })
    }

    /// Its master.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers.
        super::daemon::kill(self.child.id(), 15);
        let _ = self.child.wait();
    }
}

fn configure(folder: &Path, address: SocketAddr, bodies: &[&str]) -> String {
    let path = folder.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut locations = String::new();
    for (n, body) in bodies.iter().enumerate() {
        assert!(!body.contains(['\'', '$', '\\']), "the body needs no escapes");
        std::fs::write(folder.join(n.to_string()), body).unwrap();
        // A word of the configuration has at most 4 KiB; the bodies are ASCII.
        let (mut words, mut sum) = (String::new(), String::new());
        for (at, word) in body.as_bytes().chunks(3000).enumerate() {
            write!(words, "set $b{n}_{at} '{}'; ", std::str::from_utf8(word).unwrap()).unwrap();
            write!(sum, "$b{n}_{at}").unwrap();
        }
        if body.len() <= 3000 {
            (words, sum) = (String::new(), format!("'{body}'"));
        }
        writeln!(locations, "location = /return/{n} {{ {words} return 200 {sum}; }}").unwrap();
        writeln!(locations, "location = /file/{n} {{ alias {path}/{n}; }}").unwrap();
        writeln!(locations, "location = /sendfile/{n} {{ alias {path}/{n}; sendfile on; }}").unwrap();
    }
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {path}/{what};\n"))
        .concat();
    format!(
        "{user} daemon off; worker_processes 2; worker_rlimit_nofile 16384; pid {path}/pid;
        events {{ worker_connections 8192; }}
        http {{
            {temporary}
            access_log off; server_tokens off; default_type application/json;
            keepalive_timeout 75s; keepalive_requests 1000000000; tcp_nodelay on; sendfile off;
            open_file_cache max=100 inactive=1h; open_file_cache_valid 1h; etag off; max_ranges 0;
            server {{ listen {address}; {locations} }}
        }}"
    )
}
