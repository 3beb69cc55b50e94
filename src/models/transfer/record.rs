//! Which bytes of a partial file are there: a small file beside it, changed in place while the bytes come.
//!
//! ```text
//! "rbeeHole"   8 bytes
//! version      u32, 1
//! cell         u32, bytes of a cell
//! bytes        u64, length of the whole file
//! there        u32 for each cell: how many of its first bytes are there
//! ```
//! All numbers little-endian. Whoever fetches has his cells to himself, so that nobody waits to note something.

use std::ops::Range;

use crate::limits::{CELL_BYTES, CELLS_MAX, GAPS_MAX, HUB_FILE_BYTES_MAX};

const MAGIC: &[u8; 8] = b"rbeeHole";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const THERE_BYTES: usize = size_of::<u32>();

/// How a file is cut into cells; each but the last is of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    file_bytes: u64,
    cell_bytes: u64,
}

impl Cells {
    /// The cells of a file of so many bytes, at most [`HUB_FILE_BYTES_MAX`].
    pub fn of(file_bytes: u64) -> Self {
        debug_assert!(file_bytes <= HUB_FILE_BYTES_MAX, "the hub client refuses longer ones");
        let cell_bytes = CELL_BYTES.max(file_bytes.div_ceil(CELLS_MAX).next_power_of_two());
        Self { file_bytes, cell_bytes }
    }

    /// Bytes of the whole file.
    pub fn file_bytes(self) -> u64 {
        self.file_bytes
    }

    /// Bytes of a cell.
    pub fn cell_bytes(self) -> u64 {
        self.cell_bytes
    }

    /// Bytes of the record.
    pub fn record_bytes(self) -> u64 {
        HEAD_BYTES as u64 + self.file_bytes.div_ceil(self.cell_bytes) * THERE_BYTES as u64
    }

    /// A record which says that nothing is there.
    pub fn empty_record(self) -> Vec<u8> {
        let mut record = self.head();
        record.resize(usize::try_from(self.record_bytes()).expect("a few MiB at most"), 0);
        record
    }

    fn head(self) -> Vec<u8> {
        let cell_bytes = u32::try_from(self.cell_bytes).expect("limits.rs compares them");
        let numbers = [VERSION.to_le_bytes(), cell_bytes.to_le_bytes()].concat();
        [&MAGIC[..], &numbers, &self.file_bytes.to_le_bytes()].concat()
    }

    /// What is written to a record, and where, once the bytes `come` are there, and before them all of their
    /// first cell.
    pub fn note(self, come: Range<u64>) -> (u64, Vec<u8>) {
        let first = come.start / self.cell_bytes;
        let mut there = Vec::new();
        let mut start = first * self.cell_bytes;
        while start < come.end {
            let end = come.end.min(start + self.cell_bytes);
            there.extend(u32::try_from(end - start).expect("limits.rs compares them").to_le_bytes());
            start = end;
        }
        (HEAD_BYTES as u64 + first * THERE_BYTES as u64, there)
    }
}

/// What a record says: the length of its file, and what is missing of it, in order.
///
/// `None` if it is cut, too long, of another version, or says what cannot be.
pub fn read(record: &[u8]) -> Option<(u64, Vec<Range<u64>>)> {
    let (head, there) = record.split_first_chunk::<HEAD_BYTES>()?;
    let file_bytes = u64::from_le_bytes(*head.last_chunk()?);
    if file_bytes > HUB_FILE_BYTES_MAX {
        return None;
    }
    let cells = Cells::of(file_bytes);
    if head[..] != cells.head() || record.len() as u64 != cells.record_bytes() {
        return None;
    }
    let mut gaps: Vec<Range<u64>> = Vec::new();
    let (there, _) = there.as_chunks();
    for (there, start) in there.iter().zip((0..file_bytes).step_by(cells.cell_bytes as usize)) {
        let end = file_bytes.min(start + cells.cell_bytes);
        let from = start + u64::from(u32::from_le_bytes(*there));
        if from > end {
            return None;
        }
        match gaps.last_mut() {
            _ if from == end => {}
            Some(last) if last.end == from => last.end = end,
            _ => gaps.push(from..end),
        }
        if gaps.len() > GAPS_MAX {
            return None;
        }
    }
    Some((file_bytes, gaps))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "gaps are a list of ranges, often of one")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn noted(cells: Cells, come: &[Range<u64>]) -> Vec<u8> {
        let mut record = cells.empty_record();
        for come in come {
            let (at, there) = cells.note(come.clone());
            let at = usize::try_from(at).unwrap();
            record[at..at + there.len()].copy_from_slice(&there);
        }
        record
    }

    #[test]
    fn an_empty_record_misses_everything() {
        for bytes in [1, MIB - 1, MIB, MIB + 1, 100 * MIB + 7, 3 << 40, HUB_FILE_BYTES_MAX] {
            let record = Cells::of(bytes).empty_record();
            assert_eq!(read(&record), Some((bytes, vec![0..bytes])), "{bytes}");
            assert!(record.len() as u64 <= HEAD_BYTES as u64 + CELLS_MAX * 4);
        }
        assert_eq!(read(&Cells::of(0).empty_record()), Some((0, vec![])));
    }

    #[test]
    fn what_came_to_several_places_is_not_missing() {
        let cells = Cells::of(10 * MIB + 5);
        let come = [0..700_000, 700_000..2 * MIB, 4 * MIB..4 * MIB + 9, 10 * MIB..10 * MIB + 5];
        assert_eq!(
            read(&noted(cells, &come)),
            Some((10 * MIB + 5, vec![2 * MIB..4 * MIB, 4 * MIB + 9..10 * MIB])),
        );
    }

    #[test]
    fn bytes_across_a_border_are_noted_in_both_cells() {
        let (at, there) = Cells::of(4 * MIB).note(2 * MIB - 10..2 * MIB + 20);
        assert_eq!(at, HEAD_BYTES as u64 + 4);
        assert_eq!(there, [(MIB as u32).to_le_bytes(), 20_u32.to_le_bytes()].concat());
    }

    #[test]
    fn a_record_that_is_cut_foreign_or_impossible_is_none() {
        let good = noted(Cells::of(3 * MIB + 1), &[0..9]);
        assert!(read(&good).is_some());
        let changed = |at: usize, to: u8| {
            let mut record = good.clone();
            record[at] = to;
            read(&record)
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&good[..good.len() - 1]), None, "cut");
        assert_eq!(read(&[&good[..], &[0]].concat()), None, "too long");
        assert_eq!(changed(0, b'x'), None, "foreign");
        assert_eq!(changed(8, 2), None, "of another version");
        assert_eq!(changed(14, 1), None, "of other cells");
        assert_eq!(changed(19, 7), None, "of another length");
        assert_eq!(changed(22, 1), None, "of an absurd length");
        assert_eq!(changed(HEAD_BYTES + 3, 1), None, "more in a cell than it holds");
        assert_eq!(changed(HEAD_BYTES + 12, 2), None, "more than the file holds");
    }

    #[test]
    fn a_record_with_more_gaps_than_we_leave_is_none() {
        let gaps = |count: u64| {
            let come: Vec<_> = (0..count).map(|n| 2 * n * MIB..(2 * n + 1) * MIB).collect();
            read(&noted(Cells::of(2 * count * MIB), &come))
        };
        assert!(gaps(GAPS_MAX as u64).is_some());
        assert!(gaps(GAPS_MAX as u64 + 1).is_none());
    }

    proptest! {
        #[test]
        fn no_record_makes_gaps_that_are_not_in_the_file(
            bytes in 0..20 * MIB,
            there in proptest::collection::vec(0..=MIB as u32, 20),
        ) {
            let mut record = Cells::of(bytes).empty_record();
            for (place, there) in record[HEAD_BYTES..].chunks_mut(4).zip(there) {
                place.copy_from_slice(&there.to_le_bytes());
            }
            if let Some((length, gaps)) = read(&record) {
                prop_assert_eq!(length, bytes);
                let borders: Vec<u64> = gaps.iter().flat_map(|gap| [gap.start, gap.end]).collect();
                prop_assert!(borders.is_sorted_by(|a, b| a < b) && borders.iter().all(|at| *at <= bytes));
            }
        }
    }
}
