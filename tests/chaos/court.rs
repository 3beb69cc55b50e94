//! A queen who comes and goes, at one address.

use std::collections::BTreeSet;
use std::net::TcpListener;

use rbee_hive::mock::queen::{Options, Queen};
use rbee_hive::mock::rude;
use rbee_hive::thread::Joined;

use crate::action::Mood;
use crate::checks::{essence, settles};

pub struct Court {
    port: u16,
    is: Is,
}

/// She is so as long as it is held.
enum Is {
    Queen(Queen),
    Rude(#[expect(dead_code, reason = "it is held, not read")] Joined),
    Away,
}

impl Court {
    /// One whose queen is away.
    pub fn new(port: u16) -> Self {
        Self { port, is: Is::Away }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The workers of the last heartbeat that she took.
    pub fn known(&self) -> Option<BTreeSet<String>> {
        let Is::Queen(queen) = &self.is else { return None };
        let beat = queen.hives().pop()?;
        Some(essence(&serde_json::to_value(beat.workers).unwrap()))
    }

    pub fn set(&mut self, mood: Mood) {
        let fault = match mood {
            Mood::Answers(status) => Some(status),
            _ => None,
        };
        if let (Is::Queen(queen), Mood::Answers(_) | Mood::Well) = (&self.is, mood) {
            return queen.set_fault(fault);
        }
        self.is = Is::Away;
        let rude = |manner| Is::Rude(rude::serve(self.listen(), manner).unwrap());
        self.is = match mood {
            Mood::Away => Is::Away,
            Mood::Hangs => rude(rude::Manner::Hang),
            Mood::Garbage => rude(rude::Manner::Garbage),
            Mood::Resets => rude(rude::Manner::Reset),
            Mood::Well | Mood::Answers(_) => {
                Is::Queen(Queen::start(self.listen(), Options { fault, ..Options::default() }).unwrap())
            }
        };
    }

    fn listen(&self) -> TcpListener {
        let mut listener = None;
        settles("her port is free again", || match TcpListener::bind(("127.0.0.1", self.port)) {
            Ok(bound) => {
                listener = Some(bound);
                None
            }
            Err(error) => Some(error.to_string()),
        });
        listener.unwrap()
    }
}
