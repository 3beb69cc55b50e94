//! `GET /v1/status` and `GET /v1/devices`: the hive and its machine at one moment.

use std::time::{Instant, SystemTime};

use crate::api::{self, DownloadEvent, HiveStatus, QueenContact};
use crate::clock::rfc3339;
use crate::devices;
use crate::http::Answer;
use crate::lifecycle::picture::Snapshot;
use crate::models::cache;

use super::{Api, downloads};

/// What does not change while a hive runs.
#[derive(Debug, Clone)]
pub struct About {
    /// `--hive-id`.
    pub hive_id: String,
    /// How the queen reaches it.
    pub url: String,
    /// Another one with each start.
    pub boot_id: String,
    /// When it was started.
    pub started_at: SystemTime,
}

pub(super) fn devices(api: &Api) -> Answer {
    Answer::json(200, &seen(api, &api.picture.snapshot()))
}

pub(super) fn status(api: &Api) -> Answer {
    let snapshot = api.picture.snapshot();
    let About { hive_id, url, boot_id, started_at } = api.about.clone();
    let queen = api.posts.as_ref().map(|posts| QueenContact {
        last_success_at: posts.last_taken_at().map(rfc3339),
        failures_in_a_row: posts.failed_in_a_row(),
    });
    let download = |download: &crate::models::downloads::Download| DownloadEvent {
        download_id: download.id().to_string(),
        progress: downloads::wire(download, &download.now().1),
    };
    Answer::json(
        200,
        &api::Status {
            hive_id,
            url,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id,
            started_at: rfc3339(started_at),
            // Who can still ask has not heard the last word.
            status: if snapshot.status == HiveStatus::Stopped {
                HiveStatus::Stopping
            } else {
                snapshot.status
            },
            reasons: api.reasons(),
            queen,
            devices: seen(api, &snapshot),
            workers: snapshot.workers.iter().map(|entry| entry.worker.clone()).collect(),
            downloads: api.downloads.active().iter().map(|one| download(one)).collect(),
        },
    )
}

/// The devices as they are now; waits for a driver that is asked.
fn seen(api: &Api, snapshot: &Snapshot) -> api::Devices {
    let picture = api.devices.look();
    let hidden =
        picture.gpus.iter().map(|gpu| gpu.device).filter(|device| api.rules.hides(*device)).collect();
    let promised = |device| snapshot.promised_bytes(device, &picture);
    let (models, disk) = (cache::count(&api.model_dir), devices::disk(&api.model_dir));
    devices::wire(&picture, &hidden, promised, models, snapshot.workers.len(), disk, Instant::now())
}
