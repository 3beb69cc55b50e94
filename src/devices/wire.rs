//! The picture as `GET /v1/devices` shows it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use super::{Driver, Gpu, Picture};
use crate::api;
use crate::id::{Backend, Device};

const GIB: u64 = 1 << 30;

/// `picture` on the wire, as seen at `now`; without the devices that are `hidden`. `promised` tells how much of the
/// memory of each was promised.
pub fn wire(
    picture: &Picture,
    hidden: &BTreeSet<Device>,
    promised: impl Fn(Device) -> u64,
    models: usize,
    workers: usize,
    disk: Option<api::Disk>,
    now: Instant,
) -> api::Devices {
    let gpus: Vec<&Gpu> = picture.gpus.iter().filter(|gpu| !hidden.contains(&gpu.device)).collect();
    let backends: BTreeSet<Backend> =
        [Backend::Cpu].into_iter().chain(gpus.iter().map(|gpu| gpu.backend)).collect();
    let age = picture.stale_for(now);
    api::Devices {
        cpu: api::Cpu {
            cores: picture.cpu.cores,
            ram_gb: gib(picture.cpu.total_bytes),
            ram_total_bytes: picture.cpu.total_bytes,
            ram_available_bytes: picture.cpu.available_bytes,
            promised_bytes: promised(Device::Cpu),
        },
        gpus: gpus.into_iter().map(|gpu| one(gpu, promised(gpu.device))).collect(),
        models,
        workers,
        disk,
        backends: backends.into_iter().collect(),
        stale: age.is_some(),
        age_s: age.map(|age| age.as_secs()),
    }
}

fn one(gpu: &Gpu, promised_bytes: u64) -> api::Gpu {
    api::Gpu {
        id: gpu.device.to_string(),
        name: gpu.name.clone(),
        vram_gb: gib(gpu.total_bytes),
        vram_total_bytes: gpu.total_bytes,
        vram_free_bytes: gpu.free_bytes,
        promised_bytes,
        uuid: gpu.uuid.clone(),
        backend: gpu.backend,
        temperature_c: gpu.temperature_c,
        utilization_percent: gpu.utilization_percent,
        driver: gpu.driver.as_str().to_owned(),
        lost: gpu.lost,
        shared_memory: gpu.shares_memory,
    }
}

/// The nearest number of GiB.
fn gib(bytes: u64) -> u64 {
    bytes / GIB + u64::from(bytes % GIB >= GIB / 2)
}

impl Driver {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::NvidiaSmi => "nvidia-smi",
            Self::Sysfs => "sysfs",
        }
    }
}

/// The file system that `dir` is on, or will be on once it is made.
pub fn disk(dir: &Path) -> Option<api::Disk> {
    let stat = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    Some(api::Disk {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::devices::Cpu;

    fn gpu(device: &str) -> Gpu {
        Gpu {
            device: device.parse().unwrap(),
            name: "RTX 3060".into(),
            uuid: Some("GPU-1".into()),
            backend: Backend::Cuda,
            total_bytes: 12 * GIB,
            free_bytes: 11 * GIB,
            temperature_c: Some(41),
            utilization_percent: None,
            driver: Driver::NvidiaSmi,
            lost: false,
            shares_memory: false,
            used_by: BTreeMap::new(),
            knows_users: true,
        }
    }

    fn picture(gpus: Vec<Gpu>) -> Picture {
        let cpu = Cpu { cores: 8, total_bytes: 32 * GIB - 1, available_bytes: 5, used_by: BTreeMap::new() };
        let now = Instant::now();
        Picture { taken_at: now, gpus_taken_at: now, cpu, gpus }
    }

    #[test]
    fn the_picture_has_the_words_of_the_wire() {
        let picture = picture(vec![gpu("gpu0"), gpu("gpu1:3")]);
        let disk = Some(api::Disk { total_bytes: 9, available_bytes: 8 });
        let hidden = BTreeSet::from([Device::Gpu(0)]);
        let promised = |device| if device == Device::Cpu { 3 } else { GIB };
        let devices = wire(&picture, &hidden, promised, 2, 1, disk, picture.taken_at);
        let expected = json!({
            "cpu": {"cores": 8, "ram_gb": 32, "ram_total_bytes": 34_359_738_367_u64, "ram_available_bytes": 5, "promised_bytes": 3},
            "gpus": [{
                "id": "gpu1:3", "name": "RTX 3060", "vram_gb": 12, "vram_total_bytes": 12_884_901_888_u64,
                "vram_free_bytes": 11_811_160_064_u64, "promised_bytes": GIB, "uuid": "GPU-1", "backend": "cuda",
                "temperature_c": 41, "utilization_percent": null, "driver": "nvidia-smi",
            }],
            "models": 2, "workers": 1, "disk": {"total_bytes": 9, "available_bytes": 8},
            "backends": ["cpu", "cuda"],
        });
        assert_eq!(serde_json::to_value(&devices).unwrap(), expected);
        assert_eq!(serde_json::from_value::<api::Devices>(expected).unwrap(), devices);
    }

    #[test]
    fn figures_that_a_driver_left_behind_carry_their_age() {
        let mut picture = picture(vec![Gpu { lost: true, ..gpu("gpu0") }]);
        let seen = picture.taken_at;
        let age = |picture: &Picture, after| {
            let now = seen + Duration::from_secs(after);
            let devices = wire(picture, &BTreeSet::new(), |_| 0, 0, 0, None, now);
            (devices.stale, devices.age_s)
        };
        assert_eq!(age(&picture, 60), (false, None), "nobody asked in between");
        picture.taken_at += Duration::from_secs(1);
        assert_eq!(age(&picture, 1), (false, None));
        assert_eq!(age(&picture, 7), (true, Some(7)));
    }

    #[test]
    fn gib_are_rounded_to_the_nearest() {
        assert_eq!([0, GIB / 2 - 1, GIB / 2, GIB + 1].map(gib), [0, 0, 1, 1]);
        assert_eq!(gib(u64::MAX), 1 << 34);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_on_its_parents_disk() {
        let disk = disk(Path::new("/no/such/folder")).unwrap();
        assert!(disk.total_bytes > 0 && disk.available_bytes <= disk.total_bytes);
    }
}
