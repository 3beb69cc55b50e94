//! `/v1/models`: what is in the model cache, and taking something out of it.

use std::path::PathBuf;

use log::info;
use serde_json::json;

use crate::api::ModelList;
use crate::http::{Answer, ApiError, Body, Code};
use crate::models::catalog::DeleteError;
use crate::models::reference::ModelRef;

use super::Api;
use super::arguments::{Arguments, wrong};

/// All that is there.
pub(super) fn list(api: &Api) -> Answer {
    Answer::json(200, &ModelList { models: api.catalog.list(&used(api)) })
}

/// 204: it is gone.
pub(super) fn delete(api: &Api, arguments: &Arguments) -> Result<Answer, ApiError> {
    let reference: ModelRef = arguments
        .needed_text("ref")?
        .parse()
        .map_err(|error| ApiError::argument("ref", format!("{error}")))?;
    let ModelRef::Hub(hub) = reference else {
        return Err(wrong("ref", "a model of the hub's cache, hf:org/repo: other files are not the hive's"));
    };
    let is_fetched = || {
        let message = "the model is being downloaded; cancel that first";
        ApiError::new(Code::ModelInUse, message)
    };
    if api.downloads.is_fetching(&hub.folder()) {
        return Err(is_fetched());
    }
    api.catalog.delete(&hub, &used(api)).map_err(|error| match error {
        DeleteError::NotFound(missing) => super::locate::not_here(&missing, ""),
        DeleteError::InUse => ApiError::new(Code::ModelInUse, "a worker uses the model; stop it first"),
        DeleteError::Busy => is_fetched(),
        DeleteError::Disk(kind) => {
            ApiError::new(Code::Internal, format!("the model cache cannot be written: {kind}"))
                .with_details(json!({ "kind": kind.to_string() }))
        }
    })?;
    info!("model deleted model={hub}");
    Ok(Answer { status: 204, headers: Vec::new(), body: Body::Owned(Vec::new()) })
}

/// What living workers have loaded, or wait for.
fn used(api: &Api) -> Vec<PathBuf> {
    api.picture.snapshot().workers.iter().map(|worker| worker.model_path.clone()).collect()
}
