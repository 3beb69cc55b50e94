//! The memory of the simulated machine: a cpu and a GPU whose driver gives memory back late.

use std::collections::BTreeMap;
use std::time::Instant;

use super::fetches::fetch;
use super::{World, expect};
use crate::capacity::ledger::{Choice, Need, Placement, Split};
use crate::devices::{Cpu, Driver, Gpu, Picture};
use crate::id::{Backend, Device, Pgid, WorkerId};
use crate::lifecycle::event::{Order, Plan};
use crate::lifecycle::fleet::View;

/// What there is of each device. No real unit: small numbers make small shrunk lists.
const TOTAL: [u64; 2] = [100, 64];
/// What strangers hold of the GPU.
const FOREIGN: u64 = 4;

const DEVICES: [Device; 2] = [Device::Cpu, Device::Gpu(0)];

/// The devices while processes use so much of each.
pub(super) fn picture(used: &BTreeMap<Pgid, [u64; 2]>, lingering: u64) -> Picture {
    let by =
        |at: usize| -> BTreeMap<Pgid, u64> { used.iter().map(|(pgid, used)| (*pgid, used[at])).collect() };
    let (cpu, gpu) = (by(0), by(1));
    let free = |at: usize, by: &BTreeMap<Pgid, u64>| TOTAL[at] - by.values().sum::<u64>();
    Picture {
        taken_at: Instant::now(),
        gpus_taken_at: Instant::now(),
        cpu: Cpu { cores: 2, total_bytes: TOTAL[0], available_bytes: free(0, &cpu), used_by: cpu.clone() },
        gpus: vec![Gpu {
            device: DEVICES[1],
            name: "model".to_owned(),
            uuid: None,
            backend: Backend::Cuda,
            total_bytes: TOTAL[1],
            free_bytes: free(1, &gpu).saturating_sub(FOREIGN + lingering),
            temperature_c: None,
            utilization_percent: None,
            driver: Driver::Nvml,
            lost: false,
            shares_memory: false,
            used_by: gpu,
            knows_users: true,
        }],
    }
}

/// A worker for either device or for one of them, as `dice` say.
pub(super) fn order(plan: Plan, dice: u8) -> Order {
    let on = |at: usize| {
        let backend = [Backend::Cpu, Backend::Cuda][at];
        let host_bytes = [0, u64::from(dice & 15)][at];
        let need = Need { bytes: u64::from(dice >> 3), host_bytes, breakdown: None };
        Choice { backend, devices: vec![DEVICES[at]], need, split: Split::ByFree }
    };
    let choices = match dice % 4 {
        0 => vec![on(0)],
        1 => vec![on(0), on(1)],
        _ => vec![on(1)],
    };
    Order {
        plan: Plan { pinned: dice.is_multiple_of(5), ..plan },
        choices,
        make_room: !dice.is_multiple_of(3),
        fetch: fetch(dice.rotate_left(5)),
    }
}

/// What of each device is promised.
pub(super) fn promise(placement: &Placement) -> [u64; 2] {
    let [cpu, gpu]: [u64; 2] = DEVICES.map(|device| {
        placement.shares.iter().filter(|share| share.device == device).map(|share| share.bytes).sum()
    });
    [cpu + placement.host_bytes, gpu]
}

impl World {
    /// The devices as they are now.
    pub(super) fn picture(&self) -> Picture {
        let mut used = BTreeMap::new();
        for proc in self.procs.values().filter(|proc| proc.group_alive && proc.taken_at <= self.now) {
            used.insert(proc.pgid, proc.promise);
        }
        Picture { taken_at: self.now, gpus_taken_at: self.now, ..picture(&used, self.lingering()) }
    }

    /// What of the GPU the driver has not given back of dead processes.
    fn lingering(&self) -> u64 {
        let late = self.procs.values().filter(|proc| proc.returned_at.is_some_and(|at| at > self.now));
        late.map(|proc| proc.promise[1]).sum()
    }

    /// Nobody is launched where it would not fit beside those that live.
    pub(super) fn check_room(&self, id: &WorkerId, promise: [u64; 2]) -> Result<(), String> {
        let others = |at: usize| -> u64 {
            let living = self.procs.iter().filter(|((other, _), proc)| other != id && proc.group_alive);
            living.map(|(_, proc)| proc.promise[at]).sum()
        };
        let beside = [others(0), others(1) + FOREIGN];
        let fits = (0..2).all(|at| promise[at] == 0 || beside[at] + promise[at] <= TOTAL[at]);
        expect(fits, || format!("{id} was launched with {promise:?} beside {beside:?}"))
    }

    /// Promises of those that live never exceed a device. Who leaves counts until it is gone, and may be
    /// replaced before: then it is not counted.
    pub(super) fn check_promises(&self, views: &[View]) -> Result<(), String> {
        let staying = views.iter().filter(|view| view.state != crate::api::State::Stopping);
        let sums = staying.fold([0, FOREIGN], |sums, view| {
            let promise = promise(&view.placement);
            [sums[0] + promise[0], sums[1] + promise[1]]
        });
        let fits = sums[0] <= TOTAL[0] && sums[1] <= TOTAL[1];
        expect(fits, || format!("{sums:?} promised of {TOTAL:?}"))
    }
}
