//! Who was promised how much memory of which device.
//!
//! Pure: what the devices have comes in as a [`Picture`], who was promised what as [`Claim`]s. A device has
//! for a newcomer
//!
//! ```text
//! min( free now − Σ what promises have not taken up yet , total − reserve − Σ promises )
//! ```
//!
//! where a worker's own use counts against its promise. Use and free memory come from one picture: from two
//! they could count the same bytes twice, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::estimate::Breakdown;
use crate::devices::{Gpu, Picture};
use crate::id::{Backend, Device, Pgid, WorkerId};
use crate::limits::MEMORY_RETURN_WAIT;

/// What the operator keeps from the hive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Memory of a device that is for others, in bytes.
    pub reserve: BTreeMap<Device, u64>,
    /// Devices that are not offered; with a GPU, its MIG instances.
    pub hidden: BTreeSet<Device>,
}

impl Rules {
    /// Whether `device` is kept from everybody.
    pub fn hides(&self, device: Device) -> bool {
        let parent = match device {
            Device::Mig { gpu, .. } => Some(Device::Gpu(gpu)),
            Device::Cpu | Device::Gpu(_) => None,
        };
        self.hidden.contains(&device) || parent.is_some_and(|parent| self.hidden.contains(&parent))
    }
}

/// How much memory a worker needs, and what for if that was estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// On all its devices together.
    pub bytes: u64,
    /// Beside its GPUs, of the memory of the cpu.
    pub host_bytes: u64,
    /// `None` if the operator said how much.
    pub breakdown: Option<Breakdown>,
}

/// How an engine parts a model among several GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// In proportion to what is free on each, as llama.cpp does.
    ByFree,
    /// Alike, as tensor parallelism does. Each GPU may take the same fraction of its memory, which the smallest
    /// one needs for its part: vLLM does not start unless all of them have that fraction free.
    Even,
}

/// One way to place a worker: on one device, or split over several GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What computes.
    pub backend: Backend,
    /// At least one.
    pub devices: Vec<Device>,
    /// What it takes there.
    pub need: Need,
    /// How it is parted, if there are several.
    pub split: Split,
}

/// What a worker was promised, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What computes.
    pub backend: Backend,
    /// At least one.
    pub shares: Vec<Share>,
    /// Of the memory of the cpu, beside the shares: what a worker on GPUs keeps there.
    pub host_bytes: u64,
}

/// The part of a promise that lies on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The device.
    pub device: Device,
    /// What keeps a worker on it, in `CUDA_VISIBLE_DEVICES` or `ROCR_VISIBLE_DEVICES`: its UUID, else its number
    /// among the GPUs of its driver. Empty for the cpu.
    pub visible_as: String,
    /// Its driver's backend; the worker may compute on it with another one.
    pub backend: Backend,
    /// All its memory, in bytes.
    pub total_bytes: u64,
    /// How much.
    pub bytes: u64,
}

impl Placement {
    /// All that was promised, in bytes.
    pub fn bytes(&self) -> u64 {
        self.device_bytes().saturating_add(self.host_bytes)
    }

    /// What was promised of its devices, in bytes.
    pub fn device_bytes(&self) -> u64 {
        self.shares.iter().fold(0, |sum, share| sum.saturating_add(share.bytes))
    }

    /// What was promised of the memory of `device`, in bytes; where GPUs use the memory of the cpu, what was promised
    /// of them as well.
    pub fn bytes_of(&self, device: Device, picture: &Picture) -> u64 {
        let shares = self.shares.iter().map(|share| (share.device, share.bytes));
        let all = shares.chain([(Device::Cpu, self.host_bytes)]);
        let of_it = all.filter(|(other, _)| share_memory(picture, *other, device));
        of_it.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// The smallest part of a device's memory that was promised of any of its devices, from 0 to 1.
    pub fn fraction(&self) -> f64 {
        let parts = self.shares.iter().filter(|share| share.total_bytes > 0);
        parts.map(|share| share.bytes as f64 / share.total_bytes as f64).fold(1.0, f64::min)
    }

    /// Whether some of it lies on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.shares.iter().any(|share| share.device != Device::Cpu)
    }

    /// The devices by name, joined by commas.
    pub fn device(&self) -> String {
        names(self.shares.iter().map(|share| share.device))
    }
}

/// Devices by name, joined by commas: `gpu0,gpu1`.
pub fn names(devices: impl IntoIterator<Item = Device>) -> String {
    devices.into_iter().map(|device| device.to_string()).collect::<Vec<_>>().join(",")
}

/// A worker that has a promise.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Whose.
    pub worker: &'a WorkerId,
    /// What was promised.
    pub placement: &'a Placement,
    /// Its processes, if there are any.
    pub group: Option<Pgid>,
    /// Since when it has its model loaded. Where use is not known, it counts as having taken its promise in
    /// pictures that were taken later.
    pub serves_since: Option<Instant>,
    /// When it last had work, if it may be stopped to make room.
    pub idle_since: Option<Instant>,
}

/// Where a newcomer goes, and who leaves for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its promise.
    pub placement: Placement,
    /// Least recently used first.
    pub leave: Vec<WorkerId>,
}

/// Why a newcomer goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The hive has none of the devices.
    NoDevice(Vec<Device>),
    /// The best choice has too little.
    NoRoom {
        /// The choice.
        choice: Choice,
        /// What its devices have; or the cpu, if `host_bytes` is there.
        available_bytes: u64,
        /// What it needs of the memory of the cpu, if that alone is short.
        host_bytes: Option<u64>,
    },
}

/// What a dead worker was last seen to use on a device, and what the device had beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    device: Device,
    used: u64,
    /// Free memory and the use of all other workers.
    beside: u64,
}

/// A run that is over and whose memory has not come back yet; with its promise, if its worker is gone too.
#[derive(Debug)]
struct Settling {
    worker: WorkerId,
    placement: Option<Arc<Placement>>,
    seen: Vec<Seen>,
    died_at: Instant,
}

/// The devices as last seen, the operator's rules, and promises of the dead.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    picture: Arc<Picture>,
    settling: Vec<Settling>,
}

impl Ledger {
    /// A ledger without promises.
    pub fn new(rules: Rules, picture: Arc<Picture>) -> Self {
        Self { rules, picture, settling: Vec::new() }
    }

    /// Takes in a picture, unless it is older than the last one: memory may have come back.
    pub fn look(&mut self, picture: Arc<Picture>) {
        if picture.taken_at < self.picture.taken_at {
            return;
        }
        self.picture = picture;
        let picture = &self.picture;
        self.settling.retain(|dead| {
            picture.gpus_taken_at <= dead.died_at || !dead.seen.iter().all(|seen| has_returned(picture, seen))
        });
    }

    /// What the processes of `claim` use now of its GPUs; `None` if the picture does not show them, being older
    /// than they are.
    pub fn seen(&self, claim: &Claim<'_>) -> Option<Vec<Seen>> {
        let group = claim.group.filter(|group| self.picture.cpu.used_by.contains_key(group))?;
        let gpus = claim.placement.shares.iter().filter_map(|share| Some((share, self.gpu(share.device)?)));
        let each = gpus.map(|(share, gpu)| {
            let used = self.taken(claim, share);
            let others = gpu.used_by.iter().filter(|(other, _)| **other != group).map(|(_, bytes)| *bytes);
            // What others are to give back must not be taken for what these do.
            let owed =
                self.settling.iter().flat_map(|dead| &dead.seen).filter(|seen| seen.device == gpu.device);
            let beside = others.chain(owed.map(|seen| seen.used)).fold(gpu.free_bytes, u64::saturating_add);
            Seen { device: gpu.device, used, beside }
        });
        Some(each.filter(|seen| seen.used > 0).collect())
    }

    /// The processes of a worker are dead, and were last seen to use `seen`: until it has come back, at the
    /// latest after [`MEMORY_RETURN_WAIT`], nobody is launched in its place. The kernel takes back memory of
    /// the cpu before it tells of the death, drivers may lag.
    pub fn wait_for(&mut self, worker: WorkerId, seen: Vec<Seen>, now: Instant) {
        self.settling.push(Settling { worker, placement: None, seen, died_at: now });
    }

    /// The worker is gone: its promise is free, once its memory has come back.
    pub fn release(&mut self, worker: &WorkerId, placement: &Arc<Placement>) {
        for dead in self.settling.iter_mut().filter(|dead| dead.worker == *worker) {
            dead.placement = Some(Arc::clone(placement));
        }
    }

    /// Stops waiting for memory that did not come back in time.
    pub fn expire(&mut self, now: Instant) {
        self.settling.retain(|dead| now < dead.died_at + MEMORY_RETURN_WAIT);
    }

    /// When [`Ledger::expire`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.settling.iter().map(|dead| dead.died_at + MEMORY_RETURN_WAIT).min()
    }

    /// Whether memory of some dead worker has not come back: a new picture is wanted.
    pub fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Whether memory of this dead worker has not come back.
    pub fn settles(&self, worker: &WorkerId) -> bool {
        self.settling.iter().any(|dead| dead.worker == *worker)
    }

    /// The devices that are offered.
    pub fn devices(&self) -> impl Iterator<Item = Device> + '_ {
        let gpus = self.picture.gpus.iter().map(|gpu| gpu.device);
        std::iter::once(Device::Cpu).chain(gpus).filter(|device| !self.rules.hides(*device))
    }

    /// What `device` has for a newcomer, in bytes; `None` if it is not offered.
    pub fn available(&self, device: Device, claims: &[Claim<'_>]) -> Option<u64> {
        self.room(device, claims, &[]).map(|room| room.available)
    }

    /// Finds the place for a newcomer: the GPU (or the GPUs) with most available memory that has enough, else
    /// the cpu, among `choices`. With `make_room`, idle workers leave where nothing else helps.
    ///
    /// # Errors
    /// If no choice has enough.
    pub fn place(
        &self,
        choices: &[Choice],
        make_room: bool,
        claims: &[Claim<'_>],
    ) -> Result<Placed, Refused> {
        let mut known: Vec<(&Choice, Rooms)> =
            choices.iter().filter_map(|choice| Some((choice, self.rooms(choice, claims, &[])?))).collect();
        known.sort_by_key(|(choice, rooms)| {
            (choice.devices.contains(&Device::Cpu), std::cmp::Reverse(rooms.available()))
        });
        if let Some((choice, rooms)) = known.iter().find(|(choice, rooms)| self.lack(choice, rooms).is_none())
        {
            return Ok(Placed { placement: self.promise(choice, rooms), leave: Vec::new() });
        }
        if make_room
            && let Some(placed) = known.iter().find_map(|(choice, _)| self.with_room_made(choice, claims))
        {
            return Ok(placed);
        }
        Err(match known.into_iter().next() {
            Some((choice, rooms)) => {
                let (available_bytes, host_bytes) = match self.lack(choice, &rooms) {
                    Some(Lack::Host { needed }) => (rooms.host.available, Some(needed)),
                    _ => (rooms.available_for(choice), None),
                };
                Refused::NoRoom { choice: choice.clone(), available_bytes, host_bytes }
            }
            None => Refused::NoDevice(choices.iter().flat_map(|choice| choice.devices.clone()).collect()),
        })
    }

    /// As few of the idle workers as it takes, least recently used first.
    fn with_room_made(&self, choice: &Choice, claims: &[Claim<'_>]) -> Option<Placed> {
        let host = (choice.need.host_bytes > 0).then_some(Device::Cpu);
        let wanted: Vec<Device> = choice.devices.iter().copied().chain(host).collect();
        let concerned = |claim: &&Claim<'_>| wanted.iter().any(|device| self.on(claim, *device).0 > 0);
        let mut idle: Vec<(Instant, &WorkerId)> = claims
            .iter()
            .filter(concerned)
            .filter_map(|claim| Some((claim.idle_since?, claim.worker)))
            .collect();
        idle.sort();
        let rooms = |leave: &[&WorkerId]| self.rooms(choice, claims, leave);
        let has_room =
            |leave: &[&WorkerId]| rooms(leave).is_some_and(|rooms| self.lack(choice, &rooms).is_none());
        let mut leave: Vec<&WorkerId> = Vec::new();
        for (_, worker) in &idle {
            leave.push(worker);
            if has_room(&leave) {
                break;
            }
        }
        if !has_room(&leave) {
            return None;
        }
        // Somebody small who was taken first may not be needed after somebody large.
        for (_, worker) in idle.iter().rev() {
            let fewer: Vec<&WorkerId> = leave.iter().copied().filter(|other| other != worker).collect();
            if has_room(&fewer) {
                leave = fewer;
            }
        }
        let placement = self.promise(choice, &rooms(&leave)?);
        Some(Placed { placement, leave: leave.into_iter().cloned().collect() })
    }

    /// The promise of what `choice` needs, split as its engine splits a model.
    fn promise(&self, choice: &Choice, rooms: &Rooms) -> Placement {
        let share = |(device, bytes): (&Device, u64)| {
            let gpu = self.gpu(*device);
            Share {
                device: *device,
                visible_as: gpu.map_or_else(String::new, |gpu| self.visible_as(gpu)),
                backend: gpu.map_or(Backend::Cpu, |gpu| gpu.backend),
                total_bytes: self.memory(*device).map_or(0, |(_, total)| total),
                bytes,
            }
        };
        let shares = choice.devices.iter().zip(rooms.parts(choice)).map(share).collect();
        Placement { backend: choice.backend, shares, host_bytes: choice.need.host_bytes }
    }

    /// What keeps `choice` from fitting into `rooms`.
    fn lack(&self, choice: &Choice, rooms: &Rooms) -> Option<Lack> {
        let parts = rooms.parts(choice);
        if !parts.iter().zip(&rooms.each).all(|(part, room)| room.available > 0 && *part <= room.available) {
            return Some(Lack::Devices);
        }
        let host = choice.need.host_bytes;
        let in_host =
            parts.iter().zip(&choice.devices).filter(|(_, device)| self.share_memory(Device::Cpu, **device));
        let needed = in_host.fold(host, |sum, (part, _)| sum.saturating_add(*part));
        (host > 0 && needed > rooms.host.available).then_some(Lack::Host { needed })
    }

    /// What there is for `choice`; `None` if some device of it is not offered.
    fn rooms(&self, choice: &Choice, claims: &[Claim<'_>], leave: &[&WorkerId]) -> Option<Rooms> {
        let each = choice.devices.iter().map(|device| self.room(*device, claims, leave));
        // Workers on GPUs have host memory also where the cpu is not offered to workers.
        Some(Rooms { each: each.collect::<Option<_>>()?, host: self.room_of(Device::Cpu, claims, leave)? })
    }

    /// `placement` with its devices as they are called now, if that is another way: the hive that launched an adopted
    /// worker may have seen more cards, or fewer, and have counted otherwise.
    pub fn renamed(&self, placement: &Placement) -> Option<Placement> {
        let mut renamed = placement.clone();
        for share in &mut renamed.shares {
            let is_it = |gpu: &&Gpu| gpu.uuid.as_ref() == Some(&share.visible_as);
            if let Some(gpu) = self.picture.gpus.iter().find(is_it) {
                share.device = gpu.device;
            }
        }
        (renamed != *placement).then_some(renamed)
    }

    fn visible_as(&self, gpu: &Gpu) -> String {
        let same = self.picture.gpus.iter().filter(|other| other.backend == gpu.backend);
        let number = || same.take_while(|other| other.device != gpu.device).count().to_string();
        gpu.uuid.clone().unwrap_or_else(number)
    }

    /// What `device` has once those who `leave` are gone; `None` if it is not offered.
    fn room(&self, device: Device, claims: &[Claim<'_>], leave: &[&WorkerId]) -> Option<Room> {
        if self.rules.hides(device) { None } else { self.room_of(device, claims, leave) }
    }

    fn room_of(&self, device: Device, claims: &[Claim<'_>], leave: &[&WorkerId]) -> Option<Room> {
        let (mut free, total) = self.memory(device)?;
        let (mut untaken, mut promised) = (0u64, 0u64);
        for claim in claims {
            let (bytes, taken) = self.on(claim, device);
            if leave.contains(&claim.worker) {
                free = free.saturating_add(taken);
            } else {
                untaken = untaken.saturating_add(bytes.saturating_sub(taken));
                promised = promised.saturating_add(bytes);
            }
        }
        for share in self.settling.iter().filter_map(|dead| dead.placement.as_ref()).flat_map(|p| &p.shares) {
            if self.share_memory(share.device, device) {
                promised = promised.saturating_add(share.bytes);
            }
        }
        let reserves = self.rules.reserve.iter().filter(|(other, _)| self.share_memory(**other, device));
        let reserve = reserves.map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let allowed = total.saturating_sub(reserve).saturating_sub(promised);
        Some(Room { total, free, available: free.saturating_sub(untaken).min(allowed) })
    }

    /// What was promised to `claim` of the memory of `device`, and what it uses of it.
    fn on(&self, claim: &Claim<'_>, device: Device) -> (u64, u64) {
        let shares = claim.placement.shares.iter().filter(|share| self.share_memory(share.device, device));
        let has_host = claim.placement.host_bytes > 0 && self.share_memory(Device::Cpu, device);
        let taken_of_host = if has_host { self.taken_of_host(claim) } else { 0 };
        let taken = shares.fold(taken_of_host, |taken, share| taken.saturating_add(self.taken(claim, share)));
        (claim.placement.bytes_of(device, &self.picture), taken)
    }

    /// What the processes of `claim` use of the memory of the cpu.
    fn taken_of_host(&self, claim: &Claim<'_>) -> u64 {
        claim.group.and_then(|group| self.picture.cpu.used_by.get(&group)).copied().unwrap_or(0)
    }

    /// What `claim` uses of the device of one of its shares.
    fn taken(&self, claim: &Claim<'_>, share: &Share) -> u64 {
        let Some(gpu) = self.gpu(share.device) else { return self.taken_of_host(claim) };
        let told = claim.group.and_then(|group| gpu.used_by.get(&group)).copied().unwrap_or(0);
        let had_loaded = claim.serves_since.is_some_and(|at| at < self.picture.gpus_taken_at);
        if gpu.knows_users || !had_loaded {
            return told;
        }
        // Not more than anybody uses.
        told.max(share.bytes.min(gpu.total_bytes.saturating_sub(gpu.free_bytes)))
    }

    /// Free and total memory of a device that is there.
    fn memory(&self, device: Device) -> Option<(u64, u64)> {
        let cpu = &self.picture.cpu;
        if device == Device::Cpu {
            return Some((cpu.available_bytes, cpu.total_bytes));
        }
        let gpu = self.gpu(device)?;
        if gpu.lost {
            return Some((0, 0));
        }
        let (free, total) = (gpu.free_bytes, gpu.total_bytes);
        Some(if gpu.shares_memory {
            (free.min(cpu.available_bytes), total.min(cpu.total_bytes))
        } else {
            (free, total)
        })
    }

    fn share_memory(&self, one: Device, other: Device) -> bool {
        share_memory(&self.picture, one, other)
    }

    fn gpu(&self, device: Device) -> Option<&Gpu> {
        self.picture.gpus.iter().find(|gpu| gpu.device == device)
    }
}

/// Whether what is taken of one device is taken of the other.
fn share_memory(picture: &Picture, one: Device, other: Device) -> bool {
    let shares = |device| picture.gpus.iter().any(|gpu| gpu.device == device && gpu.shares_memory);
    let is_host = |device| device == Device::Cpu || shares(device);
    one == other || (is_host(one) && is_host(other))
}

/// Whether a device has again what a dead worker held. A sixteenth may be missing: others take and give
/// meanwhile.
fn has_returned(picture: &Picture, seen: &Seen) -> bool {
    let Some(gpu) = picture.gpus.iter().find(|gpu| gpu.device == seen.device) else { return true };
    let now = gpu.used_by.values().copied().fold(gpu.free_bytes, u64::saturating_add);
    gpu.lost || now >= seen.beside.saturating_add(seen.used - seen.used / 16)
}

/// Why a choice does not fit.
enum Lack {
    /// Some device of it has less than its part.
    Devices,
    /// The memory of the cpu is less than what it keeps there.
    Host { needed: u64 },
}

/// What a device has, in bytes.
#[derive(Debug, Clone, Copy)]
struct Room {
    total: u64,
    /// Used by nobody.
    free: u64,
    /// Of that, promised to nobody.
    available: u64,
}

/// What there is for a choice.
struct Rooms {
    /// On each of its devices.
    each: Vec<Room>,
    /// Of the memory of the cpu.
    host: Room,
}

impl Rooms {
    /// What is available on all devices.
    fn available(&self) -> u64 {
        self.each.iter().fold(0, |sum, room| sum.saturating_add(room.available))
    }

    /// The most that `choice` could need and still fit, as far as that can be said beforehand.
    fn available_for(&self, choice: &Choice) -> u64 {
        match choice.split {
            Split::ByFree => self.available(),
            Split::Even => {
                let of = |room: &Room| {
                    let most = u128::from(room.available) * self.even() / u128::from(room.total.max(1));
                    u64::try_from(most).unwrap_or(u64::MAX)
                };
                self.each.iter().map(of).min().unwrap_or(0)
            }
        }
    }

    /// The parts of what `choice` needs on each device.
    fn parts(&self, choice: &Choice) -> Vec<u64> {
        let need = choice.need.bytes;
        match choice.split {
            Split::ByFree => by_free(need, &self.each),
            Split::Even => {
                let of = |room: &Room| {
                    let part = (u128::from(need) * u128::from(room.total)).div_ceil(self.even());
                    u64::try_from(part).unwrap_or(u64::MAX)
                };
                self.each.iter().map(of).collect()
            }
        }
    }

    /// What all devices would have together if they were as small as the smallest.
    fn even(&self) -> u128 {
        let smallest = self.each.iter().map(|room| room.total).min().unwrap_or(0).max(1);
        u128::from(smallest) * self.each.len() as u128
    }
}

/// The parts of `need` on each of these devices: in proportion to their free memory, as llama.cpp splits a
/// model that it is not told how to split.
fn by_free(need: u64, each: &[Room]) -> Vec<u64> {
    let all = each.iter().map(|room| u128::from(room.free)).sum::<u128>().max(1);
    let mut left = need;
    let mut parts: Vec<u64> = each
        .iter()
        .map(|room| {
            let part = (u128::from(need) * u128::from(room.free)).div_ceil(all);
            let part = u64::try_from(part).unwrap_or(u64::MAX).min(left);
            left -= part;
            part
        })
        .collect();
    if let Some(last) = parts.last_mut() {
        *last = last.saturating_add(left); // where nothing is free at all
    }
    parts
}

#[cfg(test)]
mod tests;
