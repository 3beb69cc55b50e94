//! AMD's cards, by the kernel's files.
//!
//! Formats: the kernel's `gpu/amdgpu/driver-misc` (memory, product, `gpu_metrics`), `hwmon/sysfs-interface`,
//! What says who uses how much (`/proc/PID/fdinfo`) is not read: that call waits for the driver's locks, and a card that
//! is being reset would keep whoever asks.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Driver;
use super::probe::{Bus, Card, Failed, Memory, Probe, read, read_number};
use crate::id::Backend;
use crate::limits;

/// Reads `class/drm`.
#[derive(Debug)]
pub(super) struct SysfsProbe {
    sysfs: PathBuf,
}

impl SysfsProbe {
    pub fn new(sysfs: PathBuf) -> Self {
        Self { sysfs }
    }

    fn card(&self, device: &Path) -> Option<Card> {
        if read(&device.join("vendor")).ok()? != "0x1002" {
            return None;
        }
        let uevent = read(&device.join("uevent")).ok()?;
        let bus: Bus = uevent.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME="))?.parse().ok()?;
        // Another driver's card has no such file: nothing can compute on it.
        if !device.join("mem_info_vram_total").exists() {
            return None;
        }
        let own = memory(device, "vram");
        // The firmware sets a little aside for a processor's own GPU; the rest it takes where it is free.
        let shares_memory = is_part_of_processor(device);
        let borrowed =
            memory(device, "gtt").filter(|_| shares_memory).unwrap_or(Memory { total: 0, free: 0 });
        let memory = own.map(|own| Memory {
            total: own.total.saturating_add(borrowed.total),
            free: own.free.saturating_add(borrowed.free),
        });
        let uuid = read(&device.join("unique_id")).ok().filter(|id| !id.is_empty());
        Some(Card {
            bus,
            // As ROCR_VISIBLE_DEVICES takes it.
            uuid: uuid.map(|id| format!("GPU-{}", id.trim_start_matches("0x"))),
            name: self.name(device),
            backend: Backend::Rocm,
            driver: Driver::Sysfs,
            memory,
            shares_memory,
            temperature_c: temperature(device),
            utilization_percent: small(&device.join("gpu_busy_percent")),
            lost: memory.is_none(),
            users: None,
            instances: None,
        })
    }

    /// The product's name: of the board itself, else from libdrm's list.
    fn name(&self, device: &Path) -> Option<String> {
        let own = read(&device.join("product_name")).ok().filter(|name| !name.is_empty());
        own.or_else(|| {
            let id =
                |name: &str| u32::from_str_radix(read(&device.join(name)).ok()?.strip_prefix("0x")?, 16).ok();
            let ids = (id("device")?, id("revision")?);
            let list = read(&self.sysfs.parent()?.join("usr/share/libdrm/amdgpu.ids")).unwrap_or_default();
            let named = list.lines().find_map(|line| {
                let mut fields = line.splitn(3, ',').map(str::trim);
                let mut id = || u32::from_str_radix(fields.next()?, 16).ok();
                (ids == (id()?, id()?)).then(|| fields.next()).flatten().map(str::to_owned)
            });
            Some(named.unwrap_or_else(|| format!("AMD GPU {:04x}", ids.0)))
        })
    }
}

impl Probe for SysfsProbe {
    type Facts = Vec<Card>;

    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn look(&mut self) -> Result<Vec<Card>, Failed> {
        let entries = fs::read_dir(self.sysfs.join("class/drm")).map_err(Failed::absent)?;
        let is_card = |name: &str| {
            // Not `card0-DP-1`, a connector.
            name.strip_prefix("card").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let cards: Vec<Card> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_card))
            .filter_map(|entry| self.card(&entry.path().join("device")))
            .take(limits::GPUS_MAX)
            .collect();
        if cards.is_empty() { Err(Failed::absent("no card of AMD")) } else { Ok(cards) }
    }
}

fn memory(device: &Path, kind: &str) -> Option<Memory> {
    let bytes = |what: &str| read_number(&device.join(format!("mem_info_{kind}_{what}")));
    let (used, total) = (bytes("used")?, bytes("total")?);
    Some(Memory { total, free: total.saturating_sub(used) })
}

fn small(path: &Path) -> Option<u32> {
    read_number(path)?.try_into().ok()
}

/// Whether it is a part of the processor. Its table of metrics has the format of one: revision 1 is for
/// cards, later ones are for processors.
fn is_part_of_processor(device: &Path) -> bool {
    let mut header = [0; 4];
    let read = File::open(device.join("gpu_metrics")).and_then(|mut table| table.read_exact(&mut header));
    read.is_ok() && header[2] >= 2
}

fn temperature(device: &Path) -> Option<u32> {
    let sensors = fs::read_dir(device.join("hwmon")).ok()?;
    sensors.flatten().find_map(|sensor| Some(small(&sensor.path().join("temp1_input"))? / 1000))
}
