//! What the commands share that ask a running hive: their flags, and how they say that none answers.

use std::path::PathBuf;
use std::time::Duration;

use super::command::Flag;
use super::{CliError, Environment, resolve, value};
use crate::api::SpawnRequest;
use crate::client::{CapacityQuery, ClientError, Code, HiveClient};
use crate::id::{Token, WorkerId};
use crate::limits::{LOG_TAIL_LINES, SPAWN_WAIT};
use crate::logging::is_hazard;
use crate::models::ModelRef;

/// What was typed after such a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Typed {
    pub url: String,
    pub token_file: Option<PathBuf>,
    pub json: bool,
    pub local: bool,
    /// Of `kinds --local`.
    pub kind_files: Vec<PathBuf>,
    /// Of `kinds --local`.
    pub workers: Vec<(String, PathBuf)>,
    /// Of `kinds --local`.
    pub data_dir: Option<PathBuf>,
    /// Of `provision`.
    pub version: Option<String>,
    /// Of `provision`.
    pub sha256: Option<String>,
    /// Of `capacity`; its model and its kind are those of any command with one.
    pub query: CapacityQuery,
    /// Of `spawn`: what `query` does not have.
    pub spawn: SpawnRequest,
    pub wait: bool,
    pub timeout: Duration,
    /// Of `stop`.
    pub force: bool,
    pub no_wait: bool,
    /// Of `drain`.
    pub stop_idle: bool,
    /// Of `stop`, `logs`; names or their beginnings.
    pub worker_ids: Vec<WorkerId>,
    /// Of `logs`, like what follows.
    pub tail: usize,
    pub follow: bool,
    pub previous: bool,
    /// Of `shutdown`.
    pub keep_workers: bool,
}

impl Default for Typed {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8600".to_owned(),
            token_file: None,
            json: false,
            local: false,
            kind_files: Vec::new(),
            workers: Vec::new(),
            data_dir: None,
            version: None,
            sha256: None,
            query: CapacityQuery::default(),
            spawn: SpawnRequest::default(),
            wait: false,
            timeout: SPAWN_WAIT,
            force: false,
            no_wait: false,
            stop_idle: false,
            worker_ids: Vec::new(),
            tail: LOG_TAIL_LINES,
            follow: false,
            previous: false,
            keep_workers: false,
        }
    }
}

pub(super) const URL: Flag<Typed> = Flag {
    name: "url",
    value: "URL",
    env: "RBEE_HIVE_URL",
    default: "http://127.0.0.1:8600",
    repeatable: false,
    help: "The hive to ask",
    set: |typed, text| value::base_url(text).map(|v| typed.url = v),
};

pub(super) const TOKEN_FILE: Flag<Typed> = Flag {
    name: "token-file",
    value: "PATH",
    env: "RBEE_HIVE_TOKEN_FILE",
    default: "$RBEE_HIVE_TOKEN, else none",
    repeatable: false,
    help: "First line: the token that opens its API",
    set: |typed, text| value::path(text).map(|v| typed.token_file = Some(v)),
};

pub(super) const JSON: Flag<Typed> =
    Flag::switch("json", "a table", "Print JSON, as the API has it", |typed, _| {
        typed.json = true;
        Ok(())
    });

/// The model that was typed, in its canonical form; `example` is a whole command line.
pub(super) fn model(typed: &Typed, example: &str) -> Result<String, CliError> {
    let model = &typed.query.model;
    if model.is_empty() {
        return Err(CliError::usage("MODEL is missing").with_hint(format!("name a model: {example}")));
    }
    match model.parse::<ModelRef>() {
        Ok(model) => Ok(model.to_string()),
        Err(wrong) => {
            let error = CliError::usage(format!("MODEL: {model:?}: {wrong}"));
            Err(error.with_hint(format!("write it like this: {example}")))
        }
    }
}

/// The hive that a command asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Hive {
    /// Where it is.
    pub url: String,
    /// What opens its API.
    pub token: Option<Token>,
}

impl Hive {
    pub(super) fn new(typed: &Typed, env: Environment<'_>) -> Result<Self, CliError> {
        let token = resolve::token(typed.token_file.as_deref(), "RBEE_HIVE_TOKEN", env)?;
        Ok(Self { url: typed.url.clone(), token })
    }

    /// Asks it with `call`.
    pub(super) fn ask<T>(
        &self,
        call: impl FnOnce(&HiveClient) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        call(&self.client()?).map_err(|error| self.explain(&error))
    }

    /// A client of it.
    pub(super) fn client(&self) -> Result<HiveClient, CliError> {
        let client = HiveClient::new(&self.url).map_err(|error| self.explain(&error))?;
        Ok(match &self.token {
            Some(token) => client.with_token(token.clone()),
            None => client,
        })
    }

    /// The name of the living worker that begins as each of what was typed; `None`: no name does.
    pub(super) fn whole_ids(
        &self,
        client: &HiveClient,
        typed: &[WorkerId],
    ) -> Result<Vec<Option<WorkerId>>, CliError> {
        let workers = client.workers().map_err(|error| self.explain(&error))?;
        let whole = |typed: &WorkerId| {
            let names = workers.iter().map(|worker| &worker.worker_id);
            let mut fitting = names.filter(|name| name.as_str().starts_with(typed.as_str()));
            match (fitting.next(), fitting.next()) {
                // By name.
                (Some(one), Some(another)) if one != typed => {
                    let error =
                        CliError::usage(format!("ID: {typed} is the beginning of several workers' names"));
                    Err(error.with_hint(format!("write more of it: {one}, {another}")))
                }
                (one, _) => Ok(one.cloned()),
            }
        };
        typed.iter().map(whole).collect()
    }

    /// The same about one worker, which there may not be.
    pub(super) fn explain_worker(&self, error: &ClientError) -> CliError {
        match error {
            ClientError::Refused { status: 404, error: Some(object) } => {
                let said = CliError::runtime(object.message.replace(is_hazard, "?"));
                match error.code() {
                    Some(Code::WorkerNotFound) => said.with_hint("`rbee-hive ps` lists the workers"),
                    _ => said,
                }
            }
            _ => self.explain(error),
        }
    }

    /// What the user is told instead of an answer.
    pub(super) fn explain(&self, error: &ClientError) -> CliError {
        let url = &self.url;
        match error {
            ClientError::Unreachable(_) => CliError::runtime(format!("no hive answers at {url}")).with_hint(
                "is it running? `rbee-hive serve` starts one; --url or RBEE_HIVE_URL says where it is",
            ),
            ClientError::Refused { status: 401, .. } => CliError::runtime(error.to_string())
                .with_hint("set its token with --token-file or RBEE_HIVE_TOKEN"),
            ClientError::BadUrl => CliError::usage(format!("--url: {url:?} is {error}")),
            _ => CliError::runtime(format!("{url}: {error}")),
        }
    }
}
