//! `GET /`: the status page, one HTML file with its style and its script inside.
//!
//! Invariant: the browser runs the script that stands here and nothing else. The policy names style and script by their
//! hashes, forbids text to become markup (Trusted Types) and lets the page reach this hive alone.

use std::sync::{Arc, LazyLock};

use ring::digest::{SHA256, digest};

use crate::http::{Answer, Body};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(
    include_str!("page/wire.js"),
    include_str!("page/draw.js"),
    include_str!("page/hands.js"),
    include_str!("page/page.js")
);

struct Page {
    html: Arc<[u8]>,
    policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let (style, script) = (sent(STYLE), sent(SCRIPT));
    let html = FRAME.replace("/*style*/", &style).replace("/*script*/", &script);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(&script),
        hash(&style)
    );
    Page { html: html.into_bytes().into(), policy }
});

/// The page. It holds nothing of the hive, so everybody may have it; what it shows it asks for with the token.
pub fn answer() -> Answer {
    let html = Body::Shared(Arc::clone(&PAGE.html));
    Answer::bytes(200, "text/html; charset=utf-8", html)
        .with_header("Content-Security-Policy", PAGE.policy.as_str())
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cache-Control", "no-store")
}

/// What is sent of a text: not its indentation, nor lines that are comments. No line of it begins within a string.
fn sent(text: &str) -> String {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// SHA-256 in base64, as a policy names an inline script.
fn hash(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = digest(&SHA256, text.as_bytes());
    let mut out = String::new();
    for bytes in digest.as_ref().chunks(3) {
        let bits = bytes.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= bytes.len() { digit.into() } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page may weigh, in bytes.
    const BYTES_MAX: usize = 40 * 1024;

    fn html() -> &'static str {
        std::str::from_utf8(&PAGE.html).unwrap()
    }

    fn inside(tag: &str) -> &'static str {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let (before, rest) =
            html().split_once(&open).or_else(|| html().split_once(&format!("<{tag} "))).unwrap();
        assert!(!before.contains(&close), "{tag} is closed before it begins");
        let (text, after) = rest.split_once(&close).unwrap();
        assert!(!after.contains(&open), "there are two of {tag}");
        text
    }

    #[test]
    fn a_hash_is_written_as_policies_write_it() {
        assert_eq!(hash(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn the_page_fits_into_40_kib() {
        assert!(html().len() < BYTES_MAX, "{} bytes", html().len());
    }

    #[test]
    fn the_policy_names_the_style_and_the_script_that_are_in_the_page() {
        let script = inside("script").strip_prefix("type=\"module\">").unwrap_or(inside("script"));
        assert!(PAGE.policy.contains(&format!("script-src 'sha256-{}';", hash(script))));
        assert!(PAGE.policy.contains(&format!("style-src 'sha256-{}';", hash(inside("style")))));
        assert!(!PAGE.policy.contains("unsafe"), "{}", PAGE.policy);
    }

    #[test]
    fn the_page_takes_nothing_from_elsewhere_and_no_text_as_markup() {
        for foreign in
            ["http:", "https:", "src=", "@import", "url(", " style=\"", " onclick", "innerHTML", "eval("]
        {
            assert!(!html().contains(foreign), "{foreign}");
        }
    }
}
