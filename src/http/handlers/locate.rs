//! Where a model is: on this machine, or on the hub. What must ask the hub is taken off the request threads: a
//! handler halts, and is called again on a thread that may wait for the network.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use log::warn;
use serde_json::json;

use crate::capacity::inspect;
use crate::capacity::model::Model;
use crate::http::{ApiError, Code};
use crate::models::cache::{self, FindError, Format, Found, Missing};
use crate::models::downloads::NoSpace;
use crate::models::hub::HubReader;
use crate::models::reference::{HubRef, ModelRef};
use crate::models::remote::HubError;
use crate::models::selection::{NoModel, Selection};

use super::{Api, shutting_down};

/// Why a handler gives no answer.
pub(super) enum Halt {
    /// The request is refused.
    Refused(ApiError),
    /// It has to ask the hub, which a request thread must not wait for.
    AskHub,
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// A model that is here, or can be fetched.
pub(super) enum Located {
    Here(Found),
    /// The hub may be asked more until then.
    OnHub(Arc<Selection>, Instant),
}

impl Located {
    pub fn format(&self) -> Format {
        match self {
            Self::Here(found) => found.format,
            Self::OnHub(selection, _) => selection.format,
        }
    }

    /// Where it is, or will be.
    pub fn path(&self) -> &Path {
        match self {
            Self::Here(found) => &found.path,
            Self::OnHub(selection, _) => &selection.path,
        }
    }

    /// What is to be fetched.
    pub fn selection(&self) -> Option<&Arc<Selection>> {
        match self {
            Self::Here(_) => None,
            Self::OnHub(selection, _) => Some(selection),
        }
    }
}

/// Finds a model; on the hub, if it is not here and `online` says how long that may be waited for.
pub(super) fn locate(api: &Api, reference: &ModelRef, online: Option<Instant>) -> Result<Located, Halt> {
    match (cache::find(&api.model_dir, reference), reference) {
        (Ok(found), _) => Ok(Located::Here(found)),
        (Err(FindError::Missing(missing)), ModelRef::Hub(hub)) => {
            if api.hub.is_offline() {
                return Err(not_here(&missing, "; HF_HUB_OFFLINE is set, so it is not fetched").into());
            }
            let until = online.ok_or(Halt::AskHub)?;
            Ok(Located::OnHub(select(api, hub, until)?, until))
        }
        (Err(FindError::Missing(missing)), ModelRef::File(_)) => Err(not_here(&missing, "").into()),
        (Err(error @ FindError::Unlisted(_)), _) => {
            Err(ApiError::new(Code::ModelInvalid, error.to_string()).into())
        }
    }
}

/// What the model needs memory for, by its headers.
pub(super) fn inspect(api: &Api, located: &Located) -> Result<Arc<Model>, ApiError> {
    let invalid = |fault: inspect::Fault| {
        ApiError::new(Code::ModelInvalid, format!("{fault}; memory_bytes takes the place of the estimate"))
    };
    let (selection, until) = match located {
        Located::Here(found) => return api.inspector.inspect(found).map_err(invalid),
        Located::OnHub(selection, until) => (selection, *until),
    };
    let failed = Cell::new(None);
    let read = api.inspector.inspect_remote(selection, |file| {
        let reader = api.hub.reader(&selection.hub, &selection.commit, file, &api.hub_cut, until);
        let reader = reader.inspect_err(|error| failed.set(Some(HubError::Broken(error.kind()))))?;
        Ok(Box::new(Noting { reader, failed: &failed }))
    });
    // What broke the reading is the reason, not the header that it cut.
    match (read, failed.get()) {
        (Ok(model), _) => Ok(model),
        (Err(_), Some(error)) => Err(hub_error(&error)),
        (Err(fault), None) => Err(invalid(fault)),
    }
}

/// Remembers why the hub did not give what was read.
struct Noting<'a> {
    reader: HubReader,
    failed: &'a Cell<Option<HubError>>,
}

impl Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        if read.is_err() {
            self.failed.set(self.reader.failed());
        }
        read
    }
}

/// What `hub` means on the hub.
fn select(api: &Api, hub: &HubRef, until: Instant) -> Result<Arc<Selection>, ApiError> {
    let revision = api.hub.revision(hub, &api.hub_cut, until).map_err(|error| hub_error(&error))?;
    let selection = Selection::new(&api.model_dir, hub, &revision).map_err(|none| {
        let quants = match &none {
            NoModel::Gguf { quants } => quants.clone(),
            NoModel::Weights | NoModel::Parts { .. } | NoModel::Config | NoModel::TooMany => Vec::new(),
        };
        ApiError::new(Code::ModelNotFound, none.to_string()).with_details(json!({ "quants": quants }))
    })?;
    Ok(Arc::new(selection))
}

pub(super) fn not_here(missing: &Missing, more: &str) -> ApiError {
    let error = ApiError::new(Code::ModelNotFound, format!("{missing}{more}"));
    match missing {
        Missing::Gguf { quants } => error.with_details(json!({ "quants": quants })),
        _ => error,
    }
}

/// What the hub says, as an answer of ours.
pub(super) fn hub_error(error: &HubError) -> ApiError {
    let code = hub_code(error);
    if code == Code::Upstream {
        warn!("the hub does not answer as it should why={error:?}");
    }
    let answer =
        if *error == HubError::Cut { shutting_down() } else { ApiError::new(code, error.to_string()) };
    match error {
        HubError::Busy { retry_after: Some(after), .. } => {
            answer.with_header("Retry-After", after.as_secs().max(1).to_string())
        }
        _ => answer,
    }
}

/// The code of what the hub says.
pub(super) fn hub_code(error: &HubError) -> Code {
    match error {
        HubError::Offline | HubError::NoRepository { .. } | HubError::NoRevision | HubError::NoFile => {
            Code::ModelNotFound
        }
        HubError::Cut => Code::Cancelled,
        HubError::Denied { .. } => Code::ModelAccessDenied,
        HubError::Broken(_) | HubError::Stalled | HubError::Busy { .. } | HubError::BadAnswer(_) => {
            Code::Upstream
        }
    }
}

/// 507 with what is required and what is available.
pub(super) fn no_space(NoSpace { required_bytes, available_bytes }: NoSpace) -> ApiError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "the model takes {} MiB more on the disk and {} MiB are free",
        mib(required_bytes),
        available_bytes >> 20
    );
    ApiError::new(Code::InsufficientDisk, message)
        .with_details(json!({ "required_bytes": required_bytes, "available_bytes": available_bytes }))
}
