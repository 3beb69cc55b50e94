//! Another hive in the place of the simulated one: it finds records and processes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{PORTS, World, expect, ledger};
use crate::id::{Pgid, WorkerId};
use crate::lifecycle::event::{Adopted, Event, LaunchJob, Plan, Standing};
use crate::lifecycle::fleet::Fleet;
use crate::lifecycle::simulation::Seeded;
use crate::limits::IDEMPOTENCY_KEEP;

/// What stands on the disk of the simulated machine.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<WorkerId, (LaunchJob, Standing)>);

impl Records {
    /// A run is about to be launched.
    pub fn launch(&mut self, job: &LaunchJob) {
        self.0.insert(job.id.clone(), (job.clone(), Standing::Loading));
    }

    /// A run has gone on.
    pub fn note(&mut self, id: &WorkerId, standing: Standing) {
        if let Some((_, known)) = self.0.get_mut(id) {
            *known = standing;
        }
    }

    /// Whose there are.
    pub fn ids(&self) -> Vec<WorkerId> {
        self.0.keys().cloned().collect()
    }

    /// Nothing is left of a worker.
    pub fn remove(&mut self, id: &WorkerId) {
        self.0.remove(id);
    }
}

impl World {
    /// The hive dies at this moment, or ends and keeps its workers, and the next one takes its place.
    pub(super) fn restart(&mut self, keep: bool) -> Result<(), String> {
        if keep && !self.fleet.is_stopping() {
            let (count, effects) = self.fleet.keep(self.now);
            expect(count >= Some(self.fleet.len()), || "the kept are miscounted".to_owned())?;
            self.perform(effects)?;
            self.check_news()?;
            let until = self.now + Duration::from_secs(60);
            while !self.fleet.is_done(self.now) {
                expect(self.now < until, || "a hive that keeps its workers does not end".to_owned())?;
                self.advance(Duration::from_millis(50))?;
            }
        }
        self.random = Seeded::new(self.random.next_u64());
        let entropy = Box::new(Seeded::new(self.random.next_u64()));
        self.fleet = Fleet::new(self.policy.clone(), PORTS, ledger(), entropy);
        self.inbox.clear();
        self.stop_asked.clear();
        self.seen.clear();
        self.forget_fetches();
        let mut adopted = Vec::new();
        for ((id, run), proc) in &mut self.procs {
            (proc.terms, proc.kills) = (0, 0);
            if !proc.leader_alive {
                proc.group_alive = false; // strays are killed at the start
                continue;
            }
            let record = self.records.0.get(id).filter(|(job, _)| job.run == *run);
            let Some((job, standing)) = record else {
                return Err(format!("process {} of {id} run {run} lives without a record", proc.pgid));
            };
            let mut job = job.clone();
            // A key that has stood for so long stands for nothing any more.
            if !self.keys.values().any(|(known, until)| known == id && self.now < *until) {
                job.plan = Arc::new(Plan { key: None, ..Plan::clone(&job.plan) });
            }
            adopted.push((job, proc.pgid, *standing));
        }
        let living: BTreeSet<WorkerId> = adopted.iter().map(|(job, ..)| job.id.clone()).collect();
        self.records.0.retain(|id, _| living.contains(id));
        self.keys.retain(|_, (id, _)| living.contains(id));
        self.keys.retain(|_, (_, until)| self.now < *until);
        self.keys.values_mut().for_each(|(_, until)| *until = self.now + IDEMPOTENCY_KEEP);
        let picture = self.picture();
        let effects = self.fleet.on(Event::Devices(picture.into()), self.now);
        self.perform(effects)?;
        for (job, pgid, standing) in adopted {
            self.adopt(job, pgid, standing)?;
        }
        expect(self.fleet.len() == living.len(), || "a worker that lives was not adopted".to_owned())
    }

    fn adopt(&mut self, job: LaunchJob, pgid: Pgid, standing: Standing) -> Result<(), String> {
        let id = job.id.clone();
        let effects =
            self.fleet.adopt(Adopted { job, pgid, standing, age: Duration::from_secs(1) }, self.now);
        if let Some(view) = self.fleet.view(&id) {
            // What it is taken for is the first that is told of it.
            self.seen.insert(id.clone(), view.state);
            expect(view.pgid == Some(pgid), || format!("{id} was adopted without its process"))?;
        }
        if standing == Standing::Stopping {
            self.stop_asked.insert(id, self.now);
        }
        self.perform(effects)
    }
}
