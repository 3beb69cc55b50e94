//! A line to a hive that breaks on request.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

/// Listens, and hands everything to a hive and back.
pub struct Line {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    listener: Option<JoinHandle<()>>,
}

struct State {
    /// `None`: connections are closed at once.
    hive: Option<SocketAddr>,
    /// Answers that are still to be lost: read from the hive, and their connection closed instead.
    to_lose: usize,
    lost: usize,
    /// Both ends of what is open.
    open: Vec<TcpStream>,
    is_over: bool,
}

impl Line {
    pub fn to(hive: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { hive: Some(hive), to_lose: 0, lost: 0, open: Vec::new(), is_over: false };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let listener = thread::spawn(move || {
            for client in listener.incoming() {
                if shared.lock().unwrap().is_over {
                    break;
                }
                connect(client.unwrap(), &shared);
            }
        });
        Self { address, state, listener: Some(listener) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next so many answers do not arrive: the hive has taken what was asked.
    pub fn lose(&self, answers: usize) {
        self.state().to_lose = answers;
    }

    /// How many answers did not arrive.
    pub fn lost(&self) -> usize {
        self.state().lost
    }

    /// Ends all connections; new ones are made.
    pub fn cut(&self) {
        for end in self.state().open.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// From now on to this hive, or to none.
    pub fn lead_to(&self, hive: Option<SocketAddr>) {
        self.state().hive = hive;
        self.cut();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state().is_over = true;
        self.cut();
        let _ = TcpStream::connect(self.address);
        self.listener.take().unwrap().join().unwrap();
    }
}

fn connect(client: TcpStream, shared: &Arc<Mutex<State>>) {
    let mut state = shared.lock().unwrap();
    let Some(Ok(hive)) = state.hive.map(TcpStream::connect) else { return };
    state.open.extend([client.try_clone().unwrap(), hive.try_clone().unwrap()]);
    drop(state);
    let (to_hive, to_client) = (hive.try_clone().unwrap(), client.try_clone().unwrap());
    let state = Arc::clone(shared);
    thread::spawn(move || carry(client, to_hive, || false));
    thread::spawn(move || {
        carry(hive, to_client, || {
            let mut state = state.lock().unwrap();
            let is_lost = state.to_lose > 0;
            state.to_lose -= usize::from(is_lost);
            state.lost += usize::from(is_lost);
            is_lost
        });
    });
}

/// Hands bytes on until one end closes, or `loses` says that these do not arrive.
fn carry(mut from: TcpStream, mut to: TcpStream, loses: impl Fn() -> bool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if loses() || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
