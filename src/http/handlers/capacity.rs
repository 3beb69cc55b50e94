//! `GET /v1/capacity`, and what spawn says where nothing fits.

use std::cmp::Reverse;
use std::time::Instant;

use crate::api::{
    self, AVAILABLE_HEADER as AVAILABLE, CapacityAnswer, DEVICE_HEADER as DEVICE,
    REQUIRED_HEADER as REQUIRED, Suggestion,
};
use crate::capacity::estimate::Breakdown;
use crate::capacity::ledger::{Choice, Need, Refused, names};
use crate::http::{Answer, ApiError, Body, Code};
use crate::id::Device;
use crate::limits::SUGGESTED_MODELS_MAX;
use crate::models::cache;
use crate::models::reference::{ModelRef, Pick};

use super::arguments::Arguments;
use super::locate::{Halt, Located};
use super::weigh::{Weighed, estimated, offered, weigh};
use super::wish::Wish;
use super::{Api, no_answer};

/// 204 if a worker as asked for would be admitted now.
pub(super) fn capacity(api: &Api, arguments: &Arguments, online: Option<Instant>) -> Result<Answer, Halt> {
    api.check_takes_spawns()?;
    let wish = Wish::read(arguments, "model")?;
    let weighed = weigh(api, &wish, online)?;
    let placed = api
        .inbox
        .place(weighed.choices.clone(), wish.make_room)
        .map_err(no_answer)?
        .map_err(|refused| refusal(api, &wish, &weighed, refused))?;
    let devices: Vec<Device> = placed.placement.shares.iter().map(|share| share.device).collect();
    let room = api.inbox.available().map_err(no_answer)?;
    let available = room.iter().filter(|(device, _)| devices.contains(device)).map(|(_, bytes)| bytes);
    Ok(Answer { status: 204, headers: Vec::new(), body: Body::Owned(Vec::new()) }
        .with_header(REQUIRED, placed.placement.device_bytes().to_string())
        .with_header(AVAILABLE, available.sum::<u64>().to_string())
        .with_header(DEVICE, names(devices)))
}

/// A suggestion that takes `need`; what differs is to be filled in.
fn suggestion(need: Need) -> Suggestion {
    Suggestion { device: None, ctx: None, model: None, make_room: None, required_bytes: need.bytes }
}

/// 409 with what is required, what is available and what would make it fit.
pub(super) fn refusal(api: &Api, wish: &Wish, weighed: &Weighed, refused: Refused) -> ApiError {
    let (choice, available) = match refused {
        Refused::NoRoom { choice, available_bytes, host_bytes: None } => (choice, available_bytes),
        Refused::NoRoom { choice: _, available_bytes, host_bytes: Some(needed) } => {
            return short_of_host(needed, available_bytes);
        }
        Refused::NoDevice(_) => {
            return ApiError::new(Code::DeviceNotFound, "the device has just gone");
        }
    };
    let on_cpu = choice.devices.contains(&Device::Cpu);
    let device = names(choice.devices.iter().copied());
    let suggestions = suggestions(api, wish, weighed, &choice, available);
    let mut message = format!("this takes {} and {device} has {}", gib(choice.need.bytes), gib(available));
    let advice: Vec<String> = suggestions.iter().map(advice).collect();
    let mut weights_bytes_max = None;
    if !advice.is_empty() {
        message.push_str("; it would fit ");
        message.push_str(&advice.join(", or "));
    } else if let Some(Breakdown { weights, .. }) = choice.need.breakdown {
        let most = available.saturating_sub(choice.need.bytes - weights);
        weights_bytes_max = Some(most);
        message.push_str(&if most == 0 {
            "; no quantisation of it fits there".to_owned()
        } else {
            let (weights, most) = (gib(weights), gib(most));
            format!(
                "; its weights take {weights}: a quantisation of at most {most} would fit with this context"
            )
        });
    }
    let answer = CapacityAnswer {
        device,
        required_bytes: choice.need.bytes,
        available_bytes: available,
        breakdown: choice.need.breakdown.map(breakdown),
        suggestions,
        weights_bytes_max,
    };
    let code = if on_cpu { Code::InsufficientRam } else { Code::InsufficientVram };
    ApiError::new(code, message)
        .with_details(serde_json::to_value(answer).expect("wire types are valid JSON"))
        .with_header(REQUIRED, choice.need.bytes.to_string())
        .with_header(AVAILABLE, available.to_string())
}

/// 409 for a worker that fits on its GPUs, and is told to keep more beside them than the cpu has.
fn short_of_host(required: u64, available: u64) -> ApiError {
    let message = format!(
        "it is told to keep {} in host memory (--cache-ram, --ctx-checkpoints) and cpu has {}",
        gib(required),
        gib(available)
    );
    let answer = CapacityAnswer {
        device: Device::Cpu.to_string(),
        required_bytes: required,
        available_bytes: available,
        breakdown: None,
        suggestions: Vec::new(),
        weights_bytes_max: None,
    };
    ApiError::new(Code::InsufficientRam, message)
        .with_details(serde_json::to_value(answer).expect("wire types are valid JSON"))
        .with_header(REQUIRED, required.to_string())
        .with_header(AVAILABLE, available.to_string())
}

fn breakdown(Breakdown { weights, kv_cache, compute, constant }: Breakdown) -> api::Breakdown {
    api::Breakdown { weights, kv_cache, compute, constant }
}

fn advice(suggestion: &Suggestion) -> String {
    match suggestion {
        Suggestion { device: Some(device), .. } => format!("on {device}"),
        Suggestion { ctx: Some(ctx), .. } => format!("with a context of {ctx}"),
        Suggestion { model: Some(model), required_bytes, .. } => {
            format!("as {model} ({})", gib(*required_bytes))
        }
        _ => "if idle workers were stopped (make_room)".to_owned(),
    }
}

fn suggestions(
    api: &Api,
    wish: &Wish,
    weighed: &Weighed,
    refused: &Choice,
    available: u64,
) -> Vec<Suggestion> {
    let mut found = Vec::new();
    let fits = |choice: &Choice, make_room: bool| {
        matches!(api.inbox.place(vec![choice.clone()], make_room), Ok(Ok(_)))
    };
    if !wish.make_room && fits(refused, true) {
        found.push(Suggestion { make_room: Some(true), ..suggestion(refused.need) });
    }
    for choice in elsewhere(api, wish, weighed, refused) {
        if fits(&choice, false) {
            let device = Some(names(choice.devices.iter().copied()));
            found.push(Suggestion { device, ..suggestion(choice.need) });
            break;
        }
    }
    let Some(estimated) = &weighed.estimated else { return found };
    let count = refused.devices.len();
    let shorter = estimated.longest_ctx(refused.backend, count, available).filter(|ctx| *ctx < weighed.ctx);
    if let Some(ctx) = shorter {
        let need = estimated.need(ctx, refused.backend, count);
        found.push(Suggestion { ctx: Some(ctx), ..suggestion(need) });
    }
    if let Some((model, need)) = smaller(api, wish, weighed, refused, available) {
        found.push(Suggestion { model: Some(model), ..suggestion(need) });
    }
    found
}

/// The same on other devices: alone, then on all GPUs of a maker together, then on the cpu.
fn elsewhere(api: &Api, wish: &Wish, weighed: &Weighed, refused: &Choice) -> Vec<Choice> {
    let picture = api.devices.look();
    let (offered, lone) = (offered(api, &picture), picture.gpus.len() == 1);
    let mut sets: Vec<Vec<Device>> = offered.iter().map(|(device, _)| vec![*device]).collect();
    let maker = offered.iter().find(|(device, _)| refused.devices.contains(device)).map(|(_, maker)| *maker);
    let all: Vec<Device> = offered
        .iter()
        .filter(|(device, own)| matches!(device, Device::Gpu(_)) && Some(*own) == maker)
        .map(|(device, _)| *device)
        .collect();
    if all.len() > 1 {
        sets.push(all);
    }
    sets.sort_by_key(|devices| devices.contains(&Device::Cpu)); // the last resort
    sets.retain(|devices| *devices != refused.devices);
    let on = |devices: Vec<Device>| {
        let wish = Wish { devices: Some(devices), backend: None, ..wish.clone() };
        let places = super::weigh::places(&wish, &weighed.kind, &offered, lone).ok()?;
        let (backend, devices) = places.into_iter().next()?;
        let need = match &weighed.estimated {
            Some(estimated) => estimated.need(weighed.ctx, backend, devices.len()),
            None => refused.need,
        };
        Some(Choice { backend, devices, need, split: weighed.kind.split() })
    };
    sets.into_iter().filter_map(on).collect()
}

/// The largest other quantisation of the same repository, of those that are here, that fits.
fn smaller(
    api: &Api,
    wish: &Wish,
    weighed: &Weighed,
    refused: &Choice,
    available: u64,
) -> Option<(String, Need)> {
    let ModelRef::Hub(hub) = &wish.model_ref else { return None };
    let all = cache::quants(&api.model_dir, hub).into_iter().take(SUGGESTED_MODELS_MAX);
    let mut fitting: Vec<(String, Need)> = all
        .filter_map(|quant| {
            let reference = hub.with_pick(Pick::Quant(quant));
            let found = cache::find(&api.model_dir, &ModelRef::Hub(reference.clone())).ok()?;
            let other = estimated(api, wish, &weighed.kind, &Located::Here(found)).ok()?;
            let need = other.need(weighed.ctx, refused.backend, refused.devices.len());
            (need.bytes <= available).then(|| (reference.to_string(), need))
        })
        .collect();
    fitting.sort_by_key(|(_, need)| Reverse(need.bytes));
    fitting.into_iter().next()
}

/// GiB with one digit, rounded so that "takes" and "has" of a refusal never look alike for want of digits.
fn gib(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib < 1024 { format!("{mib} MiB") } else { format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)) }
}
