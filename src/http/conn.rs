//! Bytes become requests. No socket, no clock: whoever owns the connection hands in what has arrived, in
//! pieces of any size, and is told what to do next.
//!
//! ```text
//!          blank lines          Step::Head              Step::Request
//!  Lines ─────────────▶ Lines ─────────────▶ Incoming ─────────────────▶ Lines
//!    └──────── Refusal: answer it, then close ◀─┘
//! ```
//!
//! Invariants:
//! - the same bytes give the same steps, however they are cut into pieces;
//! - nothing is allocated by a length that a client states; all that is kept is bounded by
//!   [`limits`];
//! - framing that two parsers could read differently is refused, never repaired.

mod body;
mod head;
#[cfg(any(test, fuzzing))]
pub(crate) mod pieces;
#[cfg(test)]
mod tests;

use uuid::Uuid;

use self::body::Decoder;
use super::correlation::Correlations;
use super::{ApiError, Code, Head, Request};
use crate::limits;

/// What a connection has received so far of its next request.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The head is not whole. `scanned` bytes of it hold no line end that was not tried.
    Lines { blank: u8, scanned: usize },
    /// The head is whole, the body not yet. Boxed: most connections have none at most times.
    Incoming(Box<Incoming>),
}

#[derive(Debug)]
struct Incoming {
    request: Request,
    framing: Framing,
    decoder: Decoder,
}

/// How the request wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// The request's correlation.
    pub(crate) correlation: Uuid,
    /// HTTP/1.1: knows chunks.
    pub(crate) http_1_1: bool,
    /// The connection may carry another request.
    pub(crate) keep_alive: bool,
    /// HEAD: the answer has no body.
    pub(crate) head_only: bool,
    /// A body follows.
    pub(crate) has_body: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
}

impl Framing {
    /// For an answer to bytes that are no request.
    pub(crate) fn unknown(correlation: Uuid) -> Self {
        Self {
            correlation,
            http_1_1: true,
            keep_alive: false,
            head_only: false,
            has_body: false,
            expects_continue: false,
        }
    }
}

/// What the bytes handed in came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// The request is not whole: hand in the bytes that were not consumed, and more.
    More,
    /// The head is whole, see [`Parser::head`]. Hand in the rest, or nothing, to get the request.
    Head(Framing),
    /// The request is whole; the next one begins after what was consumed.
    Request(Request, Framing),
}

/// Bytes that are no acceptable request: answer and close.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    /// What is wrong.
    pub(crate) error: ApiError,
    /// The request's correlation, as far as it was read.
    pub(crate) correlation: Uuid,
    /// The answer has no body.
    pub(crate) head_only: bool,
}

impl Parser {
    /// Before the first byte of a connection.
    pub(crate) fn new() -> Self {
        Self { state: State::START }
    }

    /// Looks at `input`: everything that has arrived and was not consumed before. Returns how many bytes
    /// of it are consumed now.
    ///
    /// # Errors
    /// The refusal; the parser must not be used again.
    pub(crate) fn advance(
        &mut self,
        input: &[u8],
        correlations: &mut Correlations,
    ) -> Result<(usize, Step), Box<Refusal>> {
        match &mut self.state {
            State::Lines { blank, scanned } => {
                let skipped = skip_blank_lines(input, blank, correlations)?;
                if skipped > 0 {
                    *scanned = 0;
                }
                let Some((length, whole)) = head::parse(&input[skipped..], scanned, correlations)? else {
                    return Ok((skipped, Step::More));
                };
                let head::Whole { head, framing, length: body } = whole;
                let request = Request { head, body: Vec::new() };
                let incoming = Incoming { request, framing, decoder: body.into() };
                self.state = State::Incoming(Box::new(incoming));
                Ok((skipped + length, Step::Head(framing)))
            }
            State::Incoming(incoming) => {
                let Incoming { request, framing, decoder } = &mut **incoming;
                let (used, whole) = decoder.advance(input, &mut request.body).map_err(|error| {
                    let Framing { correlation, head_only, .. } = *framing;
                    Box::new(Refusal { error, correlation, head_only })
                })?;
                if !whole {
                    return Ok((used, Step::More));
                }
                let State::Incoming(incoming) = std::mem::replace(&mut self.state, State::START) else {
                    unreachable!("matched above");
                };
                Ok((used, Step::Request(incoming.request, incoming.framing)))
            }
        }
    }

    /// The head and how it wants to be answered, between [`Step::Head`] and [`Step::Request`].
    pub(crate) fn head(&self) -> Option<(&Head, &Framing)> {
        match &self.state {
            State::Lines { .. } => None,
            State::Incoming(incoming) => Some((&incoming.request.head, &incoming.framing)),
        }
    }

    /// Forgets a request without a body whose head was refused: the next one follows.
    pub(crate) fn skip(&mut self) {
        self.state = State::START;
    }
}

impl State {
    const START: Self = Self::Lines { blank: 0, scanned: 0 };
}

/// The length of the empty lines that `input` begins with; `blank` counts them over all pieces.
fn skip_blank_lines(
    input: &[u8],
    blank: &mut u8,
    correlations: &mut Correlations,
) -> Result<usize, Box<Refusal>> {
    let mut skipped = 0;
    while input[skipped..].starts_with(b"\r\n") {
        *blank += 1;
        skipped += 2;
        if *blank > limits::EMPTY_LINES_MAX {
            return Err(Refusal::new(Code::BadRequest, "too many empty lines", correlations.fresh()));
        }
    }
    Ok(skipped)
}

impl Refusal {
    fn new(code: Code, message: &str, correlation: Uuid) -> Box<Self> {
        Box::new(Self { error: ApiError::new(code, message), correlation, head_only: false })
    }
}
