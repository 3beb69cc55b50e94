//! The time in which nobody listens, and what moves meanwhile.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::behaviour::{Behaviour, Moves};
use crate::limits::{MOCK_VLLM_MEMORY_MAX, MOCK_VLLM_STEP};

/// How the loading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The model is there.
    Loaded,
    /// It is to exit.
    Asked,
}

/// Bytes that are taken or read in one step.
const PIECE: usize = 256 * 1024;

/// Loads for as long as `behaviour` says, or until it is to end.
pub(super) fn load(behaviour: &Behaviour, ends: &Receiver<&'static str>) -> io::Result<Ended> {
    let began = Instant::now();
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut block = vec![0; PIECE];
    let mut steps = 0u64;
    loop {
        let left = behaviour.load.saturating_sub(began.elapsed());
        if left == Duration::ZERO {
            return Ok(Ended::Loaded);
        }
        match ends.recv_timeout(left.min(MOCK_VLLM_STEP)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(Ended::Asked),
        }
        steps += 1;
        match behaviour.moves {
            Moves::Log => eprintln!("INFO loading step={steps}"),
            Moves::Memory if held.len() * PIECE < MOCK_VLLM_MEMORY_MAX => held.push(vec![1; PIECE]),
            // What can be held is held: it gives back, and takes again.
            Moves::Memory => held.clear(),
            // The program itself is a file that is there.
            Moves::Bytes => File::open("/proc/self/exe")?.read_exact(&mut block)?,
            Moves::Nothing => {}
        }
    }
}
