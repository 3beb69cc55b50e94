//! Who comes in: a newcomer, which gets a name, a port and a promise of memory or nothing, and what an earlier hive
//! has left.

use std::time::Instant;

use crate::capacity::ledger::{Choice, Claim, Placed, Refused};
use crate::id::{Device, Token, WorkerId};
use crate::lifecycle::any::AnyWorker;
use crate::lifecycle::event::{Adopted, DiskJob, Effect, Order, Signal, Standing};
use crate::lifecycle::spawning::Wait;
use crate::lifecycle::state::{Effects, Spawning, StopReason, Worker};
use crate::limits::{ADOPTION_WAIT, IDEMPOTENCY_KEEP, IDEMPOTENCY_KEYS_MAX, ROOM_WAIT, WORKERS_MAX};

use super::{Fleet, View};

/// A spawn that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// The worker as it is now.
    pub view: View,
    /// Whether the same `Idempotency-Key` had asked for it before.
    pub again: bool,
}

/// Why a spawn is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmitError {
    /// The cascade runs.
    ShuttingDown,
    /// The hive is drained.
    Draining,
    /// [`WORKERS_MAX`] live.
    TooManyWorkers,
    /// All ports of the range are taken.
    NoFreePort,
    /// None of its choices has enough memory.
    NoRoom(Refused),
}

/// An `Idempotency-Key` that a worker was spawned with.
pub(super) struct Known {
    key: String,
    pub(super) id: WorkerId,
    forget_at: Instant,
}

impl Fleet {
    /// Admits a worker and launches it. `usable` says whether nobody else listens on a port. The same key
    /// within [`IDEMPOTENCY_KEEP`] gives the same worker, also after its end.
    ///
    /// # Errors
    /// As [`AdmitError`] says; nothing is reserved then.
    pub fn spawn(
        &mut self,
        order: Order,
        now: Instant,
        usable: &mut dyn FnMut(u16) -> bool,
    ) -> (Result<Admitted, AdmitError>, Effects) {
        let mut out = self.fire(now);
        let key = order.plan.key.as_ref().map(|key| key.text.clone());
        if let Some(view) = key.as_deref().and_then(|key| self.spawned(key, now)) {
            return (Ok(Admitted { view, again: true }), out);
        }
        let admitted = self.admit(order, now, usable, &mut out);
        if let (Ok(admitted), Some(key)) = (&admitted, key) {
            self.remember(key, admitted.view.id.clone(), now);
        }
        (admitted, out)
    }

    fn remember(&mut self, key: String, id: WorkerId, now: Instant) {
        if self.keys.len() >= IDEMPOTENCY_KEYS_MAX {
            self.keys.pop_front();
        }
        self.keys.push_back(Known { key, id, forget_at: now + IDEMPOTENCY_KEEP });
    }

    /// The worker that was spawned with `key`, if that is not forgotten.
    pub fn spawned(&mut self, key: &str, now: Instant) -> Option<View> {
        self.keys.retain(|key| key.forget_at > now);
        let known = self.keys.iter().find(|known| known.key == key)?;
        self.view(&known.id)
    }

    fn admit(
        &mut self,
        order: Order,
        now: Instant,
        usable: &mut dyn FnMut(u16) -> bool,
        out: &mut Effects,
    ) -> Result<Admitted, AdmitError> {
        if self.ending.is_some() {
            return Err(AdmitError::ShuttingDown);
        }
        if self.is_draining() {
            return Err(AdmitError::Draining);
        }
        if self.workers.len() >= WORKERS_MAX {
            return Err(AdmitError::TooManyWorkers);
        }
        let Order { plan, choices, make_room, fetch } = order;
        let Placed { placement, leave } =
            self.ledger.place(&choices, make_room, &self.claims()).map_err(AdmitError::NoRoom)?;
        let lease = self.ports.take(plan.port_hint, now, usable).ok_or(AdmitError::NoFreePort)?;
        for id in &leave {
            let grace = self.policy.grace;
            self.change(id, now, out, |worker, _, out| worker.stop(StopReason::MakeRoom, now, grace, out));
        }
        let wait = Wait { fetch, leave, give_up_at: self.room_by(now) };
        let id = self.fresh_id();
        let token = Token::random(&mut *self.entropy);
        let worker = Worker::admitted(id, plan, placement, lease, token, wait, out);
        let view = worker.view();
        self.news.push(view.clone());
        self.workers.insert(view.id.clone(), AnyWorker::Spawning(worker));
        Ok(Admitted { view, again: false })
    }

    /// Where a worker with these choices would go now: what [`Fleet::spawn`] decides by.
    ///
    /// # Errors
    /// If none of them has enough memory.
    pub fn place(&self, choices: &[Choice], make_room: bool) -> Result<Placed, Refused> {
        self.ledger.place(choices, make_room, &self.claims())
    }

    /// The devices that are offered, and what each has for a newcomer, in bytes.
    pub fn available(&self) -> Vec<(Device, u64)> {
        let claims = self.claims();
        let with_room = |device| Some((device, self.ledger.available(device, &claims)?));
        self.ledger.devices().filter_map(with_room).collect()
    }

    /// How long somebody waits for those who leave for it.
    pub(super) fn room_by(&self, now: Instant) -> Instant {
        now + self.policy.grace + ROOM_WAIT
    }

    fn claims(&self) -> Vec<Claim<'_>> {
        self.workers.values().map(AnyWorker::claim).collect()
    }

    fn fresh_id(&mut self) -> WorkerId {
        loop {
            let id = WorkerId::random(&mut *self.entropy);
            if self.view(&id).is_none() {
                return id;
            }
        }
    }

    /// Takes over a worker that an earlier hive has launched. If its port is another one's, it is killed.
    pub fn adopt(&mut self, adopted: Adopted, now: Instant) -> Effects {
        let mut out = self.fire(now);
        let (id, run) = (adopted.job.id.clone(), adopted.job.run);
        let Some(lease) = self.ports.keep(adopted.job.port) else {
            out.push(Effect::Signal { id: id.clone(), run, signal: Signal::Kill });
            out.push(Effect::Disk(DiskJob::RemoveRecord { id }));
            return out;
        };
        // Whoever asked an earlier hive for it, and heard nothing, asks this one.
        if let Some(key) = &adopted.job.plan.key {
            self.remember(key.text.clone(), id.clone(), now);
        }
        let standing = adopted.standing;
        let loading = Worker::<Spawning>::adopted(adopted, lease, now, &self.policy);
        let worker = match standing {
            Standing::Loading => AnyWorker::Spawning(loading),
            Standing::Serving => match loading.resumed(now, &self.policy) {
                Ok(ready) => AnyWorker::Ready(ready),
                Err(loading) => AnyWorker::Spawning(loading),
            },
            Standing::Stopping => {
                let grace = self.policy.grace;
                AnyWorker::Stopping(loading.stop(StopReason::Asked, now, grace, &mut out))
            }
        };
        self.news.push(worker.view());
        self.workers.insert(id, worker);
        self.adopted_by = Some(now + ADOPTION_WAIT);
        out
    }

    /// Whether workers that were adopted as serving have not said yet that they do.
    pub fn is_adopting(&self, now: Instant) -> bool {
        let mut workers = self.workers.values();
        self.adopted_by.is_some_and(|by| now < by) && workers.any(AnyWorker::is_unheard)
    }
}
