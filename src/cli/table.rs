//! Output for people: aligned columns, sizes and bars, in ASCII.

/// Rows under their headings, two spaces apart. What comes from outside cannot steer a terminal.
///
/// A heading that begins with `>` has its column aligned to the right. Every row has as many cells as there
/// are headings.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let names = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
    let plain = |cell: &String| cell.replace(char::is_control, "?");
    let rows: Vec<Vec<String>> = std::iter::once(&names)
        .chain(rows)
        .map(|row: &Vec<String>| row.iter().map(plain).collect())
        .collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(headings).zip(&widths).map(|((cell, heading), width)| {
            if heading.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
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

/// How much of `total` is used: a bar of ten, full as soon as it is nearly so.
pub(super) fn bar(used: u64, total: u64) -> String {
    if total == 0 {
        return "-".to_owned();
    }
    let part = used.min(total) as f64 / total as f64;
    let filled = (part * 10.0).round() as usize;
    format!("[{}{}] {:>3.0}%", "#".repeat(filled), ".".repeat(10 - filled), part * 100.0)
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
        assert_eq!(table(&["ID", ">N", "NAME"], &rows), "ID      N  NAME\na       1  x?[2J\nlong  100\n");
    }

    #[test]
    fn sizes_and_bars() {
        assert_eq!(
            (gib(0), gib(12 << 30), gib((3 << 29) + 1)),
            ("0.0 GiB".into(), "12.0 GiB".into(), "1.5 GiB".into())
        );
        assert_eq!([0, 1023, 1024, 3 << 29].map(size), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!([8 << 40, u64::MAX].map(size), ["8.0 TiB", "16.0 EiB"]);
        assert_eq!(bar(1, 4), "[###.......]  25%");
        assert_eq!(
            (bar(9, 4), bar(0, 4), bar(0, 0)),
            ("[##########] 100%".into(), "[..........]   0%".into(), "-".into())
        );
    }
}
