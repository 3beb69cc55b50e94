//! What the hub answers: a request and what is served go in, an answer comes out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::body::Reply;
use super::fault::{HubCode, Place};
use super::log::Side;
use super::repository::{Access, Commit, Content, Entry, Served};
use super::serve::{Request, Shared};
use crate::limits;

/// What a path keeps as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An answer, and what it was to.
pub(super) struct Routed {
    pub(super) place: Option<Place>,
    /// `org/repo/path/of/file`, or `org/repo`.
    pub(super) subject: String,
    /// How often the location was used, this time included; of the CDN.
    pub(super) uses: u64,
    pub(super) reply: Reply,
}

/// What `request` to this side gets while nothing goes wrong.
pub(super) fn route(shared: &Shared, side: Side, request: &Request) -> Routed {
    let parts: Option<Vec<_>> = request.path.split('/').skip(1).map(decoded).collect();
    let parts = parts.unwrap_or_default();
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    let routed = |place, subject, reply| Routed { place, subject, uses: 0, reply };
    match (side, parts.as_slice()) {
        (Side::Cdn, [org, repo, sha256, path @ ..]) => {
            let (uses, reply) = stored(shared, request, &format!("{org}/{repo}"), sha256);
            let subject = format!("{org}/{repo}/{}", path.join("/"));
            Routed { uses, ..routed(Some(Place::Cdn), subject, reply) }
        }
        (Side::Hub, ["api", "models", org, repo]) => {
            let name = format!("{org}/{repo}");
            let reply = info(shared, request, &name, "main");
            routed(Some(Place::Info), name, reply)
        }
        (Side::Hub, ["api", "models", org, repo, "revision", revision]) => {
            let name = format!("{org}/{repo}");
            let reply = info(shared, request, &name, revision);
            routed(Some(Place::Info), name, reply)
        }
        (Side::Hub, ["api", "models", org, repo, "tree", revision]) => {
            let name = format!("{org}/{repo}");
            let reply = tree(shared, request, &name, revision);
            routed(Some(Place::Tree), name, reply)
        }
        (Side::Hub, [org, repo, "resolve", revision, path @ ..]) => {
            let (name, path) = (format!("{org}/{repo}"), path.join("/"));
            let reply = resolve(shared, request, &name, revision, &path);
            routed(Some(Place::Resolve), format!("{name}/{path}"), reply)
        }
        _ => routed(None, String::new(), Reply::text(404, "text/plain; charset=utf-8", "Not Found\n")),
    }
}

/// A refusal of the hub's.
pub(super) fn refuse(code: HubCode, with_token: bool) -> Reply {
    let message = match code {
        HubCode::RepoNotFound if with_token => "Repository not found",
        HubCode::RepoNotFound => "Invalid username or password.",
        HubCode::GatedRepo => "Access to this model is restricted.",
        HubCode::RevisionNotFound => "Invalid rev id",
        HubCode::EntryNotFound => "Entry not found",
    };
    json_reply(code.status(with_token), &json!({ "error": message }))
        .with("X-Error-Code", code.name())
        .with("X-Error-Message", message)
}

fn json_reply(status: u16, value: &Value) -> Reply {
    Reply::text(status, "application/json; charset=utf-8", value.to_string())
}

fn decoded(part: &str) -> Option<String> {
    Some(percent_decode_str(part).decode_utf8().ok()?.into_owned())
}

/// Calls `answer` with a repository that `request` may see: with its bytes, if `wants_bytes`.
fn with_repository(
    shared: &Shared,
    request: &Request,
    name: &str,
    wants_bytes: bool,
    answer: impl FnOnce(&Served) -> Reply,
) -> Reply {
    let token = &shared.options.token;
    let is_known = request.token.as_ref().map(|sent| token.as_ref().is_some_and(|token| token.matches(sent)));
    if is_known == Some(false) && token.is_some() {
        let message = "Invalid credentials in Authorization header";
        return json_reply(401, &json!({ "error": message })).with("X-Error-Message", message);
    }
    let is_known = is_known == Some(true);
    let repositories = shared.repositories();
    match repositories.get(name) {
        Some(served) => match served.access {
            Access::Private if !is_known => refuse(HubCode::RepoNotFound, is_known),
            Access::Gated if wants_bytes && !is_known => refuse(HubCode::GatedRepo, is_known),
            Access::Closed if wants_bytes => refuse(HubCode::GatedRepo, is_known),
            _ => answer(served),
        },
        None => refuse(HubCode::RepoNotFound, is_known),
    }
}

fn with_commit(
    shared: &Shared,
    request: &Request,
    at: (&str, &str),
    wants_bytes: bool,
    answer: impl FnOnce(&Served, &Arc<Commit>) -> Reply,
) -> Reply {
    with_repository(shared, request, at.0, wants_bytes, |served| match served.commit(at.1) {
        Some(commit) => answer(served, commit),
        None => refuse(HubCode::RevisionNotFound, request.token.is_some()),
    })
}

/// `/api/models/org/repo/revision/…`
fn info(shared: &Shared, request: &Request, name: &str, revision: &str) -> Reply {
    with_commit(shared, request, (name, revision), false, |served, commit| {
        let with_blobs = request.query("blobs").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let sibling = |(path, entry): (&String, &Entry)| {
            let mut sibling = json!({ "rfilename": path });
            if with_blobs {
                sibling["size"] = entry.content.len().into();
                sibling["blobId"] = entry.oid.as_str().into();
                if let Some(lfs) = &entry.lfs {
                    sibling["lfs"] = json!({ "sha256": lfs.sha256, "size": entry.content.len(),
                        "pointerSize": lfs.pointer_bytes });
                }
            }
            sibling
        };
        let gated = match served.access {
            Access::Gated | Access::Closed => json!("manual"),
            Access::Public | Access::Private => json!(false),
        };
        json_reply(
            200,
            &json!({ "_id": &commit.id[..24], "id": name, "modelId": name, "sha": commit.id,
                "author": name.split('/').next(), "private": served.access == Access::Private, "gated": gated,
                "disabled": false, "tags": [], "downloads": 0, "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": commit.files.iter().map(sibling).collect::<Vec<_>>() }),
        )
    })
}

/// Makes the lengths in a list of files off by so much.
pub(super) fn lie_about_sizes(reply: &mut Reply, by: i64) {
    let Content::Memory(bytes) = &reply.content else { return };
    let Ok(mut list) = serde_json::from_slice::<Value>(bytes) else { return };
    for file in list.as_array_mut().into_iter().flatten() {
        let is_large = file.get("lfs").is_some();
        let told = std::iter::once("/size").chain(is_large.then_some("/lfs/size"));
        for size in told {
            if let Some(size) = file.pointer_mut(size) {
                *size = size.as_u64().map(|bytes| bytes.saturating_add_signed(by)).into();
            }
        }
    }
    let bytes = list.to_string().into_bytes();
    reply.range = 0..bytes.len() as u64;
    reply.content = Content::Memory(bytes.into());
}

/// `/api/models/org/repo/tree/…`
fn tree(shared: &Shared, request: &Request, name: &str, revision: &str) -> Reply {
    with_commit(shared, request, (name, revision), false, |_, commit| {
        let is_recursive = request.query("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let folders = commit.folders().into_iter().map(|path| {
            // A tree's id, as far as anybody here cares.
            (path, json!({ "type": "directory", "oid": commit.id, "size": 0, "path": path }))
        });
        let files = commit.files.iter().map(|(path, entry)| {
            let mut file =
                json!({ "type": "file", "oid": entry.oid, "size": entry.content.len(), "path": path });
            if let Some(lfs) = &entry.lfs {
                file["lfs"] = json!({ "oid": lfs.sha256, "size": entry.content.len(),
                    "pointerSize": lfs.pointer_bytes });
            }
            (path.as_str(), file)
        });
        let entries: BTreeMap<_, _> = folders.chain(files).collect();
        let entries = entries.into_iter().filter(|(path, _)| is_recursive || !path.contains('/'));
        let from = request.query("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let page = shared.options.page.max(1);
        let mut entries: Vec<_> = entries.map(|(_, entry)| entry).skip(from).take(page + 1).collect();
        let has_more = entries.len() > page;
        entries.truncate(page);
        let reply = json_reply(200, &Value::Array(entries)).with("X-Repo-Commit", &commit.id);
        if has_more {
            let (path, next) = (&request.path, from + page);
            let next = format!("{}{path}?recursive={is_recursive}&cursor={next}", shared.url);
            return reply.with("Link", format!("<{next}>; rel=\"next\""));
        }
        reply
    })
}

/// `/org/repo/resolve/…`
fn resolve(shared: &Shared, request: &Request, name: &str, revision: &str, path: &str) -> Reply {
    with_commit(shared, request, (name, revision), true, |_, commit| {
        let commit_id = commit.id.as_str();
        let Some(entry) = commit.files.get(path) else {
            return refuse(HubCode::EntryNotFound, request.token.is_some()).with("X-Repo-Commit", commit_id);
        };
        let Some(lfs) = &entry.lfs else {
            return bytes_of(entry, request)
                .with("Content-Type", "text/plain; charset=utf-8")
                .with("X-Repo-Commit", commit_id);
        };
        let path = utf8_percent_encode(path, PATH);
        let signature = shared.locations().sign();
        let location = format!(
            "{}/{name}/{}/{path}?response-content-disposition=inline&Expires=4102444800&Signature={signature}",
            shared.cdn_url, lfs.sha256
        );
        Reply::text(302, "text/plain; charset=utf-8", format!("Found. Redirecting to {location}"))
            .with("Location", location)
            .with("ETag", format!("\"{}\"", entry.oid))
            .with("X-Repo-Commit", commit_id)
            .with("X-Linked-Size", entry.content.len().to_string())
            .with("X-Linked-Etag", format!("\"{}\"", lfs.sha256))
            .with("Accept-Ranges", "bytes")
    })
}

/// The CDN's answer to a location, and how often that was used.
fn stored(shared: &Shared, request: &Request, name: &str, sha256: &str) -> (u64, Reply) {
    let uses = request.query("Signature").and_then(|signature| shared.locations().used(signature));
    let Some(uses) = uses else { return (0, denied()) };
    if request.token.is_some() {
        let why =
            "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>";
        return (uses, Reply::text(400, "application/xml", why));
    }
    let repositories = shared.repositories();
    let reply = match repositories.get(name).and_then(|served| served.large(sha256)) {
        Some(entry) => bytes_of(entry, request),
        None => denied(),
    };
    (uses, reply)
}

/// What a storage says to a location that is not signed, or not any more.
pub(super) fn denied() -> Reply {
    let why = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code>\
               <Message>Access denied</Message></Error>";
    Reply::text(403, "application/xml", why)
}

/// The part of a file that is asked for.
fn bytes_of(entry: &Entry, request: &Request) -> Reply {
    let total = entry.content.len();
    let etag = format!("\"{}\"", entry.etag());
    let is_other = request.if_range.as_ref().is_some_and(|known| *known != etag);
    let asked = request.range.as_deref().filter(|_| !is_other).and_then(|range| parse_range(range, total));
    if asked.as_ref().is_some_and(Range::is_empty) {
        return Reply::text(416, "text/plain", "").with("Content-Range", format!("bytes */{total}"));
    }
    let reply = Reply {
        status: if asked.is_some() { 206 } else { 200 },
        headers: vec![("Content-Type", "application/octet-stream".to_owned())],
        content: Content::clone(&entry.content),
        range: asked.unwrap_or(0..total),
        is_bytes: true,
    };
    reply.with("ETag", etag).with("Accept-Ranges", "bytes")
}

/// The bytes that `text` asks for: RFC 9110, 14.1.2, one range. Empty if there are none of them; `None` where
/// it is not understood, and everything is sent.
fn parse_range(text: &str, total: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some(total.saturating_sub(last.parse().ok()?)..total);
    }
    let first: u64 = first.parse().ok()?;
    let end = if last.is_empty() { total } else { last.parse::<u64>().ok()?.saturating_add(1).min(total) };
    Some(first.min(end)..end)
}

/// The locations that were given out.
#[derive(Debug, Default)]
pub(super) struct Locations {
    next: u64,
    /// How often each was used.
    uses: BTreeMap<u64, u64>,
}

impl Locations {
    fn sign(&mut self) -> String {
        self.next += 1;
        self.uses.insert(self.next, 0);
        if self.uses.len() > limits::MOCK_HUB_LOCATIONS_MAX {
            self.uses.pop_first();
        }
        format!("{:032x}", self.next)
    }

    fn used(&mut self, signature: &str) -> Option<u64> {
        let uses = self.uses.get_mut(&u64::from_str_radix(signature, 16).ok()?)?;
        *uses += 1;
        Some(*uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=90-", Some(90..100)),
            ("bytes=90-1000", Some(90..100)),
            ("bytes=-10", Some(90..100)),
            ("bytes=-1000", Some(0..100)),
            ("bytes=100-", Some(100..100)),
            ("bytes=200-300", Some(100..100)),
            ("bytes=1-2,5-6", None),
            ("bytes=a-", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(parse_range(text, 100), wanted, "{text}");
        }
        assert!(parse_range("bytes=5-3", 100).unwrap().is_empty());
    }

    #[test]
    fn a_location_is_known_and_counted() {
        let mut locations = Locations::default();
        let signature = locations.sign();
        assert_eq!([locations.used(&signature), locations.used(&signature)], [Some(1), Some(2)]);
        assert_eq!([locations.used("x"), locations.used("ff")], [None, None]);
    }
}
