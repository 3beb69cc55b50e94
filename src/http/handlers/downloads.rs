//! `/v1/models/download`: begins downloads, tells how far they are, cancels them.

use std::sync::Arc;
use std::time::Instant;

use crate::api::{DownloadResponse, Message, Progress};
use crate::http::{Answer, ApiError, Code, Pull, Request, Source};
use crate::id::DownloadId;
use crate::models::downloads::{Download, Refused, Stage};
use crate::models::reference::ModelRef;
use crate::models::transfer::TransferError;

use super::arguments::{Arguments, wrong};
use super::locate::{Halt, Located, hub_code, locate, no_space};
use super::{Api, shutting_down};

/// 202 with the name of the download, 200 if the model is here.
pub(super) fn begin(api: &Api, request: &Request, online: Option<Instant>) -> Result<Answer, Halt> {
    let arguments = Arguments::parse(&request.body)?;
    let reference: ModelRef = arguments
        .needed_text("model_ref")?
        .parse()
        .map_err(|error| ApiError::argument("model_ref", format!("{error}")))?;
    if let ModelRef::File(_) = reference {
        return Err(wrong("model_ref", "a model of the hub, hf:org/repo").into());
    }
    let selection = match locate(api, &reference, online)? {
        Located::Here(found) => {
            let local_path = Some(found.path.to_string_lossy().into_owned());
            let body = DownloadResponse { download_id: "cached".to_owned(), local_path };
            return Ok(Answer::json(200, &body));
        }
        Located::OnHub(selection, _) => selection,
    };
    api.downloads.check_disk(&selection).map_err(no_space)?;
    let download = api.downloads.fetch(&selection).map_err(|refused| match refused {
        Refused::Ended => shutting_down(),
        Refused::TooMany => ApiError::new(Code::Overloaded, "too many downloads are under way")
            .with_header("Retry-After", "60"),
    })?;
    let id = download.id().to_string();
    let location = format!("/v1/models/download/progress?id={id}");
    let body = DownloadResponse { download_id: id, local_path: None };
    Ok(Answer::json(202, &body).with_header("Location", location))
}

/// The stream of a download's progress, from after the state numbered `seen`.
pub(super) fn progress(
    api: &Api,
    arguments: &Arguments,
    seen: Option<u64>,
) -> Result<Box<dyn Source>, ApiError> {
    Ok(Box::new(ProgressStream { download: asked(api, arguments)?, seen }))
}

/// 202: the transfer ends, what is here stays.
pub(super) fn cancel(api: &Api, arguments: &Arguments) -> Result<Answer, ApiError> {
    let download = asked(api, arguments)?;
    api.downloads.cancel(download.id());
    let message = "the download is cancelled; what is here of it is kept for resuming".to_owned();
    Ok(Answer::json(202, &Message { message }))
}

fn asked(api: &Api, arguments: &Arguments) -> Result<Arc<Download>, ApiError> {
    let id = DownloadId::parse(arguments.needed_text("id")?);
    id.and_then(|id| api.downloads.get(&id))
        .ok_or_else(|| ApiError::new(Code::DownloadNotFound, "there is no such download"))
}

/// A download as the wire has it.
pub fn wire(download: &Download, stage: &Stage) -> Progress {
    match stage {
        Stage::Downloading { bytes, total_bytes, bytes_per_second, file, attempt } => Progress::Downloading {
            bytes_downloaded: *bytes,
            bytes_total: *total_bytes,
            speed_mbps: (bytes_per_second * 8.0 / 1e5).round() / 10.0,
            file: download.selection().files.get(*file).map_or_else(String::new, |file| file.path.clone()),
            attempt: *attempt,
        },
        Stage::Verifying => Progress::Verifying,
        Stage::Complete => {
            Progress::Complete { local_path: download.selection().path.to_string_lossy().into_owned() }
        }
        Stage::Failed(error) => {
            let code = match error {
                TransferError::Hub(error) => hub_code(error),
                TransferError::Corrupt => Code::Upstream,
                TransferError::Locked => Code::ModelInUse,
                TransferError::DiskFull => Code::InsufficientDisk,
                TransferError::Disk(_) => Code::Internal,
            };
            Progress::Error { code: code.wire().1.to_owned(), message: error.to_string() }
        }
    }
}

/// One reader of a download's progress: gets the present state whenever it is another than the one it has.
struct ProgressStream {
    download: Arc<Download>,
    seen: Option<u64>,
}

impl Source for ProgressStream {
    fn pull(&mut self, out: &mut Vec<u8>, _room: usize) -> Pull {
        let (number, stage) = self.download.now();
        if self.seen != Some(number) {
            self.seen = Some(number);
            let data =
                serde_json::to_string(&wire(&self.download, &stage)).expect("wire types are valid JSON");
            out.extend_from_slice(format!("id: {number}\ndata: {data}\n\n").as_bytes());
        }
        if stage.is_last() {
            out.extend_from_slice(b"data: [DONE]\n\n");
            return Pull::End;
        }
        Pull::Wait
    }
}
