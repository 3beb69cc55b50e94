//! The word that was probably meant.

/// The nearest of `known` to `typed`, if one is near enough: one mistake in three letters, and two always.
pub(crate) fn of<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = (typed.len() / 3).max(2);
    if typed.len() > 64 {
        return None;
    }
    known
        .map(|word| (distance(typed, word), word))
        .filter(|(far, _)| *far <= near_enough)
        .min()
        .map(|(_, word)| word)
}

/// Letters to put in, take out or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_through_and_another_word_is_not() {
        let known = || ["bind", "queen-url", "worker", "worker-host"].into_iter();
        assert_eq!(of("bnid", known()), Some("bind"));
        assert_eq!(of("bin", known()), Some("bind"));
        assert_eq!(of("queen_url", known()), Some("queen-url"));
        assert_eq!(of("workers", known()), Some("worker"));
        assert_eq!(of("zzz", known()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
