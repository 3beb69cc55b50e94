//! From cards to devices: each card gets a number at first sight, in the order of the bus, and keeps it.

use std::collections::{BTreeMap, BTreeSet};

use super::probe::{Bus, Card, Memory, User};
use super::{Cpu, Gpu};
use crate::id::{Backend, Device, Pgid};
use crate::limits;

/// All cards that were ever seen; a card's number is its place.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    bus: Bus,
    uuid: Option<String>,
    /// As they were last seen: the card itself, or its instances.
    devices: Vec<Gpu>,
}

/// Which process belongs to which worker.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Every process that can be seen from here.
    pub seen: BTreeSet<u32>,
    /// Those of workers.
    pub workers: BTreeMap<u32, Pgid>,
}

impl Numbers {
    /// Takes what was seen of all cards; those that are not among `cards` any more are lost.
    pub fn take(&mut self, mut cards: Vec<Card>, cpu: &Cpu, users: &Users) {
        cards.sort_by_key(|card| card.bus);
        cards.dedup_by_key(|card| card.bus);
        let others = !users.knows_namespace(&cards);
        for known in &mut self.known {
            known.devices.iter_mut().for_each(lose);
        }
        for card in cards {
            let number = self.number(&card);
            let Some(known) = self.known.get_mut(usize::from(number)) else { continue };
            if !card.lost {
                known.uuid = card.uuid.clone().or(known.uuid.take());
                let card = Card { uuid: known.uuid.clone(), ..card };
                known.devices = devices(number, card, cpu, users, others);
            } else if known.devices.is_empty() {
                known.devices = vec![unknown(number, &card)];
            }
        }
    }

    /// All GPUs as they were last seen.
    pub fn last(&self) -> Vec<Gpu> {
        // In the order of the bus, which is that of the numbers but for cards that came later.
        let mut known: Vec<&Known> = self.known.iter().collect();
        known.sort_by_key(|known| known.bus);
        known.into_iter().flat_map(|known| known.devices.iter().cloned()).collect()
    }

    fn number(&mut self, card: &Card) -> u16 {
        let by_uuid = self.known.iter().position(|known| known.uuid.is_some() && known.uuid == card.uuid);
        // A card that does not say which one it is, is the last that was seen in its place.
        let is_here = |known: &Known| known.bus == card.bus && (known.uuid.is_none() || card.uuid.is_none());
        let found = by_uuid.or_else(|| self.known.iter().rposition(is_here));
        let at = found.unwrap_or_else(|| {
            self.known.push(Known { bus: card.bus, uuid: card.uuid.clone(), devices: Vec::new() });
            self.known.len() - 1
        });
        self.known[at].bus = card.bus;
        u16::try_from(at).unwrap_or(u16::MAX)
    }
}

/// What is left of a GPU that is not seen any more.
fn lose(gpu: &mut Gpu) {
    gpu.lost = true;
    gpu.free_bytes = 0;
    gpu.temperature_c = None;
    gpu.utilization_percent = None;
    gpu.used_by.clear();
    gpu.knows_users = false;
}

fn product(card: &Card) -> String {
    card.name.clone().unwrap_or_else(|| {
        let maker = if card.backend == Backend::Rocm { "AMD" } else { "NVIDIA" };
        format!("{maker} GPU")
    })
}

/// A lost card that was never seen well.
fn unknown(number: u16, card: &Card) -> Gpu {
    Gpu {
        device: Device::Gpu(number),
        name: product(card),
        uuid: card.uuid.clone(),
        backend: card.backend,
        total_bytes: 0,
        free_bytes: 0,
        temperature_c: None,
        utilization_percent: None,
        driver: card.driver,
        lost: true,
        shares_memory: false,
        used_by: BTreeMap::new(),
        knows_users: false,
    }
}

fn devices(number: u16, card: Card, cpu: &Cpu, users: &Users, others: bool) -> Vec<Gpu> {
    let whole = Gpu {
        lost: false,
        temperature_c: card.temperature_c,
        utilization_percent: card.utilization_percent,
        ..unknown(number, &card)
    };
    if let Some(instances) = card.instances {
        let instances = instances.into_iter().map(|part| {
            let (used_by, knows_users) = users.of(part.users.as_deref(), part.memory, others);
            Gpu {
                device: Device::Mig { gpu: number, instance: part.id },
                name: part.name.unwrap_or_else(|| whole.name.clone()),
                uuid: part.uuid,
                total_bytes: part.memory.total,
                free_bytes: part.memory.free,
                used_by,
                knows_users,
                ..whole.clone()
            }
        });
        return instances.collect();
    }
    // Without a memory of its own it has what the processor has.
    let shares_memory = card.shares_memory || card.memory.is_none();
    let mut memory = card.memory.unwrap_or(Memory { total: cpu.total_bytes, free: cpu.available_bytes });
    if shares_memory {
        memory.free = memory.free.min(cpu.available_bytes);
    }
    let (used_by, knows_users) = users.of(card.users.as_deref(), memory, others);
    vec![Gpu {
        total_bytes: memory.total,
        free_bytes: memory.free,
        shares_memory,
        used_by,
        knows_users,
        ..whole
    }]
}

impl Users {
    /// Whether the process ids that drivers tell are those that are seen from here.
    fn knows_namespace(&self, cards: &[Card]) -> bool {
        let parts = cards.iter().flat_map(|card| card.instances.iter().flatten().map(|part| &part.users));
        let told = cards.iter().map(|card| &card.users).chain(parts);
        let told: Vec<u32> = told.flatten().flatten().map(|user| user.pid).collect();
        told.iter().any(|pid| self.workers.contains_key(pid))
            || told.iter().all(|pid| self.seen.contains(pid))
    }

    /// What workers hold of one memory, and whether that is all they hold.
    fn of(&self, told: Option<&[User]>, memory: Memory, others: bool) -> (BTreeMap<Pgid, u64>, bool) {
        let Some(told) = told else { return (BTreeMap::new(), self.workers.is_empty()) };
        let mut used_by = BTreeMap::new();
        let (mut knows, mut explained) = (true, 0_u64);
        for user in told {
            explained = explained.saturating_add(user.bytes.unwrap_or(0));
            if let Some(pgid) = self.workers.get(&user.pid) {
                knows &= user.bytes.is_some();
                let used: &mut u64 = used_by.entry(*pgid).or_default();
                *used = used.saturating_add(user.bytes.unwrap_or(0));
            }
        }
        // Memory is in use, and nobody is named who uses it.
        let unexplained = memory.total.saturating_sub(memory.free).saturating_sub(explained);
        let hidden = others || (used_by.is_empty() && unexplained > limits::GPU_UNEXPLAINED_BYTES);
        (used_by, knows && (self.workers.is_empty() || !hidden))
    }
}
