//! The hive's [`Service`]: from a [`Request`] to a call of the domain and back, a few lines each.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use log::{debug, warn};

use crate::api::{
    API_VERSION, BOOT_HEADER, DrainResponse, Health, HealthReason, HealthStatus, HiveStatus, Readiness,
    ShutdownResponse, ShutdownWorkers,
};
use crate::capacity::inspect::Inspector;
use crate::capacity::ledger::Rules;
use crate::devices::Devices;
use crate::health::{Condition, Conditions};
use crate::http::auth::{self, Who};
use crate::http::endpoints::{self, Access, ENDPOINTS, Endpoint, Found};
use crate::http::events::EventStream;
use crate::http::metrics::Requests;
use crate::http::openapi;
use crate::http::page;
use crate::http::route::{self, Route};
use crate::http::{
    Answer, ApiError, Body, Code, Head, Peer, Request, Service, Source, StreamWaker, Ticket, Verdict,
};
use crate::id::{Token, WorkerId};
use crate::kinds::Kinds;
use crate::kinds::provision::Provisions;
use crate::latest::Latest;
use crate::lifecycle::picture::Picture;
use crate::lifecycle::supervisor::{Inbox, NoAnswer};
use crate::limits::{HUB_ANSWER_MAX, REPLY_WAIT};
use crate::models::catalog::Catalog;
use crate::models::downloads::Downloads;
use crate::models::hub::Hub;
use crate::net::Cut;
use crate::process::follow::Followers;
use crate::process::keep::Keeper;
use crate::process::log::Logs;
use crate::process::versions::Versions;
use crate::relay::Posts;

use arguments::{Arguments, wrong};
pub use entry::Entry;
use locate::Halt;
pub use metrics::Spawns;
pub use status::About;

mod arguments;
mod capacity;
pub mod downloads;
mod entry;
mod kinds;
mod locate;
mod metrics;
mod models;
mod provision;
mod spawn;
mod status;
mod weigh;
mod wish;
mod workers;

/// All that answers need.
pub struct Api {
    /// Who this hive is.
    pub about: About,
    /// Requests by endpoint and status.
    pub requests: Requests,
    /// Spawns by result.
    pub spawns: Spawns,
    /// How heartbeats to the queen went; `None` without one.
    pub posts: Option<Arc<Posts>>,
    /// What opens the hive; `None`: all is open.
    pub token: Arc<Latest<Option<Token>>>,
    /// Who has shown wrong ones.
    pub entry: Entry,
    /// What reads are answered from.
    pub picture: Arc<Picture>,
    /// What changes things.
    pub inbox: Inbox,
    /// How workers are launched.
    pub kinds: Arc<Latest<Kinds>>,
    /// What asks their programs for versions.
    pub versions: Versions,
    /// The model cache.
    pub model_dir: PathBuf,
    /// What is in it.
    pub catalog: Catalog,
    /// Where models are fetched from.
    pub hub: Hub,
    /// What ends questions to the hub.
    pub(crate) hub_cut: Cut,
    /// Takes requests that have to ask the hub.
    pub hub_desk: Sender<Option<(Request, Ticket)>>,
    /// What fetches models.
    pub downloads: Downloads,
    /// What fetches programs of workers.
    pub provisions: Provisions,
    /// What reads the headers of models, and remembers them.
    pub inspector: Inspector,
    /// What looks at the devices.
    pub devices: Devices,
    /// What the operator keeps from the hive.
    pub rules: Rules,
    /// What is wrong with the hive.
    pub conditions: Conditions,
    /// Workers' logs.
    pub logs: Arc<Logs>,
    /// What keeps them within their bound, and looks at the disk.
    pub keeper: Keeper,
    /// Ports that a spawn may hint at.
    pub worker_ports: RangeInclusive<u16>,
    /// Who lets readers of logs in.
    pub followers: Followers,
    /// What makes event streams look again; set once the server runs.
    pub streams: Arc<OnceLock<StreamWaker>>,
}

enum Reply {
    Answer(Answer),
    Stream(Box<dyn Source>),
    /// Somebody else answers.
    Later(Box<dyn FnOnce(Ticket)>),
}

/// A request that may be answered.
struct Admitted {
    /// By which endpoint, by its number.
    at: usize,
    route: Route,
    who: Who,
}

impl Admitted {
    fn endpoint(&self) -> &'static Endpoint {
        &ENDPOINTS[self.at]
    }
}

impl Api {
    fn admit(&self, head: &Head) -> Result<Admitted, ApiError> {
        self.permit(self.identify(head)?, head)
    }

    fn identify(&self, head: &Head) -> Result<Who, ApiError> {
        if !route::needs_token(&head.path) {
            return Ok(Who::Anyone);
        }
        auth::identify(self.token.get().as_ref().as_ref(), &self.picture.snapshot(), head)
    }

    fn permit(&self, who: Who, head: &Head) -> Result<Admitted, ApiError> {
        let (at, route) = route::route(&head.method, &head.path, &head.query)?;
        auth::permit(&who, ENDPOINTS[at].access)?;
        Ok(Admitted { at, route, who })
    }

    /// What needs the picture only; `None` for what needs a request thread.
    fn read(&self, route: &Route) -> Option<Result<Answer, ApiError>> {
        let snapshot = || self.picture.snapshot();
        match route {
            Route::Health => Some(Ok(self.health(snapshot().status))),
            Route::Readiness => Some(Ok(readiness(snapshot().status))),
            Route::Metrics => Some(Ok(metrics::metrics(self))),
            Route::OpenApi => {
                let document = Body::Static(openapi::DOCUMENT.as_bytes());
                Some(Ok(Answer::bytes(200, "application/json", document)))
            }
            Route::Page => Some(Ok(page::answer())),
            Route::List => {
                let list = Body::Shared(snapshot().list_json());
                Some(Ok(Answer::bytes(200, "application/json", list)))
            }
            Route::Worker(id) => Some(workers::worker(&snapshot(), id)),
            _ => None,
        }
    }

    /// `online`: this thread may wait for the hub until then.
    fn change(&self, admitted: Admitted, request: &Request, online: Option<Instant>) -> Result<Reply, Halt> {
        let (endpoint, Admitted { route, who, .. }) = (admitted.endpoint(), admitted);
        let arguments = |query: &str| Arguments::from_query(query, endpoint.query);
        let answer = match route {
            Route::Devices => status::devices(self),
            Route::Status => status::status(self),
            Route::Capacity { query } => capacity::capacity(self, &arguments(&query)?, online)?,
            Route::Spawn => spawn::spawn(self, request, online)?,
            Route::Download => downloads::begin(self, request, online)?,
            Route::Progress { query } => {
                let seen = request.head.header("Last-Event-ID").and_then(|id| id.parse().ok());
                return Ok(Reply::Stream(downloads::progress(self, &arguments(&query)?, seen)?));
            }
            Route::CancelDownload { query } => downloads::cancel(self, &arguments(&query)?)?,
            Route::Kinds => return Ok(Reply::Later(kinds::list(self))),
            Route::Provision => return provision::provision(self, request).map_err(Halt::from),
            Route::RemoveKind { query } => provision::remove(self, &arguments(&query)?)?,
            Route::Models => models::list(self),
            Route::DeleteModel { query } => models::delete(self, &arguments(&query)?)?,
            Route::Ready => workers::ready(self, &who, request)?,
            Route::Heartbeat => workers::heartbeat(self, &who, request)?,
            Route::Stop { id, force } => workers::stop(self, id, force)?,
            Route::Logs { id, tail, follow: true, .. } => {
                let seen = request.head.header("Last-Event-ID").and_then(|id| id.parse().ok());
                return Ok(Reply::Stream(self.follow(id, tail, seen)?));
            }
            Route::Logs { id, tail, previous, .. } => workers::log_tail(self, &id, tail, previous)?,
            Route::Drain => self.drain(request)?,
            Route::Shutdown => self.shutdown(request)?,
            Route::Health
            | Route::Readiness
            | Route::Metrics
            | Route::OpenApi
            | Route::Page
            | Route::List
            | Route::Worker(_)
            | Route::Events => {
                return Err(ApiError::new(Code::Internal, "a read was handed to a request thread").into());
            }
        };
        Ok(Reply::Answer(answer))
    }

    fn follow(&self, id: WorkerId, tail: usize, seen: Option<u64>) -> Result<Box<dyn Source>, ApiError> {
        workers::known(self, &id)?;
        let streams = Arc::clone(&self.streams);
        let wake = Box::new(move || {
            if let Some(streams) = streams.get() {
                streams.wake();
            }
        });
        let following = self.followers.follow(id.clone(), tail, seen, wake).map_err(|_| {
            ApiError::new(Code::Overloaded, "too many logs are being followed")
                .with_header("Retry-After", "1")
        })?;
        if self.picture.snapshot().worker(&id).is_none() {
            self.followers.ended(&id);
        }
        Ok(Box::new(following))
    }

    fn drain(&self, request: &Request) -> Result<Answer, ApiError> {
        let arguments = Arguments::parse(&request.body)?;
        let draining = arguments.flag("drain")?.ok_or_else(|| wrong("drain", "true or false"))?;
        let stop_idle = arguments.flag("stop_idle")?.unwrap_or(false);
        if stop_idle && !draining {
            return Err(wrong("stop_idle", "false where drain is"));
        }
        let workers = self.inbox.drain(draining, stop_idle).map_err(no_answer)?;
        let workers = workers.ok_or_else(shutting_down)?;
        Ok(Answer::json(200, &DrainResponse { draining, workers }))
    }

    /// Refuses what would start a worker, while this hive takes none.
    fn check_takes_spawns(&self) -> Result<(), ApiError> {
        match self.picture.snapshot().status {
            // The supervisor takes it when it has begun.
            HiveStatus::Starting | HiveStatus::Ready => Ok(()),
            HiveStatus::Draining => Err(draining()),
            HiveStatus::Stopping | HiveStatus::Stopped => Err(shutting_down()),
        }
    }

    /// What is known to be wrong; who asks again finds what was looked at because somebody asked.
    fn reasons(&self) -> Vec<HealthReason> {
        self.keeper.asked();
        let of_devices = [Condition::DevicesStale, Condition::GpuLost, Condition::GpuUsersUnknown];
        if of_devices.into_iter().any(|condition| self.conditions.has(condition)) {
            self.devices.refresh();
        }
        self.conditions.reasons()
    }

    fn health(&self, status: HiveStatus) -> Answer {
        let reasons = self.reasons();
        let status = match status {
            HiveStatus::Starting | HiveStatus::Ready | HiveStatus::Draining if reasons.is_empty() => {
                HealthStatus::Alive
            }
            HiveStatus::Starting | HiveStatus::Ready | HiveStatus::Draining => HealthStatus::Degraded,
            HiveStatus::Stopping | HiveStatus::Stopped => HealthStatus::Stopping,
        };
        let (version, api_version) = (env!("CARGO_PKG_VERSION").to_owned(), API_VERSION.to_owned());
        Answer::json(200, &Health { status, version, api_version, reasons })
    }

    fn shutdown(&self, request: &Request) -> Result<Answer, ApiError> {
        let arguments = Arguments::parse(&request.body)?;
        let words = [("stop", ShutdownWorkers::Stop), ("keep", ShutdownWorkers::Keep)];
        let (message, workers) = match arguments.word("workers", &words)?.unwrap_or(ShutdownWorkers::Stop) {
            ShutdownWorkers::Stop => {
                ("this hive stops its workers and ends", self.inbox.cascade(false).map(Some))
            }
            ShutdownWorkers::Keep => ("this hive ends, and its workers go on", self.inbox.keep()),
        };
        let (message, workers) = (message.to_owned(), workers.map_err(no_answer)?.ok_or_else(shutting_down)?);
        Ok(Answer::json(202, &ShutdownResponse { message, workers }))
    }
}

impl Service for Api {
    fn on_head(&self, head: &Head, peer: &mut Peer) -> Result<(), Answer> {
        let entered = match self.enter(head, peer) {
            // Whoever needs no token is not let in with a body that would be held.
            Ok(Access::Anyone) if announces_body(head) => {
                Err(ApiError::new(Code::PayloadTooLarge, "this path takes no body"))
            }
            entered => entered.map(drop),
        };
        entered.map_err(|error| error.into_answer(head.correlation))
    }

    fn on_loop(&self, request: Request) -> Verdict {
        let correlation = request.head.correlation;
        let admitted = match self.admit(&request.head) {
            Ok(admitted) => admitted,
            Err(error) => return Verdict::Answer(error.into_answer(correlation)),
        };
        if admitted.route == Route::Events {
            // Numbers begin anew with the hive.
            let is_other =
                request.head.header(BOOT_HEADER).is_some_and(|boot| boot != self.picture.boot_id());
            let last = request.head.header("Last-Event-ID").filter(|_| !is_other);
            let last = last.and_then(|id| id.parse().ok());
            return Verdict::Stream(Box::new(EventStream::new(Arc::clone(&self.picture), last)));
        }
        match self.read(&admitted.route) {
            Some(answer) => Verdict::Answer(answer.unwrap_or_else(|error| error.into_answer(correlation))),
            None => Verdict::Thread(request, admitted.endpoint().errand()),
        }
    }

    fn endpoint(&self, head: &Head) -> Option<usize> {
        match endpoints::find(&head.method, &head.path) {
            Found::Endpoint(at, _) => Some(at),
            Found::OtherMethod(_) | Found::Nothing => None,
        }
    }

    fn answered(&self, endpoint: Option<usize>, status: u16, took: Duration) {
        let is_told = endpoint.is_none_or(|at| ENDPOINTS[at].tells(status));
        debug_assert!(is_told, "{status} is an answer that the table of endpoints lacks: {endpoint:?}");
        self.requests.count(endpoint, status, took);
    }

    fn on_thread(&self, request: Request, ticket: Ticket) {
        self.respond(request, ticket, None);
    }
}

impl Api {
    /// Answers what has to ask the hub, on a thread that may wait for it.
    pub fn on_hub_thread(&self, request: Request, ticket: Ticket) {
        let Some(ticket) = ticket.in_time() else { return };
        self.respond(request, ticket, Some(Instant::now() + HUB_ANSWER_MAX));
    }

    fn respond(&self, request: Request, ticket: Ticket, online: Option<Instant>) {
        let (began, cid) = (Instant::now(), request.head.correlation);
        let method = request.head.method.clone();
        let (name, reply) = match self.admit(&request.head) {
            Ok(admitted) => {
                let endpoint = admitted.endpoint();
                let reply = self.change(admitted, &request, online);
                if let Err(Halt::Refused(error)) = &reply {
                    let is_told = endpoint.codes().any(|code| code == error.code());
                    debug_assert!(is_told, "{}: {:?} is not in its table", endpoint.name, error.code());
                }
                (endpoint.name, reply)
            }
            Err(error) => ("refused", Err(error.into())),
        };
        let reply = match reply {
            Ok(reply) => Ok(reply),
            Err(Halt::Refused(error)) => Err(error),
            Err(Halt::AskHub) => {
                if let Err(error) = self.hub_desk.try_send(Some((request, ticket))) {
                    let Some((_, ticket)) = error.into_inner() else { return };
                    let error = ApiError::new(Code::Overloaded, "too many requests wait for the hub");
                    ticket.error(error.with_header("Retry-After", "1"));
                }
                return;
            }
        };
        let status = match &reply {
            Ok(Reply::Answer(answer)) => answer.status,
            Ok(Reply::Stream(_) | Reply::Later(_)) => 200,
            Err(error) => error.code().wire().0,
        };
        let ms = began.elapsed().as_millis();
        if status >= 500 && status != 503 {
            warn!("request failed method={method} route={name} status={status} ms={ms} cid={cid}");
        } else {
            debug!("request method={method} route={name} status={status} ms={ms} cid={cid}");
        }
        match reply {
            Ok(Reply::Answer(answer)) => ticket.answer(answer),
            Ok(Reply::Stream(source)) => ticket.stream(source),
            Ok(Reply::Later(answer)) => answer(ticket),
            Err(error) => ticket.error(error),
        }
    }
}

fn announces_body(head: &Head) -> bool {
    head.headers.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("Transfer-Encoding")
            || (name.eq_ignore_ascii_case("Content-Length") && value.bytes().any(|b| b != b'0'))
    })
}

fn readiness(status: HiveStatus) -> Answer {
    match status {
        HiveStatus::Ready => Answer::json(200, &Readiness::Ready),
        HiveStatus::Stopped => Answer::json(503, &Readiness::NotReady { reason: HiveStatus::Stopping }),
        reason => Answer::json(503, &Readiness::NotReady { reason }),
    }
}

fn no_answer(why: NoAnswer) -> ApiError {
    match why {
        NoAnswer::Ended => shutting_down(),
        NoAnswer::Late => {
            let seconds = REPLY_WAIT.as_secs();
            let message = format!("the supervisor did not answer within {seconds} s");
            ApiError::new(Code::Overloaded, message).with_header("Retry-After", "1")
        }
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(Code::ShuttingDown, "this hive is shutting down")
}

fn draining() -> ApiError {
    ApiError::new(Code::Draining, "this hive is drained: it takes no new workers until somebody ends that")
}
