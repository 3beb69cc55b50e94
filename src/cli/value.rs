//! Readers of single values. An error says what is wrong and what would be right, to follow the value.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ureq::http::Uri;

use crate::config::{LogFormat, Orphans};
use crate::duration;
use crate::id::Device;
use crate::kinds::manifest::is_kind_name;
use crate::limits::{HIVE_ID_BYTES_MAX, HOST_BYTES_MAX, MEMORY_BYTES_MAX, URL_BYTES_MAX};

type Read<T> = Result<T, String>;

fn text(value: &OsStr) -> Read<&str> {
    value.to_str().ok_or_else(|| "is no UTF-8".to_owned())
}

/// An address with its port; `localhost` is 127.0.0.1.
pub(super) fn address(value: &OsStr) -> Read<SocketAddr> {
    let text = text(value)?;
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        "is no address with a port; write one like 127.0.0.1:8600, 0.0.0.0:8600 or [::1]:8600".to_owned()
    })
}

/// `[A-Za-z0-9.-]{1,64}`.
pub(super) fn hive_id(value: &OsStr) -> Read<String> {
    let text = text(value)?;
    let good = (1..=HIVE_ID_BYTES_MAX).contains(&text.len()) && text.chars().all(is_hive_id_char);
    if good {
        Ok(text.to_owned())
    } else {
        Err("is no hive id; it has 1 to 64 characters of A-Z, a-z, 0-9, . and -".to_owned())
    }
}

/// Whether `c` may stand in a hive's name.
pub(super) fn is_hive_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.' || c == '-'
}

/// A URL that paths are appended to: the slash at its end is dropped.
pub(super) fn base_url(value: &OsStr) -> Read<String> {
    let (text, uri) = url(value)?;
    if uri.query().is_some() {
        return Err("must be a URL without a query".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A URL as it stands, or with `/heartbeat` if it has no path.
pub(super) fn queen_url(value: &OsStr) -> Read<String> {
    let (text, uri) = url(value)?;
    match (uri.path(), uri.query()) {
        ("/" | "", None) => Ok(format!("{}/heartbeat", text.trim_end_matches('/'))),
        _ => Ok(text.to_owned()),
    }
}

fn url(value: &OsStr) -> Read<(&str, Uri)> {
    let wrong = || "is no URL; write one like http://host:8500 or https://host/path".to_owned();
    let text = text(value)?;
    let good = text.len() <= URL_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let uri: Uri = text.parse().ok().filter(|_| good).ok_or_else(wrong)?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
        return Err(wrong());
    }
    if authority.as_str().contains('@') {
        return Err("must be a URL without a user or password; the token is set by itself".to_owned());
    }
    let has_port = !authority.as_str().ends_with(authority.host());
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is none; it is from 1 to 65535".to_owned());
    }
    Ok((text, uri))
}

/// `adopt` or `kill`.
pub(super) fn orphans(value: &OsStr) -> Read<Orphans> {
    match value.to_str() {
        Some("adopt") => Ok(Orphans::Adopt),
        Some("kill") => Ok(Orphans::Kill),
        _ => Err("must be adopt or kill".to_owned()),
    }
}

/// A duration within `range`.
pub(super) fn duration(value: &OsStr, range: &RangeInclusive<Duration>) -> Read<Duration> {
    duration::parse_in(text(value)?, range)
}

/// A whole number within `range`, in plain digits.
pub(super) fn number<T: FromStr + PartialOrd + Display>(value: &OsStr, range: RangeInclusive<T>) -> Read<T> {
    let digits = value.to_str().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok()).filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

/// A name, an IPv4 address or a bare IPv6 address.
pub(super) fn host(value: &OsStr) -> Read<String> {
    let text = text(value)?;
    let is_name = (1..=HOST_BYTES_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    if is_name || text.parse::<std::net::Ipv6Addr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("is no host; write a name or an address without a port, like 127.0.0.1 or ::1".to_owned())
    }
}

/// `A-B`, or one port.
pub(super) fn ports(value: &OsStr) -> Read<RangeInclusive<u16>> {
    let wrong = || "is no range of ports; write one like 8601-8699, from 1 to 65535".to_owned();
    let text = text(value)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| number(OsStr::new(text), 1..=u16::MAX).map_err(|_| wrong());
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok(first..=last) } else { Err("must begin with the lower port".to_owned()) }
}

/// `KIND=PATH`; a path with a slash is made absolute, a bare name is looked for on `PATH`.
pub(super) fn program(value: &OsStr) -> Read<(String, PathBuf)> {
    let wrong = || "must be KIND=PATH, like llama-server=/opt/llama/llama-server".to_owned();
    let at = value.as_bytes().iter().position(|b| *b == b'=').ok_or_else(wrong)?;
    let (kind, program) = value.as_bytes().split_at(at);
    let kind = std::str::from_utf8(kind).ok().filter(|kind| is_kind_name(kind)).ok_or_else(wrong)?;
    let program = OsStr::from_bytes(&program[1..]);
    let program = match program.as_bytes() {
        [] => return Err(wrong()),
        bytes if bytes.contains(&b'/') => path(program)?,
        _ => program.into(),
    };
    Ok((kind.to_owned(), program))
}

/// A device by name.
pub(super) fn device(value: &OsStr) -> Read<Device> {
    text(value)?.parse().map_err(|()| "is no device; write one like cpu, gpu0 or gpu0:1".to_owned())
}

/// `DEVICE=SIZE`.
pub(super) fn reserve(value: &OsStr) -> Read<(Device, u64)> {
    let wrong = || "must be DEVICE=SIZE, like gpu0=1GiB or cpu=512MiB".to_owned();
    let (device, bytes) = text(value)?.split_once('=').ok_or_else(wrong)?;
    Ok((device.parse().map_err(|()| wrong())?, bytes_of(bytes).ok_or_else(wrong)?))
}

/// A number of bytes, as [`reserve`] has it.
pub(super) fn size(value: &OsStr) -> Read<u64> {
    let wrong = || "must be a size like 6GiB or 512MiB".to_owned();
    bytes_of(text(value)?).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// A number of bytes: plain, or of `KiB`, `MiB`, `GiB`, `TiB` (also without `iB`), with a fraction or not.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|_| plain)?;
    let bytes = number * unit as f64;
    (bytes <= MEMORY_BYTES_MAX as f64).then_some(bytes as u64)
}

/// A path, made absolute.
pub(super) fn path(value: &OsStr) -> Read<PathBuf> {
    std::path::absolute(value).map_err(|_| "is no path".to_owned())
}

/// `text` or `json`.
pub(super) fn log_format(value: &OsStr) -> Read<LogFormat> {
    match value.to_str() {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good<T>(read: fn(&OsStr) -> Read<T>, text: &str) -> T {
        read(OsStr::new(text)).unwrap_or_else(|wrong| panic!("{text:?} {wrong}"))
    }

    fn all_wrong<T>(read: fn(&OsStr) -> Read<T>, texts: &[&str]) {
        for text in texts {
            assert!(read(OsStr::new(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn addresses_have_a_port() {
        assert_eq!(good(address, "localhost:0").to_string(), "127.0.0.1:0");
        assert_eq!(good(address, "[::1]:8600").to_string(), "[::1]:8600");
        all_wrong(
            address,
            &["", "8600", ":8600", "127.0.0.1", "127.0.0.1:99999", "host:1", "::1:8600", " 127.0.0.1:1"],
        );
    }

    #[test]
    fn the_queen_gets_heartbeats_at_a_path() {
        for (text, url) in [
            ("http://queen:8500", "http://queen:8500/heartbeat"),
            ("https://queen/", "https://queen/heartbeat"),
            ("http://[::1]:1/v2/beat", "http://[::1]:1/v2/beat"),
            ("http://queen/a/", "http://queen/a/"),
            ("http://queen?x=1", "http://queen?x=1"),
        ] {
            assert_eq!(good(queen_url, text), url);
        }
        all_wrong(
            queen_url,
            &[
                "",
                "queen",
                "queen:8500",
                "/x",
                "ftp://queen",
                "http://",
                "http://:80",
                "http://u:p@queen",
                "http://queen:0",
                "http://queen:99999",
                "http://queen:",
                "http://queen/#x",
                "http://que en",
                "http://q/\n",
            ],
        );
    }

    #[test]
    fn an_advertised_url_has_no_slash_at_its_end() {
        assert_eq!(good(base_url, "http://10.0.0.7:8600/"), "http://10.0.0.7:8600");
        assert_eq!(good(base_url, "https://gate/hive-3"), "https://gate/hive-3");
        all_wrong(base_url, &["http://h?x", "10.0.0.7:8600"]);
    }

    #[test]
    fn ids_hosts_and_ports_have_their_grammar() {
        assert_eq!(good(hive_id, "Node-7.rack"), "Node-7.rack");
        all_wrong(hive_id, &["", "a_b", "a b", "é", &"x".repeat(65)]);
        assert_eq!(good(host, "::1"), "::1");
        assert_eq!(good(host, "gpu-7.lan"), "gpu-7.lan");
        all_wrong(host, &["", "-x", "a b", "127.0.0.1:80", "[::1]", "http://x", "a/b"]);
        assert_eq!(good(ports, "8601-8699"), 8601..=8699);
        assert_eq!(good(ports, "9000"), 9000..=9000);
        all_wrong(ports, &["", "-", "0-9", "9-8", "1-65536", "1-2-3", "a-b", "+1-2", "1 - 2"]);
    }

    #[test]
    fn a_program_is_absolute_or_a_name() {
        assert_eq!(good(program, "vllm=/opt/v=1"), ("vllm".to_owned(), "/opt/v=1".into()));
        assert_eq!(good(program, "vllm=my-vllm"), ("vllm".to_owned(), "my-vllm".into()));
        assert!(good(program, "vllm=./v").1.is_absolute());
        all_wrong(program, &["", "vllm", "vllm=", "=/x", "VLLM=/x"]);
    }

    #[test]
    fn memory_is_reserved_in_binary_units() {
        assert_eq!(good(reserve, "gpu0=1GiB"), (Device::Gpu(0), 1 << 30));
        assert_eq!(good(reserve, "gpu1:3=1.5G"), (Device::Mig { gpu: 1, instance: 3 }, 3 << 29));
        assert_eq!(good(reserve, "cpu=4096"), (Device::Cpu, 4096));
        for wrong in
            ["", "gpu0", "gpu0=", "=1GiB", "gpu0=1GB", "gpu0=-1", "gpu0=1e9", "gpu0=.5G", "gpu0=9999T"]
        {
            assert!(reserve(OsStr::new(wrong)).is_err(), "{wrong:?}");
        }
        all_wrong(device, &["", "gpu", "0", "gpu00", "gpu0:", "CPU"]);
    }

    #[test]
    fn numbers_are_plain_digits_within_bounds() {
        let small = |text: &str| number(OsStr::new(text), 1..=64_usize);
        assert_eq!(small("64"), Ok(64));
        for text in ["", "0", "65", "+1", "-1", "1.0", "0x1", "99999999999999999999"] {
            assert_eq!(small(text), Err("must be a whole number from 1 to 64".to_owned()), "{text:?}");
        }
    }
}
