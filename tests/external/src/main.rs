//! Devices, capacity, spawn, ready, stop: what a queen does, with the client library alone.
//! `external URL MODEL`

use std::time::Duration;

use rbee_hive::api::SpawnRequest;
use rbee_hive::client::{CapacityQuery, HiveClient};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [url, model] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "URL MODEL")?;
    let hive = HiveClient::new(&url)?.with_timeout(Duration::from_secs(30));
    let devices = hive.devices()?;
    println!("devices: {} cores, {} GPUs", devices.cpu.cores, devices.gpus.len());
    let capacity = hive.capacity(&CapacityQuery::new(&model))?;
    println!("capacity: {} bytes on {}", capacity.answer.required_bytes, capacity.answer.device);
    if !capacity.fits {
        return Err(capacity.message.unwrap_or_default().into());
    }
    let spawned = hive.spawn(&SpawnRequest { ctx: Some(512), ..SpawnRequest::new(&model) })?;
    println!("spawned: {}", spawned.worker_id);
    let worker = hive.wait_ready(&spawned.worker_id, Duration::from_secs(60))?;
    println!("ready: {}", worker.url);
    hive.stop(&worker.worker_id, false)?;
    let last = hive.wait_gone(&worker.worker_id, Duration::from_secs(60))?;
    println!("stopped: {}", last.exit.ok_or("it has no exit")?.reason);
    Ok(())
}
