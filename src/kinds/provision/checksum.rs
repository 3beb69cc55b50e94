//! Published checksums, as `sha256sum` writes them. Pure.

use super::PLATFORM;
use crate::id::unhex;

/// The SHA-256 in `text`: lines of 64 hex digits, each perhaps with a file's name after two blanks, or a blank and `*`.
/// Of several lines the one for this platform's file counts. `None` if anything else stands there.
pub fn published(text: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let lines: Vec<(&str, [u8; 32])> = lines.map(line).collect::<Option<_>>()?;
    match lines.as_slice() {
        [(_, only)] => Some(*only),
        several => {
            let is_ours = |name: &str| name.rsplit('/').next() == Some(PLATFORM);
            several.iter().find(|(name, _)| is_ours(name)).map(|(_, sha256)| *sha256)
        }
    }
}

/// Name and digest of a line; a name with a line break or a backslash makes `sha256sum` put one before it.
fn line(line: &str) -> Option<(&str, [u8; 32])> {
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (digits, rest) = line.split_at_checked(64)?;
    let name = match rest {
        "" => "",
        rest => rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?,
    };
    Some((name, unhex(digits)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_sha256sum_are_read_and_nothing_else() {
        let (one, two) = ("ab".repeat(32), "0F".repeat(32));
        let good = [
            one.clone(),
            format!("{one}\n"),
            format!("{one}  linux-x86_64\r\n"),
            format!("{one} *out/of some where\n\n"),
            format!("\\{one}  odd\\\\name"),
        ];
        for text in good {
            assert_eq!(published(text.as_bytes()), Some([0xab; 32]), "{text:?}");
        }
        let several = format!("{two}  linux-other\n{one}  ./{PLATFORM}\n");
        assert_eq!(published(several.as_bytes()), Some([0xab; 32]));
        let wrong = [
            String::new(),
            "\n".to_owned(),
            one[1..].to_owned(),
            format!("{one}0"),
            format!("{one} name"),
            format!("SHA256 (name) = {one}"),
            format!("{two}  a\n{one}  b\n"),
            format!("{one}  a\nnot found\n"),
            format!("x{}", &one[1..]),
            "<!doctype html>".to_owned(),
        ];
        for text in wrong {
            assert_eq!(published(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(published(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = published(&text);
        }
    }
}
