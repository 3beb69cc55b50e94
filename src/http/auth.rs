//! Who asks, and whether they may: one function from a route's needs and the headers to [`Who`].

use std::net::Ipv4Addr;

use crate::http::endpoints::Access;
use crate::http::{ApiError, Code, Head};
use crate::id::{Run, Token, WorkerId};
use crate::lifecycle::picture::Snapshot;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// No token is configured, and none was shown: all is open.
    Anyone,
    /// No token is configured, and one was shown that is nobody's, or of a launch that is over: all is open
    /// but the callbacks.
    Stranger,
    /// The hive's own token.
    Queen,
    /// The token of a worker's present launch.
    Worker {
        /// Which worker.
        id: WorkerId,
        /// Which launch.
        run: Run,
    },
}

/// Tells who asks for something behind the token.
///
/// # Errors
/// 401 if a token is configured and none, or a wrong one, was shown; 403 if none is configured, and a web page of
/// somebody else's asks.
pub fn identify(token: Option<&Token>, snapshot: &Snapshot, head: &Head) -> Result<Who, ApiError> {
    let shown = bearer(head);
    let worker = |secret: &str| {
        let entry = snapshot.by_token(secret)?;
        Some(Who::Worker { id: entry.worker.worker_id.clone(), run: entry.run })
    };
    let Some(token) = token else {
        return match shown.map(|secret| worker(secret).unwrap_or(Who::Stranger)) {
            Some(worker @ Who::Worker { .. }) => Ok(worker),
            _ if is_of_another_site(head) => Err(ApiError::new(Code::Forbidden, OTHER_SITE)),
            stranger => Ok(stranger.unwrap_or(Who::Anyone)),
        };
    };
    let Some(secret) = shown else {
        return Err(ApiError::new(Code::MissingApiKey, "this hive wants `Authorization: Bearer <token>`"));
    };
    if token.matches(secret) {
        return Ok(Who::Queen);
    }
    worker(secret).ok_or_else(invalid)
}

const OTHER_SITE: &str = "without a token this hive is not for web pages of other sites: ask it at an address or as \
                          localhost, or give it a token";

/// Whether a web page of another site may be what asks. A browser on this machine lets any page send requests to
/// loopback: with its `Origin`, which simple ones lack, and `Sec-Fetch-Site`; or, once the page's own name leads here (DNS rebinding), with that name as `Host`.
fn is_of_another_site(head: &Head) -> bool {
    let host = head.header("Host").unwrap_or_default();
    let is_ours =
        |origin: &str| origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
    let is_from = |site: &str| site == "cross-site" || site == "same-site";
    head.header("Origin").is_some_and(|origin| !is_ours(origin))
        || head.header("Sec-Fetch-Site").is_some_and(is_from)
        || !is_of_this_machine(host)
}

/// Whether a `Host` is an address, or a name that nobody else can give out: one label, or `localhost`'s.
fn is_of_this_machine(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.starts_with('[')
        || name.parse::<Ipv4Addr>().is_ok()
        || !name.contains('.')
        || name.to_ascii_lowercase().ends_with(".localhost")
}

/// Whether the token shown is that of a worker's present launch.
pub fn is_worker(snapshot: &Snapshot, head: &Head) -> bool {
    bearer(head).is_some_and(|secret| snapshot.by_token(secret).is_some())
}

/// Checks that `who` may ask where there is `access`: a worker's token opens its own callbacks and nothing else, and
/// the queen's token does not open those.
///
/// # Errors
/// 403, or 401 for a callback with a token that is no worker's.
pub fn permit(who: &Who, access: Access) -> Result<(), ApiError> {
    let callback = access == Access::Worker;
    match (who, callback) {
        (Who::Anyone, _) | (Who::Queen | Who::Stranger, false) | (Who::Worker { .. }, true) => Ok(()),
        (Who::Stranger, true) => Err(invalid()),
        (Who::Worker { .. }, false) if access == Access::Anyone => Ok(()),
        _ => Err(forbidden()),
    }
}

/// Checks that a callback for `id` comes from that worker, and tells its launch.
///
/// # Errors
/// 403 if it comes from another one.
pub fn callback_run(who: &Who, id: &WorkerId) -> Result<Option<Run>, ApiError> {
    match who {
        Who::Anyone => Ok(None),
        Who::Worker { id: own, run } if own == id => Ok(Some(*run)),
        Who::Queen | Who::Stranger | Who::Worker { .. } => Err(forbidden()),
    }
}

fn invalid() -> ApiError {
    ApiError::new(Code::InvalidApiKey, "the token is not valid")
}

fn forbidden() -> ApiError {
    ApiError::new(Code::Forbidden, "this token is for something else")
}

/// The secret of `Authorization: Bearer <secret>`: scheme spelt exactly, one blank, one header.
pub fn bearer(head: &Head) -> Option<&str> {
    let secret = head.header("Authorization")?.strip_prefix("Bearer ")?;
    (!secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic())).then_some(secret)
}
