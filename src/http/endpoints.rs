//! The one table of what can be asked: the server routes by it, metrics are labelled by it, and the OpenAPI document is
//! made from it.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::api;
use crate::http::route::{self, Route};
use crate::http::{ApiError, Code, Errand, Method};
use crate::limits::{
    CTX_MAX, IDEMPOTENCY_KEY_BYTES_MAX, LOG_TAIL_LINES, LOG_TAIL_LINES_MAX, LONG_REQUEST_WAIT,
    MEMORY_BYTES_MAX, PARALLEL_MAX, PROVISION_REQUEST_WAIT, REQUEST_WAIT,
};

/// Something that can be asked.
pub struct Endpoint {
    /// What it is called in log lines, metrics and the document: nothing of a request is in it.
    pub name: &'static str,
    /// How it is asked. HEAD goes where GET goes.
    pub method: Method,
    /// Where. `{id}` stands for one part of the path.
    pub path: &'static str,
    /// Where as well.
    pub alias: Option<&'static str>,
    /// Who may ask.
    pub access: Access,
    /// Who answers, and by when.
    pub by: By,
    /// What it is for, in a sentence.
    pub text: &'static str,
    /// What may follow `?`.
    pub query: &'static [Parameter],
    /// Header lines that are looked at beside those of HTTP.
    pub headers: &'static [Parameter],
    /// What is sent.
    pub body: Option<Sent>,
    /// What is answered if all goes well, and 204, 503 and the like that are no errors.
    pub answers: &'static [Told],
    /// What is refused, beside what is refused everywhere.
    pub errors: &'static [&'static [Code]],
    /// Makes the route of what stands for `{id}` and of the query.
    pub route: fn(&str, &str) -> Result<Route, ApiError>,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches the hive. No body is taken from them.
    Anyone,
    /// Who has the hive's token.
    Queen,
    /// The worker that it is about.
    Worker,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The event loop, from the newest picture.
    Loop,
    /// The thread that waits for the supervisor alone.
    Quick,
    /// A request thread, by then.
    Thread(Duration),
}

/// A value of a query or a header.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// What it may be.
    pub value: Value,
    /// What it means.
    pub text: &'static str,
}

/// What a [`Parameter`] may be.
pub enum Value {
    /// `true` or `false`, which is the default.
    Flag,
    /// A whole number.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
        /// What counts without one.
        default: Option<u64>,
    },
    /// A text.
    Text {
        /// The expression that it matches.
        pattern: &'static str,
    },
    /// Any text: what makes no sense counts as absent.
    Any,
    /// What a type of the wire may be.
    Of(SchemaOf),
}

/// The schema of a type: what the document is made from, in tests. The program has the document as it is published, and
/// would carry what makes schemas for nothing.
#[derive(Clone, Copy)]
pub struct SchemaOf {
    /// Makes it.
    #[cfg(test)]
    pub make: fn(&mut SchemaGenerator) -> Schema,
}

impl SchemaOf {
    const fn made(make: fn(&mut SchemaGenerator) -> Schema) -> Self {
        #[cfg(not(test))]
        let _ = make;
        Self {
            #[cfg(test)]
            make,
        }
    }
}

/// A body that is sent.
pub struct Sent {
    /// Its schema.
    pub schema: SchemaOf,
    /// Whether it may be left out.
    pub optional: bool,
}

/// An answer.
pub struct Told {
    /// HTTP status.
    pub status: u16,
    /// What it means.
    pub text: &'static str,
    /// What it holds, in one of these forms; nothing, if there is none.
    pub bodies: &'static [Body],
    /// Header lines beside those of every answer, and what they mean.
    pub headers: &'static [(&'static str, &'static str)],
}

/// What an answer holds.
pub enum Body {
    /// JSON.
    Json(SchemaOf),
    /// Text of this type.
    Text(&'static str),
    /// Server-sent events; what the data of each is.
    Events(&'static str),
}

impl Endpoint {
    /// What stands for `{id}` in `path`, if it leads here; literally, or by the template.
    fn leads(&self, path: &str, literally: bool) -> Option<(usize, usize)> {
        match (self.path.split_once("{id}"), literally) {
            (None, true) => (self.path == path || self.alias == Some(path)).then_some((0, 0)),
            (Some((before, after)), false) => {
                let id = path.strip_prefix(before)?.strip_suffix(after)?;
                (!id.contains('/')).then_some((before.len(), before.len() + id.len()))
            }
            _ => None,
        }
    }

    /// What a thread that takes it has to reckon with.
    pub fn errand(&self) -> Errand {
        match self.by {
            By::Loop | By::Quick => Errand { name: self.name, within: REQUEST_WAIT, is_quick: true },
            By::Thread(within) => Errand { name: self.name, within, is_quick: false },
        }
    }

    /// All that it can be refused for.
    pub fn codes(&self) -> impl Iterator<Item = Code> + '_ {
        let token: &[Code] = if self.access == Access::Anyone { &[] } else { TOKEN };
        let json: &[Code] =
            if self.body.is_some() { &[Code::InvalidJson, Code::InvalidArgument] } else { &[] };
        let query: &[Code] = if self.query.is_empty() { &[] } else { &[Code::InvalidArgument] };
        [ALWAYS, token, json, query].into_iter().chain(self.errors.iter().copied()).flatten().copied()
    }

    /// Whether it can be answered with `status`.
    pub fn tells(&self, status: u16) -> bool {
        self.answers.iter().any(|told| told.status == status)
            || self.codes().any(|code| code.wire().0 == status)
    }
}

/// What a method and a path lead to.
pub enum Found<'a> {
    /// To the endpoint of this number in [`ENDPOINTS`]; with what stands for `{id}`.
    Endpoint(usize, &'a str),
    /// To others, which take these methods.
    OtherMethod(String),
    /// To none.
    Nothing,
}

/// Finds an endpoint: a path that is in the table as it stands is no template's.
pub fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    for literally in [true, false] {
        let mut here = ENDPOINTS
            .iter()
            .enumerate()
            .filter_map(|(at, endpoint)| Some((at, endpoint, endpoint.leads(path, literally)?)))
            .peekable();
        if here.peek().is_none() {
            continue;
        }
        let method = if *method == Method::Head { &Method::Get } else { method };
        let mut allow = Vec::new();
        for (at, endpoint, (from, to)) in here {
            if endpoint.method == *method {
                return Found::Endpoint(at, &path[from..to]);
            }
            allow.push(endpoint.method.as_str());
            if endpoint.method == Method::Get {
                allow.push("HEAD");
            }
        }
        return Found::OtherMethod(allow.join(", "));
    }
    Found::Nothing
}

/// Whether only workers ask here.
pub fn is_callback(path: &str) -> bool {
    ENDPOINTS.iter().any(|endpoint| endpoint.access == Access::Worker && endpoint.leads(path, true).is_some())
}

const fn of<T: JsonSchema>() -> SchemaOf {
    SchemaOf::made(|generator| generator.subschema_for::<T>())
}

// ---- What is refused ----

/// Everywhere.
const ALWAYS: &[Code] = &[
    Code::BadRequest,
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::ExpectationFailed,
    Code::HeadTooLarge,
    Code::Internal,
    Code::NotImplemented,
    Code::Overloaded,
    Code::VersionNotSupported,
];
/// Where a token is wanted.
const TOKEN: &[Code] = &[Code::MissingApiKey, Code::InvalidApiKey, Code::Forbidden, Code::TooManyAttempts];
/// Where a model is looked for, on this machine and on the hub.
const MODEL: &[Code] = &[Code::ModelNotFound, Code::ModelInvalid, Code::ModelAccessDenied, Code::Upstream];
/// Where a place is looked for a worker.
const PLACE: &[Code] = &[
    Code::KindNotFound,
    Code::KindNotInstalled,
    Code::DeviceNotFound,
    Code::InsufficientVram,
    Code::InsufficientRam,
    Code::Draining,
    Code::ShuttingDown,
];
/// Where the supervisor is asked.
const ENDED: &[Code] = &[Code::ShuttingDown];

// ---- What is asked ----

const DEVICE: Value = Value::Text { pattern: api::DEVICES_PATTERN };
const LAST_EVENT_ID: Parameter = Parameter {
    name: "Last-Event-ID",
    required: false,
    value: Value::Any,
    text: "the stream goes on behind this event, where that is still known",
};

/// Beside it: numbers begin anew with the hive.
const BOOT_ID: Parameter = Parameter {
    name: api::BOOT_HEADER,
    required: false,
    value: Value::Text { pattern: "^[A-Za-z0-9.-]{1,64}$" },
    text: "the start of the hive that this event is of (`boot_id`): after another one the picture comes first",
};

const fn optional(name: &'static str, value: Value, text: &'static str) -> Parameter {
    Parameter { name, required: false, value, text }
}

const fn needed(name: &'static str, value: Value, text: &'static str) -> Parameter {
    Parameter { name, required: true, value, text }
}

const CAPACITY: [Parameter; 8] = [
    needed("model", Value::Text { pattern: api::MODEL_REF_PATTERN }, "the model, as a spawn takes it"),
    optional("device", DEVICE, "where, as a spawn takes it; several GPUs joined by commas"),
    optional("backend", Value::Of(of::<crate::id::Backend>()), "what computes"),
    optional("kind", Value::Text { pattern: api::KIND_PATTERN }, "how the worker would be launched"),
    optional("ctx", Value::Number { min: 1, max: CTX_MAX as u64, default: None }, "context tokens"),
    optional("parallel", Value::Number { min: 1, max: PARALLEL_MAX as u64, default: Some(1) }, "slots"),
    optional(
        "memory_bytes",
        Value::Number { min: 1, max: MEMORY_BYTES_MAX, default: None },
        "takes the place of the estimate",
    ),
    optional("make_room", Value::Flag, "idle workers may be stopped for it"),
];

const DOWNLOAD: [Parameter; 1] =
    [needed("id", Value::Text { pattern: "^d-[0-9a-f]{16}$" }, "`download_id` of who began it")];

// ---- What is answered ----

const DONE: Body = Body::Json(of::<api::Message>());

const fn json(status: u16, text: &'static str, body: &'static [Body]) -> Told {
    Told { status, text, bodies: body, headers: &[] }
}

const PROGRESS: &str = "how far it is, as the schema `Progress` has it; at last `[DONE]`";

/// An endpoint without anything to say about it.
const BARE: Endpoint = Endpoint {
    name: "",
    method: Method::Get,
    path: "",
    alias: None,
    access: Access::Queen,
    by: By::Thread(REQUEST_WAIT),
    text: "",
    query: &[],
    headers: &[],
    body: None,
    answers: &[],
    errors: &[],
    route: |_, _| Err(ApiError::new(Code::NotFound, "there is nothing at this path")),
};

/// All of them; where one path takes several methods, in the order of `Allow`.
pub static ENDPOINTS: [Endpoint; ENDPOINTS_COUNT] = [
    Endpoint {
        name: "health",
        path: "/health",
        alias: Some("/v1/health"),
        access: Access::Anyone,
        by: By::Loop,
        text: "Whether the hive lives, and what is wrong with it.",
        answers: &[json(200, "It lives.", &[Body::Json(of::<api::Health>())])],
        route: |_, _| Ok(Route::Health),
        ..BARE
    },
    Endpoint {
        name: "readiness",
        path: "/ready",
        access: Access::Anyone,
        by: By::Loop,
        text: "Whether the hive takes spawns.",
        answers: &[
            json(200, "It does.", &[Body::Json(of::<api::Readiness>())]),
            json(503, "It does not, for now.", &[Body::Json(of::<api::Readiness>())]),
        ],
        route: |_, _| Ok(Route::Readiness),
        ..BARE
    },
    Endpoint {
        name: "metrics",
        path: "/metrics",
        access: Access::Anyone,
        by: By::Loop,
        text: "Figures for Prometheus, in its text format. The devices are as they were last seen; each question asks \
               for a newer look.",
        answers: &[json(200, "The figures.", &[Body::Text("text/plain; version=0.0.4; charset=utf-8")])],
        route: |_, _| Ok(Route::Metrics),
        ..BARE
    },
    Endpoint {
        name: "openapi",
        path: "/openapi.json",
        access: Access::Anyone,
        by: By::Loop,
        text: "This document.",
        answers: &[json(
            200,
            "OpenAPI 3.1.",
            &[Body::Json(SchemaOf::made(|_| schemars::json_schema!({ "type": "object" })))],
        )],
        route: |_, _| Ok(Route::OpenApi),
        ..BARE
    },
    Endpoint {
        name: "page",
        path: "/",
        access: Access::Anyone,
        by: By::Loop,
        text: "The status page, for a browser.",
        answers: &[json(200, "The page.", &[Body::Text("text/html; charset=utf-8")])],
        route: |_, _| Ok(Route::Page),
        ..BARE
    },
    Endpoint {
        name: "status",
        path: "/v1/status",
        text: "The whole picture: the hive, its devices, workers and downloads.",
        answers: &[json(200, "The picture.", &[Body::Json(of::<api::Status>())])],
        route: |_, _| Ok(Route::Status),
        ..BARE
    },
    Endpoint {
        name: "devices",
        path: "/v1/devices",
        text: "What there is to compute with: processor, memory, GPUs, disk.",
        answers: &[json(200, "The devices.", &[Body::Json(of::<api::Devices>())])],
        route: |_, _| Ok(Route::Devices),
        ..BARE
    },
    Endpoint {
        name: "capacity",
        path: "/v1/capacity",
        by: By::Thread(LONG_REQUEST_WAIT),
        text: "Whether a worker would be admitted now. Without a device, for the one that a spawn would choose.",
        query: &CAPACITY,
        answers: &[Told {
            status: 204,
            text: "It fits.",
            bodies: &[],
            headers: &[
                (api::REQUIRED_HEADER, "what the worker takes, in bytes"),
                (api::AVAILABLE_HEADER, "what its devices have for it, in bytes"),
                (api::DEVICE_HEADER, "where it would go; several GPUs joined by commas"),
            ],
        }],
        errors: &[MODEL, PLACE],
        route: |_, query| Ok(Route::Capacity { query: query.to_owned() }),
        ..BARE
    },
    Endpoint {
        name: "spawn",
        method: Method::Post,
        path: "/v1/workers/spawn",
        by: By::Thread(LONG_REQUEST_WAIT),
        text: "Asks for a worker. It is ready later: see it, or follow the events.",
        headers: &[optional(
            "Idempotency-Key",
            Value::Text { pattern: IDEMPOTENCY_KEY_PATTERN },
            "the same key gives the same worker for ten minutes",
        )],
        body: Some(Sent { schema: of::<api::SpawnRequest>(), optional: false }),
        answers: &[Told {
            status: 202,
            text: "It is on its way.",
            bodies: &[Body::Json(of::<api::SpawnResponse>())],
            headers: &[("Location", "where the worker is seen")],
        }],
        errors: &[MODEL, PLACE, &[Code::NoFreePort, Code::InsufficientDisk]],
        route: |_, _| Ok(Route::Spawn),
        ..BARE
    },
    Endpoint {
        name: "ready",
        method: Method::Post,
        path: "/v1/workers/ready",
        access: Access::Worker,
        by: By::Quick,
        text: "A native worker has bound its port and loaded its model.",
        body: Some(Sent { schema: of::<api::ReadyCallback>(), optional: false }),
        answers: &[json(200, "It is noted.", &[DONE])],
        errors: &[ENDED, &[Code::WorkerNotFound, Code::WorkerState]],
        route: |_, _| Ok(Route::Ready),
        ..BARE
    },
    Endpoint {
        name: "list",
        path: "/v1/workers/list",
        alias: Some("/v1/workers"),
        by: By::Loop,
        text: "All workers that live, by name.",
        answers: &[json(200, "The workers.", &[Body::Json(of::<api::WorkerList>())])],
        route: |_, _| Ok(Route::List),
        ..BARE
    },
    Endpoint {
        name: "kinds",
        path: "/v1/workers/kinds",
        text: "What can be launched, whether its program is here, and which version.",
        answers: &[json(200, "The kinds.", &[Body::Json(of::<api::KindList>())])],
        route: |_, _| Ok(Route::Kinds),
        ..BARE
    },
    Endpoint {
        name: "remove_kind",
        method: Method::Delete,
        path: "/v1/workers/kinds",
        text: "What was installed of a kind is not offered any more; its files go with the last worker that needs them.",
        query: &[needed("kind", Value::Text { pattern: api::KIND_PATTERN }, "which one")],
        answers: &[json(202, "It is taken out.", &[DONE])],
        errors: &[&[Code::KindNotFound]],
        route: |_, query| Ok(Route::RemoveKind { query: query.to_owned() }),
        ..BARE
    },
    Endpoint {
        name: "provision",
        method: Method::Post,
        path: "/v1/workers/provision",
        by: By::Thread(PROVISION_REQUEST_WAIT),
        text: "Installs the program of a kind. Answers once it is here; with `Accept: text/event-stream`, as it goes on.",
        body: Some(Sent { schema: of::<api::ProvisionRequest>(), optional: false }),
        answers: &[json(
            200,
            "It is here, or on its way.",
            &[Body::Json(of::<api::ProvisionResponse>()), Body::Events(PROGRESS)],
        )],
        errors: &[
            ENDED,
            &[Code::KindNotInstalled, Code::KindNotFound, Code::Upstream, Code::InsufficientDisk],
        ],
        route: |_, _| Ok(Route::Provision),
        ..BARE
    },
    Endpoint {
        name: "worker",
        path: "/v1/workers/{id}",
        by: By::Loop,
        text: "One worker. One that ended is 404 for ten minutes with its last picture in `details.last`.",
        answers: &[json(200, "The worker.", &[Body::Json(of::<api::Worker>())])],
        errors: &[&[Code::WorkerNotFound]],
        route: |id, _| Ok(Route::Worker(route::worker_id(id)?)),
        ..BARE
    },
    Endpoint {
        name: "stop",
        method: Method::Delete,
        path: "/v1/workers/{id}",
        by: By::Quick,
        text: "Stops a worker.",
        query: &[optional("force", Value::Flag, "SIGKILL now")],
        answers: &[json(202, "It is being stopped.", &[DONE])],
        errors: &[ENDED, &[Code::WorkerNotFound]],
        route: route::stop,
        ..BARE
    },
    Endpoint {
        name: "logs",
        path: "/v1/workers/{id}/logs",
        text: "The end of a worker's log, also for ten minutes after its end.",
        query: &[
            optional(
                "tail",
                Value::Number {
                    min: 0,
                    max: LOG_TAIL_LINES_MAX as u64,
                    default: Some(LOG_TAIL_LINES as u64),
                },
                "the last so many lines",
            ),
            optional("follow", Value::Flag, "goes on as the log grows, until the worker is gone"),
            optional("previous", Value::Flag, "of the run before the last one; not with follow"),
        ],
        headers: &[LAST_EVENT_ID],
        answers: &[json(
            200,
            "Lines as they were written; with `follow`, one event for each.",
            &[Body::Text("text/plain; charset=utf-8"), Body::Events("a line; at last `[DONE]`")],
        )],
        errors: &[&[Code::WorkerNotFound, Code::NotFound]],
        route: route::logs,
        ..BARE
    },
    Endpoint {
        name: "heartbeat",
        method: Method::Post,
        path: "/v1/heartbeat",
        access: Access::Worker,
        by: By::Quick,
        text: "A native worker lives.",
        body: Some(Sent { schema: of::<api::WorkerHeartbeat>(), optional: false }),
        answers: &[json(200, "It is noted.", &[DONE])],
        errors: &[ENDED, &[Code::WorkerNotFound, Code::WorkerState]],
        route: |_, _| Ok(Route::Heartbeat),
        ..BARE
    },
    Endpoint {
        name: "events",
        path: "/v1/events",
        by: By::Loop,
        text: "The present picture, then each change.",
        headers: &[LAST_EVENT_ID, BOOT_ID],
        answers: &[json(
            200,
            "Events without an end.",
            &[Body::Events(
                "by its `event`: `worker` (the schema `Worker`), `download` (`DownloadEvent`), `hive` (`status`, \
                 `hive_id`, `boot_id`)",
            )],
        )],
        route: |_, _| Ok(Route::Events),
        ..BARE
    },
    Endpoint {
        name: "download",
        method: Method::Post,
        path: "/v1/models/download",
        by: By::Thread(LONG_REQUEST_WAIT),
        text: "Fetches a model of the hub into the model cache.",
        body: Some(Sent { schema: of::<api::DownloadRequest>(), optional: false }),
        answers: &[
            json(200, "It is here already.", &[Body::Json(of::<api::DownloadResponse>())]),
            Told {
                status: 202,
                text: "It is on its way.",
                bodies: &[Body::Json(of::<api::DownloadResponse>())],
                headers: &[("Location", "where its progress is told")],
            },
        ],
        errors: &[MODEL, ENDED, &[Code::InsufficientDisk]],
        route: |_, _| Ok(Route::Download),
        ..BARE
    },
    Endpoint {
        name: "cancel_download",
        method: Method::Delete,
        path: "/v1/models/download",
        text: "Ends a download; what is here of it stays for resuming.",
        query: &DOWNLOAD,
        answers: &[json(202, "It is cancelled, or was over.", &[DONE])],
        errors: &[&[Code::DownloadNotFound]],
        route: |_, query| Ok(Route::CancelDownload { query: query.to_owned() }),
        ..BARE
    },
    Endpoint {
        name: "progress",
        path: "/v1/models/download/progress",
        text: "How far a download is, until it ends; known for ten minutes after that.",
        query: &DOWNLOAD,
        headers: &[LAST_EVENT_ID],
        answers: &[json(200, "The present state, then each change.", &[Body::Events(PROGRESS)])],
        errors: &[&[Code::DownloadNotFound]],
        route: |_, query| Ok(Route::Progress { query: query.to_owned() }),
        ..BARE
    },
    Endpoint {
        name: "models",
        path: "/v1/models",
        by: By::Thread(LONG_REQUEST_WAIT),
        text: "What is in the model cache.",
        answers: &[json(200, "The models.", &[Body::Json(of::<api::ModelList>())])],
        route: |_, _| Ok(Route::Models),
        ..BARE
    },
    Endpoint {
        name: "delete_model",
        method: Method::Delete,
        path: "/v1/models",
        by: By::Thread(LONG_REQUEST_WAIT),
        text: "Takes a model out of the model cache.",
        query: &[needed("ref", Value::Text { pattern: api::HUB_REF_PATTERN }, "which one")],
        answers: &[json(204, "It is gone.", &[])],
        errors: &[&[Code::ModelNotFound, Code::ModelInUse]],
        route: |_, query| Ok(Route::DeleteModel { query: query.to_owned() }),
        ..BARE
    },
    Endpoint {
        name: "drain",
        method: Method::Post,
        path: "/v1/drain",
        by: By::Quick,
        text: "Makes the hive refuse spawns, or ends that. Its workers serve on.",
        body: Some(Sent { schema: of::<api::DrainRequest>(), optional: false }),
        answers: &[json(200, "It is as was asked.", &[Body::Json(of::<api::DrainResponse>())])],
        errors: &[ENDED],
        route: |_, _| Ok(Route::Drain),
        ..BARE
    },
    Endpoint {
        name: "shutdown",
        method: Method::Post,
        path: "/v1/shutdown",
        by: By::Quick,
        text: "Ends the hive and its workers; or the hive alone, and the next one adopts them.",
        body: Some(Sent { schema: of::<api::ShutdownRequest>(), optional: true }),
        answers: &[json(202, "The end begins.", &[Body::Json(of::<api::ShutdownResponse>())])],
        errors: &[ENDED],
        route: |_, _| Ok(Route::Shutdown),
        ..BARE
    },
];

/// How many there are.
pub const ENDPOINTS_COUNT: usize = 26;

const IDEMPOTENCY_KEY_PATTERN: &str = "^[!-~]{1,255}$";
const _: () = assert!(IDEMPOTENCY_KEY_BYTES_MAX == 255, "the pattern says the same");
