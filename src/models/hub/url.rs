//! Addresses: which ones are followed, and what a relative one means. Pure.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// What Python's `quote` leaves as it is, and with it `huggingface_hub`.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');
const PATH: &AsciiSet = &PART.remove(b'/');

/// An absolute `http` or `https` URL with a host and without a user.
///
/// `Debug` shows scheme, host and port alone: what follows may be signed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url(Uri);

impl Url {
    /// The URL that `text` is; a fragment is left out.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split_once('#').map_or(text, |(text, _)| text);
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let has_port = uri.port_u16().is_some();
        let good = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty() && (has_port || host.len() == authority.len()))
            && !authority.contains('@');
        good.then_some(Self(uri))
    }

    /// What `location` means to somebody who is here (RFC 3986, 5.2).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split_once('#').map_or(location, |(location, _)| location);
        let (path, query) = match location.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (location, None),
        };
        if has_scheme(path) {
            return Self::parse(location);
        }
        let (scheme, authority) = (self.0.scheme_str()?, self.0.authority()?);
        if path.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let here = self.0.path();
        let (path, query) = match path {
            "" => (here.to_owned(), query.or_else(|| self.0.query())),
            _ if path.starts_with('/') => (without_dots(path), query),
            _ => {
                (without_dots(&format!("{}/{path}", here.rsplit_once('/').map_or("", |(dir, _)| dir))), query)
            }
        };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        Self::parse(&format!("{scheme}://{authority}{path}{query}"))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    pub(crate) fn has_query(&self) -> bool {
        self.0.query().is_some()
    }

    /// In lower case, an IPv6 address without brackets.
    pub(crate) fn host(&self) -> String {
        self.0.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase()
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Whether both are the same server to a browser: scheme, host and port.
    pub(crate) fn is_same_origin(&self, other: &Self) -> bool {
        self.is_https() == other.is_https() && self.port() == other.port() && self.host() == other.host()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }
}

/// `text` as one part of a path.
pub(crate) fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// `text` as a path; its slashes stay.
pub(crate) fn path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

/// An absolute path with its `.` and `..` worked out.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for part in path.split('/').skip(1) {
        is_folder = matches!(part, "." | "..");
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    if is_folder {
        parts.push("");
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn what_cannot_be_followed_is_no_url() {
        for good in ["http://h", "https://h:8443/a/b?c=d#e", "http://[::1]:80/", "HTTPS://H"] {
            assert!(Url::parse(good).is_some(), "{good}");
        }
        let wrong = [
            "",
            "h",
            "/h",
            "ftp://h/",
            "http://",
            "http://:80/",
            "http://me@h/",
            "http://h:99999/",
            "http://h:/",
        ];
        for wrong in wrong.into_iter().chain(["http://h h/", "http://h\\@x/", "file:///etc/passwd"]) {
            assert_eq!(Url::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_location_is_read_as_a_browser_does() {
        let here = url("https://h:1/a/b/c?q=1");
        for (location, meant) in [
            ("https://x/y", "https://x/y"),
            ("//x:2/y?z", "https://x:2/y?z"),
            ("/y//z?r=%2F", "https://h:1/y//z?r=%2F"),
            ("y", "https://h:1/a/b/y"),
            ("./y/.", "https://h:1/a/b/y/"),
            ("../y?at=10:30", "https://h:1/a/y?at=10:30"),
            ("../../../../y", "https://h:1/y"),
            ("..", "https://h:1/a/"),
            ("?r", "https://h:1/a/b/c?r"),
            ("", "https://h:1/a/b/c?q=1"),
            ("#top", "https://h:1/a/b/c?q=1"),
        ] {
            assert_eq!(here.join(location).expect(location).uri().to_string(), meant, "{location}");
        }
        for wrong in ["javascript:alert(1)", "ftp://x/", "//", "http://me:pw@x/", "https:y"] {
            assert_eq!(here.join(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let hub = url("https://hub.example/x");
        assert!(hub.is_same_origin(&url("https://HUB.example:443/y?z")));
        for other in [
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://hub.example.org/",
            "https://x.hub.example/",
        ] {
            assert!(!hub.is_same_origin(&url(other)), "{other}");
        }
        assert!(url("http://localhost:1").is_loopback() && url("http://[::1]").is_loopback());
        assert!(!url("http://localhost.example").is_loopback() && !url("http://192.0.2.1").is_loopback());
    }

    #[test]
    fn names_are_quoted_as_the_official_client_does() {
        assert_eq!(part("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(path("q 4/ü~m+(1).gguf"), "q%204/%C3%BC~m%2B%281%29.gguf");
    }

    #[test]
    fn nothing_after_the_port_is_shown() {
        assert_eq!(format!("{:?}", url("https://h:1/s3cret?s3cret")), "https://h:1");
    }

    proptest! {
        #[test]
        fn no_location_breaks_it_or_leads_elsewhere_by_a_path(location in "\\PC{0,40}") {
            let here = url("https://h:1/a/b");
            if let Some(there) = here.join(&location) {
                prop_assert!(matches!(there.uri().scheme_str(), Some("http" | "https")));
                prop_assert!(there.is_same_origin(&here) || location.contains("//"));
                prop_assert_eq!(Url::parse(&there.uri().to_string()), Some(there));
            }
        }
    }
}
