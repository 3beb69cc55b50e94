//! `POST /v1/workers/provision` and `DELETE /v1/workers/kinds`: what is installed.

use std::path::PathBuf;
use std::sync::Arc;

use log::error;
use serde_json::json;

use crate::api::{Message, Progress, ProvisionResponse};
use crate::http::{Answer, ApiError, Body, Code, Pull, Request, Source, Ticket};
use crate::kinds::provision::{KindName, Present, Provision, ProvisionError, Refused, Stage, Wish};
use crate::kinds::{Kind, find_program, listing};
use crate::limits::VERSION_DEADLINE;
use crate::models::remote::HubError;
use crate::process::versions::Versions;

use super::arguments::Arguments;
use super::{Api, Reply, shutting_down};

/// Answers once the kind is here; holds no request thread for that. Who accepts an event stream is told how far it is.
pub(super) fn provision(api: &Api, request: &Request) -> Result<Reply, ApiError> {
    let wish = wish(&Arguments::parse(&request.body)?)?;
    let accepted = request.head.header("Accept");
    let wants_stream = accepted.is_some_and(|accepted| accepted.contains("text/event-stream"));
    let provision = match api.provisions.present(&wish) {
        Present::Here(kind) => {
            let versions = api.versions.clone();
            let answer = move |ticket| check(&versions, &kind, None, wants_stream, ticket);
            return Ok(Reply::Later(Box::new(answer)));
        }
        Present::NotOurs => {
            let message = "the kind's program comes from PATH, --worker or its manifest, and is not replaced";
            return Err(ApiError::new(Code::KindNotInstalled, message));
        }
        Present::Absent => api.provisions.provide(wish).map_err(|refused| match refused {
            Refused::Ended => shutting_down(),
            Refused::TooMany => overloaded("too many provisions are under way"),
        })?,
    };
    if wants_stream {
        let kinds = Arc::clone(&api.kinds);
        return Ok(Reply::Stream(Box::new(ProvisionStream { provision, kinds, seen: None })));
    }
    let (versions, kinds) = (api.versions.clone(), Arc::clone(&api.kinds));
    Ok(Reply::Later(Box::new(move |ticket| {
        let name = provision.wish().kind.clone();
        provision.at_end(move |outcome| match (outcome, kinds.get().get(name.as_str())) {
            (Ok(install), Some(kind)) => {
                check(&versions, kind, Some(&install.record().version), false, ticket);
            }
            (Ok(_), None) => ticket.error(ApiError::new(Code::KindNotInstalled, "it was removed again")),
            (Err(why), _) => ticket.error(refusal(why)),
        });
    })))
}

/// 202: the kind is not offered any more.
pub(super) fn remove(api: &Api, arguments: &Arguments) -> Result<Answer, ApiError> {
    let name: KindName = parsed("kind", arguments.needed_text("kind")?)?;
    match api.provisions.shelf().remove(name.as_str()) {
        Ok(true) => {
            let message =
                "the kind is not installed any more; its files go when no worker uses them".to_owned();
            Ok(Answer::json(202, &Message { message }))
        }
        Ok(false) => Err(ApiError::new(Code::KindNotFound, "this hive has not installed such a kind")),
        Err(why) => {
            error!("a kind cannot be removed kind={} error={why}", name.as_str());
            Err(ApiError::new(Code::Internal, "the data directory cannot be written"))
        }
    }
}

fn wish(arguments: &Arguments) -> Result<Wish, ApiError> {
    let kind = parsed("kind", arguments.needed_text("kind")?)?;
    let version = arguments.text("version")?.map(|text| parsed("version", text)).transpose()?;
    let sha256 = arguments.text("sha256")?.map(|text| parsed("sha256", text)).transpose()?;
    Ok(Wish { kind, version, sha256 })
}

fn parsed<T: std::str::FromStr<Err = &'static str>>(field: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|wrong| ApiError::argument(field, format!("{field} {wrong}")))
}

/// Answers where the program of `kind` is, once it has told its version. One that somebody else put there and that
/// does not tell it is none; one that the hive installed, now (`installed`) or before, is named by the version that was
/// fetched. Who accepts a stream is told no more than its end.
fn check(versions: &Versions, kind: &Kind, installed: Option<&str>, wants_stream: bool, ticket: Ticket) {
    let Some(path) = find_program(kind) else {
        return ticket.error(ApiError::new(Code::KindNotInstalled, "the kind's program is gone again"));
    };
    let program = listing::program(kind, &path);
    let (is_asked, name) = (program.is_some(), kind.name.clone());
    let (path, installed) = (path.to_string_lossy().into_owned(), installed.map(str::to_owned));
    let before = kind.install.as_ref().map(|install| install.record().version.clone());
    versions.ask(vec![program], VERSION_DEADLINE, move |mut told| {
        let told = told.pop().flatten();
        let (version, message) = match (told, installed) {
            (None, None) if is_asked && before.is_none() => {
                let message = "the kind's program is here, and does not tell its version: it may not run on this machine";
                return ticket.error(ApiError::new(Code::KindNotInstalled, message));
            }
            (told, None) => (told.or(before), "it is here already".to_owned()),
            (None, Some(fetched)) if is_asked => {
                let message = format!("version {fetched} is installed; its program does not tell its version");
                (Some(fetched), message)
            }
            (told, Some(fetched)) => {
                let message = format!("version {fetched} is installed");
                (told.or(Some(fetched)), message)
            }
        };
        ticket.answer(if wants_stream {
            let mut events = Vec::new();
            tell(&mut events, &Progress::Complete { local_path: path });
            done(&mut events);
            Answer::bytes(200, "text/event-stream", Body::Owned(events))
        } else {
            Answer::json(200, &ProvisionResponse { kind: name, path, version, message })
        });
    });
}

fn overloaded(message: &str) -> ApiError {
    ApiError::new(Code::Overloaded, message).with_header("Retry-After", "10")
}

fn refusal(why: &ProvisionError) -> ApiError {
    let error = ApiError::new(code(why), why.to_string());
    match why {
        ProvisionError::NoSpace { required_bytes, available_bytes } => error
            .with_details(json!({ "required_bytes": required_bytes, "available_bytes": available_bytes })),
        ProvisionError::TooManyWait => error.with_header("Retry-After", "10"),
        _ => error,
    }
}

fn code(why: &ProvisionError) -> Code {
    match why {
        ProvisionError::NoServer => Code::KindNotInstalled,
        ProvisionError::NotThere => Code::KindNotFound,
        ProvisionError::Server(HubError::Cut) => Code::ShuttingDown,
        ProvisionError::NoChecksum
        | ProvisionError::BadChecksum
        | ProvisionError::WrongChecksum
        | ProvisionError::Length(_)
        | ProvisionError::Server(_)
        | ProvisionError::BadArtifact(_) => Code::Upstream,
        ProvisionError::NoSpace { .. } | ProvisionError::DiskFull => Code::InsufficientDisk,
        ProvisionError::Disk(_) => Code::Internal,
        ProvisionError::TooManyWait => Code::Overloaded,
    }
}

/// One reader of a provision's progress: gets the present state whenever it is another than the one it has.
struct ProvisionStream {
    provision: Arc<Provision>,
    kinds: Arc<crate::latest::Latest<crate::kinds::Kinds>>,
    seen: Option<u64>,
}

impl ProvisionStream {
    fn program(&self) -> Option<PathBuf> {
        find_program(self.kinds.get().get(self.provision.wish().kind.as_str())?)
    }

    fn wire(&self, stage: &Stage) -> Progress {
        match stage {
            Stage::Downloading { bytes, total_bytes, bytes_per_second, attempt } => Progress::Downloading {
                bytes_downloaded: *bytes,
                bytes_total: *total_bytes,
                speed_mbps: (bytes_per_second * 8.0 / 1e5).round() / 10.0,
                file: self.provision.wish().kind.as_str().to_owned(),
                attempt: *attempt,
            },
            Stage::Installing => Progress::Verifying,
            Stage::Ended(Err(why)) => {
                Progress::Error { code: code(why).wire().1.to_owned(), message: why.to_string() }
            }
            Stage::Ended(Ok(_)) => match self.program() {
                Some(path) => Progress::Complete { local_path: path.to_string_lossy().into_owned() },
                None => Progress::Error {
                    code: Code::KindNotInstalled.wire().1.to_owned(),
                    message: "it was removed again".to_owned(),
                },
            },
        }
    }
}

impl Source for ProvisionStream {
    fn pull(&mut self, out: &mut Vec<u8>, _room: usize) -> Pull {
        let (number, stage) = self.provision.now();
        if self.seen != Some(number) {
            self.seen = Some(number);
            tell(out, &self.wire(&stage));
        }
        if matches!(stage, Stage::Ended(_)) { done(out) } else { Pull::Wait }
    }
}

fn tell(out: &mut Vec<u8>, progress: &Progress) {
    let data = serde_json::to_string(progress).expect("wire types are valid JSON");
    out.extend_from_slice(format!("data: {data}\n\n").as_bytes());
}

fn done(out: &mut Vec<u8>) -> Pull {
    out.extend_from_slice(b"data: [DONE]\n\n");
    Pull::End
}
