//! Output for people: aligned columns, sizes, times and bars.

use std::borrow::Cow;
use std::time::Duration;

use super::screen::{Colour, Screen};
use crate::logging::is_hazard;

/// A cell, and what its colour says again.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    pub fn coloured(text: impl Into<String>, colour: Option<Colour>) -> Self {
        Self { text: text.into(), colour }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

/// Rows under their headings, two spaces apart, within the width of the screen. What comes from outside cannot
/// steer a terminal.
///
/// A heading that begins with `>` has its column aligned to the right; in one with `~` cells are shortened in their
/// middle where the table would not fit otherwise. Every row has as many cells as there are headings.
pub(super) fn table<C: Clone + Into<Cell>>(screen: Screen, headings: &[&str], rows: &[Vec<C>]) -> String {
    let names = headings.iter().map(|heading| heading.trim_start_matches(['>', '~']).into()).collect();
    let mut rows: Vec<Vec<Cell>> = std::iter::once(names)
        .chain(rows.iter().map(|row| row.iter().cloned().map(Into::into).collect()))
        .collect();
    for cell in rows.iter_mut().flatten() {
        cell.text = cell.text.replace(is_hazard, "?");
    }
    let mut widths: Vec<usize> = (0..headings.len())
        .map(|at| rows.iter().map(|row| row[at].text.chars().count()).max().unwrap_or(0))
        .collect();
    shrink(&mut widths, headings, screen.width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, heading), width) in row.iter().zip(headings).zip(&widths) {
            let shown = elided(&cell.text, *width);
            let gap = " ".repeat(width - shown.chars().count());
            let painted =
                cell.colour.map_or(shown.clone().into_owned(), |colour| screen.paint(colour, &shown));
            let (before, after) = if heading.starts_with('>') { (&*gap, "") } else { ("", &*gap) };
            line.push_str(&format!("{before}{painted}{after}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Takes from the columns that can be shortened, the widest first, what the table is too wide by.
fn shrink(widths: &mut [usize], headings: &[&str], most: usize) {
    loop {
        let all = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        let elastic = |at: &usize| headings[*at].starts_with('~') && widths[*at] > SHORTEST;
        let widest = (0..widths.len()).filter(elastic).max_by_key(|at| widths[*at]);
        match widest {
            Some(at) if all > most => widths[at] -= 1,
            _ => return,
        }
    }
}

/// Columns below which no cell is shortened.
const SHORTEST: usize = 8;

/// At most `most` characters of `text`: its beginning and its end, for names of models differ in both.
pub(super) fn elided(text: &str, most: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= most {
        return Cow::Borrowed(text);
    }
    let end = most.saturating_sub(1) / 2;
    let beginning = most.saturating_sub(1) - end;
    let cut = |from, count| text.chars().skip(from).take(count).collect::<String>();
    Cow::Owned(format!("{}…{}", cut(0, beginning), cut(count - end, end)))
}

/// A size in GiB, with one decimal.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

/// A size in the largest unit of which there is one, with one decimal.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(unit) = (bytes.max(1).ilog2() as usize / 10).checked_sub(1) else { return format!("{bytes} B") };
    format!("{:.1} {}", bytes as f64 / f64::powi(1024.0, unit as i32 + 1), UNITS[unit])
}

/// How much of `total` is used, and promised beside that: a bar of ten.
pub(super) fn bar(used: u64, promised: u64, total: u64) -> String {
    if total == 0 {
        return "-".to_owned();
    }
    let tenths = |bytes: u64| (bytes.min(total) as f64 / total as f64 * 10.0).round() as usize;
    let (used, both) = (tenths(used), tenths(used.saturating_add(promised)));
    format!("[{}{}{}]", "#".repeat(used), "+".repeat(both - used), ".".repeat(10 - both))
}

/// A time that has gone by, in its two largest units.
pub(super) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_end_without_spaces() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned(), "x\u{1b}[2J".to_owned()],
            vec!["long".to_owned(), "100".to_owned(), String::new()],
        ];
        let text = table(Screen::PLAIN, &["ID", ">N", "NAME"], &rows);
        assert_eq!(text, "ID      N  NAME\na       1  x?[2J\nlong  100\n");
    }

    #[test]
    fn a_table_fits_its_screen_by_what_can_be_shortened() {
        let rows =
            [["x".repeat(30), "hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M".to_owned(), "end".to_owned()]
                .to_vec()];
        let screen = Screen { width: 60, ..Screen::PLAIN };
        let text = table(screen, &["ID", "~MODEL", ">END"], &rows);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert_eq!(widest, Some(60), "{text}");
        assert!(text.contains("x  hf:bartowsk…GGUF:Q4_K_M  end\n"), "{text}");
        assert_eq!((elided("abcdef", 5), elided("abc", 3)), ("ab…ef".into(), "abc".into()));
    }

    #[test]
    fn colours_do_not_move_columns() {
        let screen = Screen { has_colours: true, ..Screen::PLAIN };
        let row = |state: &str, colour| vec![Cell::coloured(state, colour), Cell::from("x")];
        let rows = [row("up", Some(Colour::Good)), row("gone", None)];
        assert_eq!(
            table(screen, &["STATE", "N"], &rows),
            "STATE  N\n\u{1b}[32mup\u{1b}[0m     x\ngone   x\n"
        );
    }

    #[test]
    fn times_are_said_in_two_units() {
        let said = |s| span(Duration::from_secs(s));
        assert_eq!([0, 59, 61, 3600, 90_061].map(said), ["0s", "59s", "1m01s", "1h00m", "1d01h"]);
    }

    #[test]
    fn sizes_and_bars() {
        assert_eq!(
            (gib(0), gib(12 << 30), gib((3 << 29) + 1)),
            ("0.0 GiB".into(), "12.0 GiB".into(), "1.5 GiB".into())
        );
        assert_eq!([0, 1023, 1024, 3 << 29].map(size), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!([8 << 40, u64::MAX].map(size), ["8.0 TiB", "16.0 EiB"]);
        assert_eq!(bar(2, 3, 10), "[##+++.....]");
        assert_eq!((bar(9, 3, 10), bar(1, 1, 0)), ("[#########+]".into(), "-".into()));
    }
}
