//! What is missing of a file, and who fetches which part of it. Pure.
//!
//! Invariant: what is missing is either in a gap or in one line's claim, never in two. A claim ends where a cell does,
//! or a gap, and whatever a cell has already lies before it: no two lines share a cell of the record.

use std::collections::BTreeMap;
use std::ops::Range;

use super::record::Cells;
use crate::limits::{PIECE_BYTES, TRANSFER_CONNECTIONS_MAX};

/// The parts of a file that are missing.
#[derive(Debug)]
pub struct Queue {
    cells: Cells,
    /// Ends by beginnings of what nobody fetches.
    gaps: BTreeMap<u64, u64>,
    claims: [Option<Range<u64>>; TRANSFER_CONNECTIONS_MAX],
}

impl Queue {
    /// All of `gaps` is to be fetched.
    pub fn new(cells: Cells, gaps: Vec<Range<u64>>) -> Self {
        let gaps = gaps.into_iter().map(|gap| (gap.start, gap.end)).collect();
        Self { cells, gaps, claims: Default::default() }
    }

    /// Whether there is something that nobody fetches.
    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Whether nothing is missing.
    pub fn is_done(&self) -> bool {
        self.gaps.is_empty() && self.claims.iter().all(Option::is_none)
    }

    /// Bytes that are missing.
    pub fn left(&self) -> u64 {
        let gaps = self.gaps.iter().map(|(start, end)| end - start);
        gaps.chain(self.claims.iter().flatten().map(|claim| claim.end - claim.start)).sum()
    }

    /// How many bytes are there from the beginning of the file without a gap.
    pub fn frontier(&self) -> u64 {
        let claims = self.claims.iter().flatten().map(|claim| claim.start);
        claims.chain(self.gaps.keys().next().copied()).min().unwrap_or(self.cells.file_bytes())
    }

    /// Gives `line` the first bytes that nobody fetches: all of them where it is the only one of `lines`, else a
    /// piece of [`PIECE_BYTES`], and towards the end of the file a smaller one, so that all end together.
    pub fn claim(&mut self, line: usize, lines: usize) -> Option<Range<u64>> {
        debug_assert!(self.claims[line].is_none(), "one claim at a time");
        let (start, end) = self.gaps.pop_first()?;
        self.claims[line] = Some(start..end);
        if lines > 1 {
            self.cut(line, self.piece_end(start, lines));
        }
        self.claims[line].clone()
    }

    /// Whoever has more than a piece leaves the rest of it to the others.
    pub fn share(&mut self, lines: usize) {
        for line in 0..self.claims.len() {
            if let Some(claim) = &self.claims[line] {
                self.cut(line, self.piece_end(claim.start, lines));
            }
        }
    }

    /// The claim of `line` ends at `end`, if not before; a border of cells.
    pub fn cut(&mut self, line: usize, end: u64) {
        let Some(claim) = self.claims[line].as_mut().filter(|claim| end < claim.end) else { return };
        self.gaps.insert(end, claim.end);
        claim.end = end;
    }

    /// So many bytes of the claim of `line` have come. What is left of it.
    pub fn advance(&mut self, line: usize, bytes: u64) -> Option<Range<u64>> {
        let claim = self.claims[line].as_mut()?;
        claim.start += bytes;
        debug_assert!(claim.start <= claim.end, "no read is longer than its claim");
        if claim.is_empty() {
            self.claims[line] = None;
        }
        self.claims[line].clone()
    }

    /// What is left of the claim of `line` is for somebody else.
    pub fn give_back(&mut self, line: usize) {
        let Some(claim) = self.claims[line].take() else { return };
        let end = self.gaps.remove(&claim.end).unwrap_or(claim.end);
        match self.gaps.range_mut(..claim.start).next_back() {
            Some((_, before)) if *before == claim.start => *before = end,
            _ => drop(self.gaps.insert(claim.start, end)),
        }
    }

    /// At least a cell from `start`, which is more than anybody reads at once.
    fn piece_end(&self, start: u64, lines: usize) -> u64 {
        let cell = self.cells.cell_bytes();
        let share = self.left() / (2 * lines as u64);
        (start + share.clamp(cell, PIECE_BYTES.max(cell))).next_multiple_of(cell)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::TRANSFER_BUFFER_BYTES;

    const MIB: u64 = 1024 * 1024;

    #[expect(clippy::single_range_in_vec_init, reason = "a file with one gap")]
    fn fresh(bytes: u64) -> Queue {
        Queue::new(Cells::of(bytes), vec![0..bytes])
    }

    #[test]
    fn who_is_alone_has_all_that_is_left_in_order() {
        let mut queue = Queue::new(Cells::of(100 * MIB), vec![5..30 * MIB, 40 * MIB..100 * MIB]);
        assert_eq!((queue.frontier(), queue.left()), (5, 90 * MIB - 5));
        assert_eq!(queue.claim(0, 1), Some(5..30 * MIB));
        assert_eq!(queue.advance(0, 30 * MIB - 5), None);
        assert_eq!(queue.frontier(), 40 * MIB);
        assert_eq!(queue.claim(0, 1), Some(40 * MIB..100 * MIB));
        assert_eq!(queue.advance(0, 60 * MIB), None);
        assert_eq!((queue.frontier(), queue.claim(0, 1)), (100 * MIB, None));
        assert!(queue.is_done());
    }

    #[test]
    fn a_second_line_takes_what_follows_the_piece_of_the_first() {
        let mut queue = fresh(1024 * MIB);
        queue.claim(0, 1).unwrap();
        queue.advance(0, 20 * MIB + 3);
        queue.share(2);
        assert_eq!(queue.advance(0, 1), Some(20 * MIB + 4..29 * MIB));
        assert_eq!(queue.claim(1, 2), Some(29 * MIB..37 * MIB));
    }

    #[test]
    fn pieces_shrink_towards_the_end_down_to_a_cell() {
        let mut queue = fresh(64 * MIB);
        let pieces: Vec<u64> = std::iter::from_fn(|| {
            let claim = queue.claim(0, 4)?;
            queue.advance(0, claim.end - claim.start);
            Some((claim.end - claim.start) / MIB)
        })
        .collect();
        assert_eq!(pieces[..3], [8, 7, 7]);
        assert_eq!(pieces.last(), Some(&1));
        assert!(pieces.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn what_is_given_back_joins_its_neighbours_and_comes_first() {
        let mut queue = fresh(100 * MIB);
        let [a, b] = [0, 1].map(|line| queue.claim(line, 2).unwrap());
        assert_eq!((a.end, b.start), (8 * MIB, 8 * MIB));
        queue.advance(1, 5);
        queue.give_back(1);
        queue.give_back(0);
        assert_eq!(queue.claim(2, 1), Some(0..8 * MIB));
        assert_eq!(queue.claim(3, 1), Some(8 * MIB + 5..100 * MIB));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Claim(usize),
        Come(usize, u64),
        GiveBack(usize),
        Share,
    }

    proptest! {
        #[test]
        fn every_byte_is_fetched_once_in_whatever_order(
            bytes in 1..40 * MIB,
            lines in 1..=TRANSFER_CONNECTIONS_MAX,
            steps in proptest::collection::vec(prop_oneof![
                (0..8_usize).prop_map(Step::Claim),
                (0..8_usize, 1..=TRANSFER_BUFFER_BYTES as u64).prop_map(|(line, n)| Step::Come(line, n)),
                (0..8_usize).prop_map(Step::GiveBack),
                Just(Step::Share),
            ], 0..400),
        ) {
            let cells = Cells::of(bytes);
            let mut queue = fresh(bytes);
            let mut record = cells.empty_record();
            let mut came = 0;
            let finish = (0..2 * bytes / TRANSFER_BUFFER_BYTES as u64 + 80)
                .flat_map(|_| [Step::Claim(0), Step::Come(0, TRANSFER_BUFFER_BYTES as u64)]);
            let all_back = (0..8).map(Step::GiveBack);
            for step in steps.into_iter().chain(all_back).chain(finish) {
                match step {
                    Step::Claim(line) if queue.claims[line].is_none() => drop(queue.claim(line, lines)),
                    Step::Come(line, n) => if let Some(claim) = queue.claims[line].clone() {
                        let n = n.min(claim.end - claim.start);
                        let (at, there) = cells.note(claim.start..claim.start + n);
                        let at = usize::try_from(at).unwrap();
                        record[at..at + there.len()].copy_from_slice(&there);
                        queue.advance(line, n);
                        came += n;
                    },
                    Step::GiveBack(line) => queue.give_back(line),
                    Step::Share => queue.share(lines),
                    Step::Claim(_) => {}
                }
                prop_assert_eq!(came + queue.left(), bytes);
                let (_, gaps) = super::super::record::read(&record).unwrap();
                prop_assert_eq!(gaps.iter().map(|gap| gap.end - gap.start).sum::<u64>(), queue.left());
                prop_assert_eq!(gaps.first().map_or(bytes, |gap| gap.start), queue.frontier());
            }
            prop_assert!(queue.is_done());
        }
    }
}
