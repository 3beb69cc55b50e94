//! What the hive before this one has left.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use log::warn;

use crate::kinds::Kind;
use crate::kinds::shelf::Shelf;
use crate::lifecycle::event::{Adopted, Plan, Standing};
use crate::process::adopt::Orphan;
use crate::process::guard::Guardian;
use crate::process::record::Record;
use crate::process::{Jobs, exits};

/// What was adopted, until the hive has started: a start that fails leaves it to the next one, and to the guardian
/// of the last one.
pub(super) struct Adoption {
    exits: Jobs<exits::Job>,
    is_over: bool,
}

impl Adoption {
    /// Watches what was left; gives what the fleet and the launcher are to know of it.
    pub(super) fn begin(
        orphans: Vec<Orphan>,
        host: IpAddr,
        shelf: &Shelf,
        guardian: &Guardian,
        exits: Jobs<exits::Job>,
    ) -> (Self, Vec<Adopted>, Vec<Record>) {
        let (mut adopted, mut records) = (Vec::new(), Vec::new());
        for Orphan { mut record, pgid, started, pidfd, age } in orphans {
            if let Some(folder) = &record.install {
                record.job.plan = with_install(&record.job.plan, shelf, folder);
            }
            if record.job.plan.key.as_ref().is_some_and(|key| key.is_over(SystemTime::now())) {
                record.job.plan = Arc::new(Plan { key: None, ..Plan::clone(&record.job.plan) });
            }
            if record.host != host {
                warn!(
                    "a worker listens elsewhere than --worker-host says, and is stopped worker={}",
                    record.job.id
                );
                record.standing = Standing::Stopping;
            }
            let (id, run, standing) = (record.job.id.clone(), record.job.run, record.standing);
            let at = SocketAddr::new(host, record.job.port);
            adopted.push(Adopted { job: record.job.clone(), pgid, standing, age });
            exits.send(exits::Job::Adopt { id, run, pgid, pidfd, started, at, ward: guardian.ward() });
            records.push(record);
        }
        (Self { exits, is_over: false }, adopted, records)
    }

    /// The hive has started.
    pub(super) fn succeed(mut self) {
        self.is_over = true;
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        if !self.is_over {
            self.exits.send(exits::Job::LetGo);
        }
    }
}

/// The plan of a worker of an earlier run, which holds what its program was installed by.
fn with_install(plan: &Plan, shelf: &Shelf, folder: &Path) -> Arc<Plan> {
    let install = shelf.hold(&plan.kind.name, folder);
    let kind = Arc::new(Kind { install, ..Kind::clone(&plan.kind) });
    Arc::new(Plan { kind, ..plan.clone() })
}
