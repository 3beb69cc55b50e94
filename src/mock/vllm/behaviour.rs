//! How a stand-in for vLLM behaves, by name: what `MOCK_VLLM` holds, separated by commas.

use std::time::Duration;

use crate::duration;
use crate::mock::worker::leftover::Manner;

/// Names and meanings, as `--help` shows them.
pub const BEHAVIOUR_HELP: &str = "  load=DUR           nobody listens for so long (default 0s)
  moves=WHAT         what goes on meanwhile: log (default), memory, bytes or nothing
  child=MANNER       repeatable: leaves a further child, in a session of its own (session), with its
                     environment set aside (bare), or both (session+bare)
  retitled           sets its own environment aside as setproctitle does, unless SPT_NOENV is set
";

/// What shows that it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moves {
    /// Lines in its log.
    #[default]
    Log,
    /// Memory that it takes.
    Memory,
    /// Bytes that it reads.
    Bytes,
    /// None of these.
    Nothing,
}

/// How it behaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// How long nobody listens.
    pub load: Duration,
    /// What goes on meanwhile.
    pub moves: Moves,
    /// Children beside the ranks.
    pub children: Vec<Manner>,
    /// It overwrites its environment.
    pub retitled: bool,
}

impl Behaviour {
    /// Reads a list that is separated by commas; empty entries are none.
    ///
    /// # Errors
    /// What is wrong with the first entry that is wrong, for a person.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut behaviour = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || format!("{entry:?} is unknown, or its value is wrong");
            match entry.split_once('=') {
                Some(("load", time)) => behaviour.load = duration::parse(time).ok_or_else(wrong)?,
                Some(("moves", "log")) => behaviour.moves = Moves::Log,
                Some(("moves", "memory")) => behaviour.moves = Moves::Memory,
                Some(("moves", "bytes")) => behaviour.moves = Moves::Bytes,
                Some(("moves", "nothing")) => behaviour.moves = Moves::Nothing,
                Some(("child", manner)) => {
                    behaviour.children.push(match manner {
                        "session" => Manner { own_session: true, bare: false },
                        "bare" => Manner { own_session: false, bare: true },
                        "session+bare" => Manner { own_session: true, bare: true },
                        _ => return Err(wrong()),
                    });
                }
                None if entry == "retitled" => behaviour.retitled = true,
                _ => return Err(wrong()),
            }
        }
        Ok(behaviour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_mistakes_are_named() {
        let both = Manner { own_session: true, bare: true };
        let read = Behaviour::parse("load=250ms, moves=bytes,,child=session+bare,retitled");
        let wanted = Behaviour {
            load: Duration::from_millis(250),
            moves: Moves::Bytes,
            children: vec![both],
            retitled: true,
        };
        assert_eq!(read, Ok(wanted));
        for wrong in ["load", "load=soon", "moves=fast", "child=gone", "retitled=1", "loud"] {
            assert!(Behaviour::parse(wrong).unwrap_err().contains(wrong));
        }
        for name in ["load=", "moves=", "child=", "retitled"] {
            assert!(BEHAVIOUR_HELP.contains(name), "{name}");
        }
    }
}
