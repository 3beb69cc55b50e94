//! Who asks, and whether they may: one function from a route's needs and the headers to [`Who`].

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
/// 401 if a token is configured and none, or a wrong one, was shown.
pub fn identify(token: Option<&Token>, snapshot: &Snapshot, head: &Head) -> Result<Who, ApiError> {
    let shown = bearer(head);
    let worker = |secret: &str| {
        let entry = snapshot.by_token(secret)?;
        Some(Who::Worker { id: entry.worker.worker_id.clone(), run: entry.run })
    };
    let Some(token) = token else {
        return Ok(shown.map_or(Who::Anyone, |secret| worker(secret).unwrap_or(Who::Stranger)));
    };
    let Some(secret) = shown else {
        return Err(ApiError::new(Code::MissingApiKey, "this hive wants `Authorization: Bearer <token>`"));
    };
    if token.matches(secret) {
        return Ok(Who::Queen);
    }
    worker(secret).ok_or_else(invalid)
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
