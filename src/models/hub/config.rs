//! How the hub is reached, as `huggingface_hub` reads it from the environment.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use super::Times;
use super::proxy::Proxies;
use super::url::Url;
use crate::cli::Environment;
use crate::id::Token;
use crate::limits::{HUB_SECONDS, HUB_TIMEOUT, TOKEN_FILE_BYTES_MAX, TRANSFER_STALL};
use crate::models::open_regular;

/// The hub that everybody means.
const HUB: &str = "https://huggingface.co";

/// Where the hub is and what is shown to it.
#[derive(Debug, Clone, PartialEq)]
pub struct HubConfig {
    pub(super) endpoint: Endpoint,
    pub(super) tokens: Tokens,
    pub(super) proxies: Proxies,
    pub(super) is_offline: bool,
    pub(super) times: Times,
}

/// Where the hub is: a URL without a query, perhaps with a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint(Url);

/// Where the token comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tokens {
    None,
    Given(Token),
    /// Read anew for each question, so that a login counts at once. What holds no token is none.
    File(PathBuf),
}

impl HubConfig {
    /// Reads `HF_ENDPOINT`, `HF_TOKEN` (else `HUGGING_FACE_HUB_TOKEN`), `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
    /// `HF_HUB_OFFLINE` (else `TRANSFORMERS_OFFLINE`), `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`
    /// (seconds), the proxies, and where the token's file is: `HF_TOKEN_PATH`,
    /// `$HF_HOME/token`, `$XDG_CACHE_HOME/huggingface/token`, `~/.cache/huggingface/token`.
    ///
    /// # Errors
    /// Names the variable that is wrong and says what would be right; does not repeat it.
    pub fn from_env(env: Environment<'_>) -> Result<Self, String> {
        let text = |name| env(name).filter(|value| !value.is_empty());
        let is_true = |value: &std::ffi::OsString| {
            ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
        };
        let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
        let no_token = text("HF_HUB_DISABLE_IMPLICIT_TOKEN").as_ref().is_some_and(is_true);
        Ok(Self {
            endpoint: endpoint(env)?,
            tokens: if no_token { Tokens::None } else { tokens(env)? },
            proxies: Proxies::from_env(env)?,
            is_offline: offline.as_ref().is_some_and(is_true),
            times: times(env)?,
        })
    }

    /// A plain web server at `url`, which is shown no token and asked also where `HF_HUB_OFFLINE` is set; proxies and
    /// timeouts are those of the environment.
    ///
    /// # Errors
    /// If that is no `http` or `https` URL without user and query, or a proxy's variable is wrong.
    pub fn plain(url: &str, env: Environment<'_>) -> Result<Self, String> {
        let url = Url::parse(url).filter(|url| !url.has_query());
        Ok(Self {
            endpoint: url.map(Endpoint).ok_or("is no URL with a host and without user and query")?,
            tokens: Tokens::None,
            proxies: Proxies::from_env(env)?,
            is_offline: false,
            times: times(env)?,
        })
    }
}

impl HubConfig {
    /// Where the hub is; nothing if it is not to be asked.
    pub(crate) fn address(&self) -> Option<String> {
        (!self.is_offline).then(|| self.endpoint.0.uri().to_string())
    }
}

impl Endpoint {
    /// The URL of `rest`, which begins with a slash and is quoted.
    pub(super) fn url(&self, rest: &str) -> Option<Url> {
        Url::parse(&format!("{}{rest}", self.0.uri().to_string().trim_end_matches('/')))
    }

    pub(super) fn root(&self) -> &Url {
        &self.0
    }
}

impl Tokens {
    /// The token of now.
    pub(super) fn now(&self) -> Option<Token> {
        match self {
            Self::None => None,
            Self::Given(token) => Some(token.clone()),
            Self::File(path) => {
                let mut text = String::new();
                open_regular(path).ok()?.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
                cleaned(&text)?
            }
        }
    }
}

fn times(env: Environment<'_>) -> Result<Times, String> {
    Ok(Times {
        question: seconds(env, "HF_HUB_ETAG_TIMEOUT", HUB_TIMEOUT)?,
        stall: seconds(env, "HF_HUB_DOWNLOAD_TIMEOUT", TRANSFER_STALL)?,
    })
}

/// A time that is set as a number of seconds.
fn seconds(env: Environment<'_>, name: &str, usual: Duration) -> Result<Duration, String> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else { return Ok(usual) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    seconds.filter(|seconds| HUB_SECONDS.contains(seconds)).map(Duration::from_secs).ok_or_else(|| {
        let (least, most) = HUB_SECONDS.into_inner();
        format!("{name} is a number of seconds from {least} to {most}")
    })
}

fn endpoint(env: Environment<'_>) -> Result<Endpoint, String> {
    let given = env("HF_ENDPOINT").filter(|value| !value.is_empty()).unwrap_or_else(|| HUB.into());
    let url = given.to_str().filter(|text| !text.contains('#')).and_then(Url::parse);
    url.filter(|url| !url.has_query()).map(Endpoint).ok_or_else(|| {
        "HF_ENDPOINT is no hub: it is http:// or https://, a host without a user, and perhaps a port and a path".into()
    })
}

fn tokens(env: Environment<'_>) -> Result<Tokens, String> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        let Some(value) = env(name).filter(|value| !value.is_empty()) else { continue };
        match value.to_str().map(cleaned) {
            Some(Some(Some(token))) => return Ok(Tokens::Given(token)),
            Some(None) => break,
            _ => return Err(format!("{name} is no token: it is 1 to 1024 visible ASCII characters")),
        }
    }
    Ok(token_file(env).map_or(Tokens::None, Tokens::File))
}

/// The token in `text` without newlines and the space around it: none if nothing is left, `Some(None)` if that
/// is no token.
fn cleaned(text: &str) -> Option<Option<Token>> {
    let text = text.replace(['\r', '\n'], "");
    let text = text.trim();
    (!text.is_empty()).then(|| Token::parse(text))
}

fn token_file(env: Environment<'_>) -> Option<PathBuf> {
    let path = |name| env(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = path("HF_TOKEN_PATH")
        .or_else(|| path("HF_HOME").map(|home| home.join("token")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/token")))
        .unwrap_or_else(|| "~/.cache/huggingface/token".into());
    match found.strip_prefix("~") {
        Ok(rest) => path("HOME").filter(|home| home.is_absolute()).map(|home| home.join(rest)),
        Err(_) => Some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, String> {
        HubConfig::from_env(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    fn tokens_of(vars: &[(&str, &str)]) -> Tokens {
        config(vars).unwrap().tokens
    }

    #[test]
    fn an_endpoint_may_have_a_path_and_loses_its_slash() {
        let whole = |given| {
            let endpoint = config(&[("HF_ENDPOINT", given)])?.endpoint;
            Ok(endpoint.url("/api/x").unwrap().uri().to_string())
        };
        assert_eq!(whole(""), Ok("https://huggingface.co/api/x".into()));
        assert_eq!(whole("http://hub:8080"), Ok("http://hub:8080/api/x".into()));
        assert_eq!(whole("https://mirror/hf//"), Ok("https://mirror/hf/api/x".into()));
        for wrong in
            ["h0st", "h0st:80", "ftp://h0st", "http://me:pw@h0st", "http://h0st/?a", "http://h0st/#a"]
        {
            let error: String = whole(wrong).unwrap_err();
            assert!(error.starts_with("HF_ENDPOINT ") && !error.contains("h0st"), "{error}");
        }
    }

    #[test]
    fn a_token_comes_from_the_environment_first() {
        let given = |text| Tokens::Given(Token::parse(text).unwrap());
        let both = [("HF_TOKEN", " hf_a\r\n"), ("HUGGING_FACE_HUB_TOKEN", "hf_b"), ("HF_TOKEN_PATH", "/t")];
        assert_eq!(tokens_of(&both), given("hf_a"));
        assert_eq!(tokens_of(&both[1..]), given("hf_b"));
        assert_eq!(tokens_of(&both[2..]), Tokens::File("/t".into()));
        assert_eq!(
            tokens_of(&[("HF_TOKEN", " \n"), both[1], both[2]]),
            Tokens::File("/t".into()),
            "as there"
        );
        let off = [both[0], ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "Yes")];
        assert_eq!(tokens_of(&off), Tokens::None);
        let error = config(&[("HF_TOKEN", "s3 cret")]).unwrap_err();
        assert!(error.starts_with("HF_TOKEN ") && !error.contains("s3"), "{error}");
        assert!(!format!("{:?}", config(&both).unwrap()).contains("hf_a"));
    }

    #[test]
    fn the_file_of_the_token_lies_where_hugging_face_has_it() {
        let file = |vars: &[_]| match tokens_of(vars) {
            Tokens::File(path) => Some(path),
            _ => None,
        };
        let all = [("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(file(&all), Some("/h/hf/token".into()));
        assert_eq!(file(&all[1..]), Some("/x/huggingface/token".into()));
        assert_eq!(file(&all[2..]), Some("/h/.cache/huggingface/token".into()));
        assert_eq!(file(&[]), None);
    }

    #[test]
    fn a_login_and_a_logout_count_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let tokens = Tokens::File(path.clone());
        assert_eq!(tokens.now(), None);
        std::fs::write(&path, "hf_new\n").unwrap();
        assert_eq!(tokens.now(), Token::parse("hf_new"));
        std::fs::write(&path, "no token").unwrap();
        assert_eq!(tokens.now(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tokens.now(), None);
    }

    #[test]
    fn offline_is_a_word_of_truth() {
        let is_offline = |vars: &[_]| config(vars).unwrap().is_offline;
        for word in ["1", "ON", "yes", "True"] {
            assert!(is_offline(&[("HF_HUB_OFFLINE", word)]) && is_offline(&[("TRANSFORMERS_OFFLINE", word)]));
        }
        assert!(
            !is_offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]),
            "the first that is set"
        );
        assert!(!is_offline(&[]) && !is_offline(&[("HF_HUB_OFFLINE", "y")]));
    }
}
