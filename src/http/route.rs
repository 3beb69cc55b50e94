//! From method, path and query to a [`Route`]: pure and total.

use crate::http::endpoints::{ENDPOINTS, Found, find};
use crate::http::{ApiError, Code, Method};
use crate::id::WorkerId;
use crate::limits::{LOG_TAIL_LINES, LOG_TAIL_LINES_MAX};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /health`, `GET /v1/health`
    Health,
    /// `GET /ready`
    Readiness,
    /// `GET /metrics`
    Metrics,
    /// `GET /openapi.json`
    OpenApi,
    /// `GET /`
    Page,
    /// `GET /v1/devices`
    Devices,
    /// `GET /v1/status`
    Status,
    /// `GET /v1/capacity`
    Capacity {
        /// What is asked, as sent.
        query: String,
    },
    /// `POST /v1/workers/spawn`
    Spawn,
    /// `POST /v1/workers/ready`
    Ready,
    /// `GET /v1/workers/list`, `GET /v1/workers`
    List,
    /// `GET /v1/workers/kinds`
    Kinds,
    /// `GET /v1/workers/<id>`
    Worker(WorkerId),
    /// `DELETE /v1/workers/<id>`
    Stop {
        /// Which worker.
        id: WorkerId,
        /// SIGKILL now.
        force: bool,
    },
    /// `GET /v1/workers/<id>/logs`
    Logs {
        /// Whose.
        id: WorkerId,
        /// The last so many lines.
        tail: usize,
        /// Go on as the log grows.
        follow: bool,
        /// Of the run before the last one.
        previous: bool,
    },
    /// `POST /v1/workers/provision`
    Provision,
    /// `DELETE /v1/workers/kinds`
    RemoveKind {
        /// Which one, as sent.
        query: String,
    },
    /// `POST /v1/heartbeat`
    Heartbeat,
    /// `GET /v1/events`
    Events,
    /// `POST /v1/models/download`
    Download,
    /// `GET /v1/models/download/progress`
    Progress {
        /// Which one, as sent.
        query: String,
    },
    /// `DELETE /v1/models/download`
    CancelDownload {
        /// Which one, as sent.
        query: String,
    },
    /// `GET /v1/models`
    Models,
    /// `DELETE /v1/models`
    DeleteModel {
        /// Which one, as sent.
        query: String,
    },
    /// `POST /v1/drain`
    Drain,
    /// `POST /v1/shutdown`
    Shutdown,
}

/// Finds the endpoint, by its number in [`ENDPOINTS`], and the route. HEAD goes where GET goes.
///
/// # Errors
/// 404 for an unknown path, 405 with `Allow` for a method that a path lacks, 400 for a query that is wrong,
/// 404 for an id that no worker can have.
pub fn route(method: &Method, path: &str, query: &str) -> Result<(usize, Route), ApiError> {
    match find(method, path) {
        Found::Endpoint(at, id) => Ok((at, (ENDPOINTS[at].route)(id, query)?)),
        Found::OtherMethod(allow) => {
            let message = format!("this path takes {allow}");
            Err(ApiError::new(Code::MethodNotAllowed, message).with_header("Allow", allow))
        }
        Found::Nothing => Err(ApiError::new(Code::NotFound, "there is nothing at this path")),
    }
}

/// Whether a path is behind the token, known or not.
pub fn needs_token(path: &str) -> bool {
    (path == "/v1" || path.starts_with("/v1/")) && path != "/v1/health"
}

pub(super) fn stop(id: &str, query: &str) -> Result<Route, ApiError> {
    let force = Query(query).flag("force")?;
    Ok(Route::Stop { id: worker_id(id)?, force })
}

pub(super) fn logs(id: &str, query: &str) -> Result<Route, ApiError> {
    let query = Query(query);
    let (tail, follow, previous) = (query.lines("tail")?, query.flag("follow")?, query.flag("previous")?);
    if follow && previous {
        return Err(ApiError::argument("previous", "a run that is over cannot be followed"));
    }
    Ok(Route::Logs { id: worker_id(id)?, tail, follow, previous })
}

pub(super) fn worker_id(text: &str) -> Result<WorkerId, ApiError> {
    text.parse().map_err(|_| ApiError::new(Code::WorkerNotFound, "there is no such worker"))
}

/// The part after `?`. Names that a route does not know are ignored.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn value(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        });
        let first = values.next();
        if values.next().is_some() {
            return Err(ApiError::argument(name, format!("{name} must be given once")));
        }
        Ok(first)
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.value(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::argument(name, format!("{name} must be true or false"))),
        }
    }

    fn lines(&self, name: &str) -> Result<usize, ApiError> {
        let Some(text) = self.value(name)? else { return Ok(LOG_TAIL_LINES) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let lines = if digits { text.parse().ok() } else { None };
        lines.filter(|lines| *lines <= LOG_TAIL_LINES_MAX).ok_or_else(|| {
            ApiError::argument(
                name,
                format!("{name} must be a number of lines from 0 to {LOG_TAIL_LINES_MAX}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::endpoints::Access;

    fn ask(method: Method, path: &str, query: &str) -> Result<Route, (u16, &'static str)> {
        route(&method, path, query).map(|(_, route)| route).map_err(|error| error.code().wire())
    }

    #[test]
    fn each_path_has_its_methods() {
        use Method::{Delete, Get, Head, Options, Patch, Post, Put};
        let paths: [(&str, &[Method]); 24] = [
            ("/", &[Get, Head]),
            ("/health", &[Get, Head]),
            ("/ready", &[Get, Head]),
            ("/metrics", &[Get, Head]),
            ("/openapi.json", &[Get, Head]),
            ("/v1/devices", &[Get, Head]),
            ("/v1/status", &[Get, Head]),
            ("/v1/capacity", &[Get, Head]),
            ("/v1/health", &[Get, Head]),
            ("/v1/workers/spawn", &[Post]),
            ("/v1/workers/ready", &[Post]),
            ("/v1/workers/list", &[Get, Head]),
            ("/v1/workers", &[Get, Head]),
            ("/v1/workers/kinds", &[Get, Head, Delete]),
            ("/v1/workers/provision", &[Post]),
            ("/v1/workers/w-1", &[Get, Head, Delete]),
            ("/v1/workers/w-1/logs", &[Get, Head]),
            ("/v1/heartbeat", &[Post]),
            ("/v1/events", &[Get, Head]),
            ("/v1/models/download", &[Post, Delete]),
            ("/v1/models/download/progress", &[Get, Head]),
            ("/v1/models", &[Get, Head, Delete]),
            ("/v1/drain", &[Post]),
            ("/v1/shutdown", &[Post]),
        ];
        for (path, allowed) in paths {
            for method in [Get, Head, Post, Put, Delete, Patch, Options] {
                let answer = ask(method.clone(), path, "");
                if allowed.contains(&method) {
                    assert!(answer.is_ok(), "{method} {path}: {answer:?}");
                } else {
                    assert_eq!(answer, Err((405, "METHOD_NOT_ALLOWED")), "{method} {path}");
                }
            }
        }
    }

    #[test]
    fn allow_names_the_methods_of_a_path_and_literal_paths_are_no_workers() {
        for (method, path, allow) in [
            (Method::Post, "/health", "GET, HEAD"),
            (Method::Get, "/v1/workers/spawn", "POST"),
            (Method::Get, "/v1/models/download", "POST, DELETE"),
            (Method::Put, "/v1/workers/kinds", "GET, HEAD, DELETE"),
            (Method::Put, "/v1/workers/w-1", "GET, HEAD, DELETE"),
        ] {
            let error = route(&method, path, "").unwrap_err();
            let answer = error.into_answer(uuid::Uuid::nil());
            assert!(answer.headers.contains(&("Allow", allow.to_owned())), "{path}: {answer:?}");
        }
    }

    #[test]
    fn an_endpoint_has_a_name_of_its_own_and_wants_a_token_where_its_paths_do() {
        let names: std::collections::BTreeSet<&str> = ENDPOINTS.iter().map(|e| e.name).collect();
        assert_eq!(names.len(), ENDPOINTS.len());
        for endpoint in &ENDPOINTS {
            let is_open = endpoint.access == Access::Anyone;
            for path in [Some(endpoint.path), endpoint.alias].into_iter().flatten() {
                assert_eq!(needs_token(path), !is_open, "{path}");
            }
            assert!(!(is_open && endpoint.body.is_some()), "{}: strangers send no body", endpoint.name);
        }
    }

    #[test]
    fn unknown_paths_and_impossible_ids_are_not_found() {
        for path in ["", "*", "/v1", "/v1/", "/v2/health", "/health/", "/v1/workers/a/b", "//v1/workers"] {
            assert_eq!(ask(Method::Get, path, ""), Err((404, "NOT_FOUND")), "{path}");
        }
        for id in ["", "..", "a_b", "%2e%2e", "a b", &"x".repeat(65)] {
            let path = format!("/v1/workers/{id}");
            assert_eq!(ask(Method::Get, &path, ""), Err((404, "WORKER_NOT_FOUND")), "{path}");
        }
    }

    #[test]
    fn a_query_is_read_strictly_and_strangers_in_it_are_ignored() {
        let id = || "w".parse().unwrap();
        let logs = |query| ask(Method::Get, "/v1/workers/w/logs", query);
        assert_eq!(logs(""), Ok(Route::Logs { id: id(), tail: 100, follow: false, previous: false }));
        assert_eq!(
            logs("tail=7&follow=true&x=y"),
            Ok(Route::Logs { id: id(), tail: 7, follow: true, previous: false })
        );
        for wrong in [
            "tail=",
            "tail=-1",
            "tail=+1",
            "tail=1e3",
            "tail=10001",
            "tail=1&tail=2",
            "follow=1",
            "follow=true&previous=true",
        ] {
            assert_eq!(logs(wrong), Err((400, "INVALID_ARGUMENT")), "{wrong}");
        }
        assert_eq!(
            ask(Method::Delete, "/v1/workers/w", "force=true"),
            Ok(Route::Stop { id: id(), force: true })
        );
        assert_eq!(ask(Method::Delete, "/v1/workers/w", "force"), Err((400, "INVALID_ARGUMENT")));
    }
}
