//! The terminal that stdout is, or is not: how wide it is, and whether it shows colours.

use std::io::{self, IsTerminal as _};

use super::Environment;
use super::help::WIDTH;

/// What stdout shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    /// Columns: a terminal's, else [`WIDTH`].
    pub width: usize,
    /// Whether it shows colours.
    pub has_colours: bool,
}

/// What a colour means here; it is never all that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Doubtful,
    Bad,
    Faint,
}

impl Screen {
    /// Neither a terminal nor one with colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self { width: WIDTH, has_colours: false };

    /// Stdout, with what `NO_COLOR` (<https://no-color.org>) and `TERM` say about it.
    pub fn of_stdout(env: Environment<'_>) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let wants_none = env("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env("TERM").is_none_or(|term| term == "dumb");
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|_| is_terminal);
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { width: columns.unwrap_or(WIDTH), has_colours: is_terminal && !wants_none }
    }

    /// `text` in that colour.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        // ECMA-48, SGR.
        let code = match colour {
            Colour::Good => 32,
            Colour::Doubtful => 33,
            Colour::Bad => 31,
            Colour::Faint => 2,
        };
        if self.has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
