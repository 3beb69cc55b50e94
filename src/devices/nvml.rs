//! NVIDIA's library.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::Driver;
use super::probe::{Card, Failed, Instance, Memory, Probe, User};
use crate::id::Backend;
use crate::{limits, sys};

/// Asks the library, which stays open between two looks.
pub(super) struct NvmlProbe {
    library: PathBuf,
    nvml: Option<Nvml>,
}

impl NvmlProbe {
    pub fn new(library: PathBuf) -> Self {
        Self { library, nvml: None }
    }
}

impl Probe for NvmlProbe {
    type Facts = Vec<Card>;

    fn name(&self) -> &'static str {
        "nvml"
    }

    fn look(&mut self) -> Result<Vec<Card>, Failed> {
        let nvml = match self.nvml.take() {
            Some(nvml) => nvml,
            None => Nvml::builder().lib_path(self.library.as_os_str()).init().map_err(|e| failed(&e))?,
        };
        let cards = cards(&nvml)?;
        // The library counts cards when it is opened: one that comes back is found by opening it again.
        self.nvml = Some(nvml).filter(|_| cards.iter().all(|card| !card.lost));
        Ok(cards)
    }
}

fn failed(error: &NvmlError) -> Failed {
    match error {
        NvmlError::LibloadingError(_)
        | NvmlError::LibraryNotFound
        | NvmlError::DriverNotLoaded
        | NvmlError::FailedToLoadSymbol(_) => Failed::absent(error),
        _ => Failed::broken(error),
    }
}

fn cards(nvml: &Nvml) -> Result<Vec<Card>, Failed> {
    let count = nvml.device_count().map_err(|e| failed(&e))?;
    let mut cards = Vec::new();
    for index in 0..count.min(limits::GPUS_MAX as u32) {
        // A lost card may have neither a handle nor a place any more: who knew it misses it.
        let Ok(device) = nvml.device_by_index(index) else { continue };
        let Ok(pci) = device.pci_info() else { continue };
        let Ok(bus) = pci.bus_id.parse() else { continue };
        let card = card(
            nvml,
            &device,
            Card {
                bus,
                uuid: device.uuid().ok(),
                name: device.name().ok(),
                backend: Backend::Cuda,
                driver: Driver::Nvml,
                memory: None,
                shares_memory: false,
                temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
                utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
                lost: false,
                users: None,
                instances: None,
            },
        )?;
        cards.push(card);
    }
    Ok(cards)
}

/// Who uses it is read before what is free.
fn card(nvml: &Nvml, device: &Device<'_>, card: Card) -> Result<Card, Failed> {
    // Not supported, or unknown to an older library: no MIG.
    let partitioned = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let users = users(device);
    let memory = match device.memory_info() {
        Ok(memory) => Some(Memory { total: memory.total, free: memory.free }),
        // Its memory is the processor's.
        Err(NvmlError::NotSupported) => None,
        // An old driver does not know the function: its command does.
        Err(e @ NvmlError::FailedToLoadSymbol(_)) => return Err(failed(&e)),
        Err(_) => return Ok(Card { lost: true, ..card }),
    };
    let instances = if partitioned { Some(instances(nvml, device)) } else { None };
    Ok(Card { users, memory, shares_memory: memory.is_none(), instances, ..card })
}

/// The GPU instances of a card in MIG mode. One that is divided further is named once, by its first part:
/// all of these share its memory.
fn instances(nvml: &Nvml, device: &Device<'_>) -> Vec<Instance> {
    let count = device.mig_device_count().unwrap_or(0).min(limits::GPUS_MAX as u32);
    let mut instances = BTreeMap::new();
    for index in 0..count {
        // There are gaps where there could be more instances.
        let Ok(part) = device.mig_device_by_index(index) else { continue };
        let Some(id) = sys::mig_instance_id(nvml, &part).and_then(|id| u16::try_from(id).ok()) else {
            continue;
        };
        let users = users(&part);
        let Ok(memory) = part.memory_info() else { continue };
        instances.entry(id).or_insert_with(|| Instance {
            id,
            uuid: part.uuid().ok(),
            name: part.name().ok(),
            memory: Memory { total: memory.total, free: memory.free },
            users,
        });
    }
    instances.into_values().collect()
}

/// Processes that compute or draw; one that does both holds its memory once.
fn users(device: &Device<'_>) -> Option<Vec<User>> {
    let (computing, drawing) = (device.running_compute_processes(), device.running_graphics_processes());
    let computing = computing.ok()?;
    let mut users: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for process in computing.iter().chain(drawing.iter().flatten()) {
        let bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known = users.entry(process.pid).or_insert(bytes);
        *known = (*known).max(bytes);
    }
    let users = users.into_iter().map(|(pid, bytes)| User { pid, bytes });
    Some(users.take(limits::GPU_USERS_MAX).collect())
}
