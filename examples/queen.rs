//! A small queen: places each model on the hive where it fits best, waits until all serve, and says where.
//! `cargo run --example queen -- http://hive-1:8600,http://hive-2:8600,http://hive-3:8600 hf:org/one hf:org/two`

use std::cmp::Reverse;
use std::error::Error;
use std::time::Duration;

use rbee_hive::api::SpawnRequest;
use rbee_hive::client::{CapacityQuery, ClientError, HiveClient};
use rbee_hive::id::{Token, WorkerId};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let urls = args.next().ok_or("usage: queen URL,URL… MODEL…")?;
    let token = std::env::var("RBEE_HIVE_TOKEN").ok().and_then(|text| Token::parse(&text));
    let mut hives = Vec::new();
    for url in urls.split(',') {
        let hive = HiveClient::new(url)?;
        hives.push(if let Some(token) = &token { hive.with_token(token.clone()) } else { hive });
    }
    let mut spawned = Vec::new();
    for model in args {
        let (hive, id) = place(&hives, &model)?;
        spawned.push((hive, id, model));
    }
    for (hive, id, model) in spawned {
        let worker = hive.wait_ready(&id, Duration::from_secs(600))?;
        println!("{model} on {} of {}: {}", worker.device, hive.url(), worker.url);
    }
    Ok(())
}

/// Spawns `model` where most memory is left after it. Somebody else may take that meanwhile: then where it fits next
/// best.
fn place<'a>(hives: &'a [HiveClient], model: &str) -> Result<(&'a HiveClient, WorkerId), Box<dyn Error>> {
    let mut offers = Vec::new();
    for hive in hives {
        match hive.capacity(&CapacityQuery::new(model)) {
            Ok(capacity) if capacity.fits => {
                let spare = capacity.answer.available_bytes.saturating_sub(capacity.answer.required_bytes);
                offers.push((Reverse(spare), capacity.answer.device, hive));
            }
            Ok(capacity) => eprintln!("{}: {}", hive.url(), capacity.message.unwrap_or_default()),
            Err(error) => eprintln!("{}: {error}", hive.url()),
        }
    }
    offers.sort_by_key(|(spare, ..)| *spare);
    for (_, device, hive) in offers {
        match hive.spawn(&SpawnRequest { device: Some(device), ..SpawnRequest::new(model) }) {
            Ok(spawned) => return Ok((hive, spawned.worker_id)),
            // There may be one, and there must not be two.
            Err(error @ ClientError::Unknown { .. }) => return Err(error.into()),
            Err(error) => eprintln!("{}: {error}", hive.url()),
        }
    }
    Err(format!("{model}: no hive takes it").into())
}
