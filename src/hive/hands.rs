//! What the supervisor and the downloads do to all others.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;

use crate::api::DownloadEvent;
use crate::devices::Devices;
use crate::http::{StreamWaker, handlers};
use crate::id::{DownloadId, WorkerId};
use crate::kinds::provision::Provisions;
use crate::lifecycle::event::{Effect, Event};
use crate::lifecycle::fleet::Effects;
use crate::lifecycle::picture::Picture;
use crate::lifecycle::supervisor::{Inbox, Surroundings};
use crate::models::downloads::{Download, Downloads, Watcher};
use crate::net::Cut;
use crate::process::follow::Followers;
use crate::process::keep::Keeper;
use crate::process::{Jobs, exits, launch, worker_io};
use crate::relay::Relay;

/// Tells everybody how downloads go.
pub(super) struct Teller {
    pub(super) inbox: Inbox,
    pub(super) picture: Arc<Picture>,
    pub(super) streams: Arc<OnceLock<StreamWaker>>,
}

impl Watcher for Teller {
    fn changed(&self, download: &Download, loud: bool) {
        if loud {
            let (_, stage) = download.now();
            let event = DownloadEvent {
                download_id: download.id().to_string(),
                progress: handlers::downloads::wire(download, &stage),
            };
            let event = serde_json::to_vec(&event).expect("wire types are valid JSON");
            self.picture.publish_download(download.id(), event, stage.is_last());
        }
        if let Some(streams) = self.streams.get() {
            streams.wake();
        }
    }

    fn fetched(&self, id: WorkerId, download: &DownloadId, result: Result<(), String>) {
        self.inbox.tell(Event::Fetched { id, download: download.clone(), result });
    }
}

/// The supervisor's way to all other threads. Nothing here blocks: channels take what is sent, and how much
/// can be under way is bounded by who asks.
pub(super) struct Hands {
    pub(super) launch: Sender<launch::Job>,
    pub(super) exits: Jobs<exits::Job>,
    pub(super) worker_io: Jobs<worker_io::Job>,
    pub(super) followers: Followers,
    pub(super) keeper: Keeper,
    pub(super) devices: Devices,
    pub(super) downloads: Downloads,
    pub(super) provisions: Provisions,
    pub(super) hub_cut: Cut,
    pub(super) worker_host: IpAddr,
    pub(super) relay: Option<Arc<Relay>>,
    pub(super) manager_changed: Sender<()>,
    pub(super) streams: Arc<OnceLock<StreamWaker>>,
}

impl Surroundings for Hands {
    fn perform(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                // The thread lives as long as this sender, or the process is about to abort.
                Effect::Disk(job) => drop(self.launch.send(job)),
                Effect::Signal { id, run, signal } => self.exits.send(exits::Job::Signal { id, run, signal }),
                Effect::Worker(job) => self.worker_io.send(job),
                Effect::LookAtDevices => self.devices.refresh(),
                Effect::Fetch { id, selection } => self.downloads.fetch_for(&id, &selection),
                Effect::Forsake { id, download } => self.downloads.forsake(&id, &download),
            }
        }
    }

    fn is_usable(&mut self, port: u16) -> bool {
        // An error says nothing about the port: the launch will tell.
        launch::is_free(SocketAddr::new(self.worker_host, port)).unwrap_or(true)
    }

    fn published(&mut self, told: bool) {
        if !told {
            return;
        }
        if let Some(relay) = &self.relay {
            relay.changed();
        }
        // Full: it has not looked yet, and will. Without a service manager nobody listens.
        let _ = self.manager_changed.try_send(());
        if let Some(streams) = self.streams.get() {
            streams.wake();
        }
    }

    fn stopping(&mut self) {
        self.hub_cut.cut();
        self.downloads.stop();
        self.provisions.stop();
    }

    fn gone(&mut self, id: &WorkerId) {
        self.followers.ended(id);
        self.keeper.ended(id);
    }
}
