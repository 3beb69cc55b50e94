//! What the parser makes of bytes, however they are cut: shared by tests and the fuzz target.

use super::{Parser, Step};
use crate::http::correlation::Correlations;
use crate::id::Entropy;
use crate::limits;

/// Panics unless `bytes` give the same steps in one piece, byte by byte, and in pieces of many lengths.
pub fn check(bytes: &[u8]) {
    let whole = transcript(bytes, std::iter::repeat(bytes.len().max(1)));
    assert_eq!(whole, transcript(bytes, std::iter::repeat(1)), "byte by byte");
    let seed = bytes.iter().fold(7_usize, |sum, &b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
    let lengths = std::iter::successors(Some(seed), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005) ^ 5));
    assert_eq!(whole, transcript(bytes, lengths.map(|n| 1 + (n >> 7) % 97)), "in pieces");
}

/// What happens, in order, when `bytes` arrive in pieces of `lengths`; the last entry says how many bytes
/// nobody has consumed.
pub(crate) fn transcript(bytes: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut correlations = Correlations::new(Box::new(Zeros));
    let mut parser = Parser::new();
    let (mut pending, mut rest, mut said) = (Vec::new(), bytes, Vec::new());
    for length in lengths {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        pending.extend_from_slice(piece);
        loop {
            match parser.advance(&pending, &mut correlations) {
                Err(refusal) => {
                    said.push(format!("{refusal:?}"));
                    return said;
                }
                Ok((used, step)) => {
                    pending.drain(..used);
                    match step {
                        Step::More => break,
                        Step::Head(framing) => said.push(format!("{framing:?} {:?}", parser.head())),
                        Step::Request(request, _) => {
                            assert!(request.body.len() <= limits::BODY_BYTES_MAX, "bodies are bounded");
                            said.push(format!("{request:?}"));
                        }
                    }
                }
            }
        }
        assert!(pending.len() < limits::HEAD_BYTES_MAX, "what waits for more is bounded");
    }
    said.push(format!("{} left", pending.len()));
    said
}

/// No randomness: every id is the same.
struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}
