//! The probe child: this program, started by the hive to ask drivers in its place.
//!
//! A line on stdin asks, a line of JSON on stdout answers. It ends when stdin does, also in the middle of a
//! look, so that it does not outlive the hive; and after an answer that there is no driver.

use std::ffi::OsString;
use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::nvml::NvmlProbe;
use super::probe::{Card, Failed, Probe};
use super::smi::SmiProbe;
use super::sysfs::SysfsProbe;
use crate::limits;
use crate::thread::Joined;

/// The command that starts it; not in any help. Its arguments are the library of NVML, the command of
/// NVIDIA, and the root of sysfs.
pub const COMMAND: &str = "probe-gpus";

pub(super) const QUESTION: &[u8] = b"look\n";

/// What the child found.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub cards: Vec<Card>,
    /// NVIDIA's driver is there and does not answer as it should.
    pub broken: Option<String>,
    /// For the log: each source that has nothing to tell, and why.
    pub notes: Vec<String>,
}

impl Answer {
    /// Whether there is a driver at all.
    pub fn is_driver_there(&self) -> bool {
        self.broken.is_some() || !self.cards.is_empty()
    }
}

/// Answers until stdin ends.
pub fn main(args: &[OsString]) -> ExitCode {
    let path = |at: usize| args.get(at).map(PathBuf::from).unwrap_or_default();
    let mut drivers = Drivers {
        nvml: NvmlProbe::new(path(0)),
        smi: SmiProbe::new(path(1)),
        sysfs: SysfsProbe::new(path(2)),
    };
    let (ask, asked) = crossbeam_channel::bounded(1);
    let answering = Joined::spawn(
        "drivers",
        || {},
        move || {
            for () in asked {
                let answer = drivers.look();
                if say(&answer).is_err() || !answer.is_driver_there() {
                    std::process::exit(0);
                }
            }
        },
    );
    let Ok(answering) = answering else { return ExitCode::FAILURE };
    for line in io::stdin().lock().split(b'\n') {
        // The hive asks again only after an answer.
        if line.is_err() || ask.try_send(()).is_err() {
            break;
        }
    }
    // Not joined: it may hang in a driver. With the group goes a command that it runs.
    std::mem::forget(answering);
    if rustix::process::getpgrp() == rustix::process::getpid() {
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    }
    std::process::exit(0)
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

struct Drivers {
    nvml: NvmlProbe,
    smi: SmiProbe,
    sysfs: SysfsProbe,
}

impl Drivers {
    /// NVIDIA's cards by library, else by command; and AMD's, which may sit beside them.
    fn look(&mut self) -> Answer {
        let (mut cards, mut notes, mut broken) = (Vec::new(), Vec::new(), None);
        let mut take = |probe: &mut dyn Probe<Facts = Vec<Card>>| {
            let failed = probe.look().map(|mut seen| cards.append(&mut seen)).err()?;
            let note = format!("{} {failed}", probe.name());
            notes.push(note.clone());
            Some((failed, note))
        };
        if let Some(library) = take(&mut self.nvml)
            && let Some(command) = take(&mut self.smi)
        {
            let is_broken = |(failed, note)| matches!(failed, Failed::Broken(_)).then_some(note);
            broken = is_broken(library).or_else(|| is_broken(command));
        }
        take(&mut self.sysfs);
        cards.truncate(limits::GPUS_MAX);
        Answer { cards, broken, notes }
    }
}
