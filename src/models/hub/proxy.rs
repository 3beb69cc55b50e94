//! Proxies, as the HTTP client of `huggingface_hub` reads them from the environment.

use ureq::{Proxy, ProxyProtocol};

use super::url::Url;
use crate::cli::Environment;

/// Which proxy is used for which address.
///
/// `HTTP_PROXY` and `HTTPS_PROXY` are for addresses of their scheme, `ALL_PROXY` where there is none; names in
/// lower case come first. `NO_PROXY` lists what is reached without: `*`, a host (with all below it, if it is no
/// address), `.domain` (only what is below it), each perhaps with a port. Loopback never has a proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq)]
enum Direct {
    All,
    Host { name: String, port: Option<u16>, itself: bool, below: bool },
}

impl Proxies {
    /// # Errors
    /// Names the variable that holds no proxy which can be used, and says what it may hold.
    pub(super) fn from_env(env: Environment<'_>) -> Result<Self, String> {
        let var = |name: &'static str| {
            let names = [name.to_ascii_lowercase(), name.to_owned()];
            names
                .iter()
                .find_map(|name| env(name))
                .filter(|value| !value.is_empty())
                .map(|value| (name, value))
        };
        let proxy = |name| {
            match var(name).or_else(|| var("ALL_PROXY")) {
            Some((name, value)) => value.to_str().and_then(parse).map(Some).ok_or_else(|| {
                format!("{name} is no proxy: it is http://host:port or https://host:port, perhaps with user:password@")
            }),
            None => Ok(None),
        }
        };
        let direct =
            var("NO_PROXY").map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            direct: direct.split(',').filter_map(Direct::parse).collect(),
        })
    }

    /// The proxy on the way to `url`.
    pub(super) fn of(&self, url: &Url) -> Option<&Proxy> {
        let proxy = if url.is_https() { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !url.is_loopback() && !self.direct.iter().any(|direct| direct.is_for(url)))
    }
}

fn parse(text: &str) -> Option<Proxy> {
    let text = text.trim();
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let is_connect = |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    Proxy::new(&url).ok().filter(is_connect).filter(|proxy| !proxy.host().is_empty())
}

impl Direct {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        let entry = entry.split_once("://").map_or(entry.as_str(), |(_, host)| host);
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (entry, None),
        };
        let host = host.trim_matches(['[', ']']);
        let (name, itself) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Some(domain) => (domain, false),
            None => (host, true),
        };
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        (!name.is_empty()).then(|| Self::Host { name: name.to_owned(), port, itself, below: !is_address })
    }

    fn is_for(&self, url: &Url) -> bool {
        let Self::Host { name, port, itself, below } = self else { return true };
        let host = url.host();
        let is_below = || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
        port.is_none_or(|port| port == url.port()) && ((*itself && host == *name) || (*below && is_below()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Result<Proxies, String> {
        Proxies::from_env(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    fn way(proxies: &Proxies, url: &str) -> Option<String> {
        let url = Url::parse(url).unwrap();
        proxies.of(&url).map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let found = proxies(&[("HTTPS_PROXY", "http://s:1"), ("https_proxy", "low:2"), ("ALL_PROXY", "a:3")])
            .unwrap();
        assert_eq!(way(&found, "https://hub/"), Some("low:2".into()));
        assert_eq!(way(&found, "http://hub/"), Some("a:3".into()));
        assert_eq!(way(&found, "https://localhost:1/"), None);
        assert_eq!(way(&found, "http://127.0.0.1:1/"), None);
        assert_eq!(way(&proxies(&[]).unwrap(), "https://hub/"), None);
    }

    #[test]
    fn what_needs_no_proxy_has_none() {
        let none = " hub.example, .below.example,10.0.0.7,other:8080,[2001:db8::1],,";
        let found = proxies(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", none)]).unwrap();
        for direct in [
            "https://hub.example/",
            "https://cdn.HUB.example/",
            "https://a.below.example/",
            "http://10.0.0.7:99/",
            "http://other:8080/",
            "http://[2001:db8::1]/",
        ] {
            assert_eq!(way(&found, direct), None, "{direct}");
        }
        for proxied in
            ["https://nohub.example/", "https://below.example/", "http://other/", "http://1.10.0.0.7/"]
        {
            assert!(way(&found, proxied).is_some(), "{proxied}");
        }
        let found = proxies(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", "a, *")]).unwrap();
        assert_eq!(way(&found, "https://hub/"), None);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_said_by_name_alone() {
        for wrong in ["socks5://p:1", "http://", "http://p:s3cret@ x"] {
            let error = proxies(&[("HTTP_PROXY", "http://p:1"), ("HTTPS_PROXY", wrong)]).unwrap_err();
            assert!(error.starts_with("HTTPS_PROXY is no proxy") && !error.contains("s3cret"), "{error}");
        }
        let unused = [("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "p:1"), ("ALL_PROXY", "socks5://p:2")];
        assert!(proxies(&unused).is_ok(), "what is not used cannot be wrong");
    }
}
