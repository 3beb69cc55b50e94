//! From a wish to the places where it may go and what it takes there: one truth for spawn and capacity.

use std::sync::Arc;
use std::time::Instant;

use log::error;
use serde_json::json;

use crate::capacity::estimate::{self, Load};
use crate::capacity::ledger::{Choice, Need, names};
use crate::capacity::model::Model;
use crate::devices::Picture;
use crate::http::{ApiError, Code};
use crate::id::{Backend, Device};
use crate::kinds::{Kind, allow, find_program};
use crate::models::cache::Format;

use super::Api;
use super::arguments::wrong;
use super::locate::{Halt, Located, inspect, locate};
use super::wish::Wish;

/// Context tokens if none are asked for, unless the model was trained for fewer.
const CTX_DEFAULT: u32 = 4096;

/// Parts of names of llama-server's variables that load a second model, or put memory where it was not
/// promised: what they take is not estimated.
const UNCOUNTED: [&str; 14] = [
    "DRAFT",
    "MMPROJ",
    "LORA",
    "CONTROL_VECTOR",
    "SPLIT",
    "MAIN_GPU",
    "CPU_MOE",
    "CPU_FFN",
    "MOE_CACHE",
    "OVERRIDE_TENSOR",
    "SPEC_",
    "KV_OFFLOAD",
    "GPU_LAYERS",
    "DEVICE",
];

/// A wish, weighed.
pub(super) struct Weighed {
    pub kind: Arc<Kind>,
    pub model: Located,
    pub ctx: u32,
    /// At least one.
    pub choices: Vec<Choice>,
    /// What the estimate was made of; `None` if the memory was given.
    pub estimated: Option<Estimated>,
}

/// What an estimate is made of.
pub(super) struct Estimated {
    pub model: Arc<Model>,
    pub load: Load,
}

/// Finds kind, devices and model of `wish`, in this order, and what it takes on each of them.
///
/// # Errors
/// 404 for a kind, device or model that is not there; 400 for what does not go together; 409 for a kind
/// without its program; 422 for a file that is no model, unless the memory is given.
pub(super) fn weigh(api: &Api, wish: &Wish, online: Option<Instant>) -> Result<Weighed, Halt> {
    let named = wish.kind.as_deref().map(|name| named_kind(api, name)).transpose()?;
    if let Some(kind) = &named {
        allowed(wish, kind)?;
    }
    let picture = api.devices.look();
    let offered = offered(api, &picture);
    let lone = picture.gpus.len() == 1;
    if let Some(devices) = &wish.devices
        && !devices.iter().all(|device| offered.iter().any(|(there, _)| there == device))
    {
        return Err(no_device(&offered).into());
    }
    let model = locate(api, &wish.model_ref, online)?;
    let kind = match named {
        Some(kind) => kind,
        None => kind_for(api, model.format())?,
    };
    allowed(wish, &kind)?;
    let places = places(wish, &kind, &offered, lone)?;
    // Where the memory is given, a file that cannot be read is none of our business.
    let (estimated, trained) = match wish.memory_bytes {
        Some(_) => (None, inspect(api, &model).ok().and_then(|model| model.trained_ctx())),
        None => {
            let estimated = estimated(api, wish, &kind, &model)?;
            let trained = estimated.model.trained_ctx();
            (Some(estimated), trained)
        }
    };
    let ctx = wish.ctx.unwrap_or_else(|| trained.map_or(CTX_DEFAULT, |trained| trained.min(CTX_DEFAULT)));
    let choices = places
        .into_iter()
        .map(|(backend, devices)| {
            let need = match (&estimated, wish.memory_bytes) {
                (Some(estimated), _) => estimated.need(ctx, backend, devices.len()),
                (None, bytes) => Need { bytes: bytes.unwrap_or_default(), host_bytes: 0, breakdown: None },
            };
            Choice { backend, devices, need, split: kind.split() }
        })
        .collect();
    Ok(Weighed { kind, model, ctx, choices, estimated })
}

impl Estimated {
    /// What it takes with a context of `ctx` on so many devices.
    pub fn need(&self, ctx: u32, backend: Backend, devices: usize) -> Need {
        let load = Load { ctx, ..self.load.clone() };
        let breakdown = estimate::estimate(&self.model, &load, backend, device_count(devices));
        let host_bytes = estimate::host_bytes(&self.model, &load, backend);
        Need { bytes: breakdown.total(), host_bytes, breakdown: Some(breakdown) }
    }

    /// The longest context that fits into so many bytes.
    pub fn longest_ctx(&self, backend: Backend, devices: usize, bytes: u64) -> Option<u32> {
        estimate::max_ctx(&self.model, &self.load, backend, device_count(devices), bytes)
    }
}

/// Checks what the wish adds to the kind.
fn allowed(wish: &Wish, kind: &Kind) -> Result<(), ApiError> {
    let refused = |refused: allow::Refused| ApiError::argument(refused.field, refused.message);
    allow::env(kind, &wish.env).map_err(refused)?;
    allow::extra_args(kind, &wish.extra_args).map_err(refused)?;
    let uncounted = wish.env.keys().find(|name| UNCOUNTED.iter().any(|part| name.contains(part)));
    match uncounted.filter(|name| name.starts_with("LLAMA_ARG_") && wish.memory_bytes.is_none()) {
        Some(_) => Err(wrong(
            "env",
            "without variables that load more or place it elsewhere, unless memory_bytes is given",
        )),
        None => Ok(()),
    }
}

fn device_count(devices: usize) -> u32 {
    u32::try_from(devices).unwrap_or(u32::MAX)
}

/// How the engine will run the model, by the kind's own arguments and those of the wish.
pub(super) fn estimated(
    api: &Api,
    wish: &Wish,
    kind: &Kind,
    located: &Located,
) -> Result<Estimated, ApiError> {
    let model = inspect(api, located)?;
    let ctx = wish.ctx.unwrap_or(CTX_DEFAULT);
    let own: Vec<String> = kind.args.iter().map(|arg| arg.known(ctx, wish.parallel)).collect();
    let args = own.iter().chain(&wish.extra_args).map(String::as_str);
    let kinds: Vec<(&str, String)> =
        kind.env.iter().map(|(name, value)| (name.as_str(), value.known(ctx, wish.parallel))).collect();
    // The kind's own environment goes before the spawn's, and options before both.
    let env = wish.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let env = env.chain(kinds.iter().map(|(name, value)| (*name, value.as_str())));
    let load = Load::new(ctx, wish.parallel).with_env(env).with_args(args);
    Ok(Estimated { model, load })
}

/// The devices that are offered, each with the backend of its driver.
pub(super) fn offered(api: &Api, picture: &Picture) -> Vec<(Device, Backend)> {
    let gpus = picture.gpus.iter().map(|gpu| (gpu.device, gpu.backend));
    std::iter::once((Device::Cpu, Backend::Cpu))
        .chain(gpus)
        .filter(|(device, _)| !api.rules.hides(*device))
        .collect()
}

/// Where the wish may go: the devices that it names, or each that the kind can use. `lone`: the machine has one GPU.
pub(super) fn places(
    wish: &Wish,
    kind: &Kind,
    offered: &[(Device, Backend)],
    lone: bool,
) -> Result<Vec<(Backend, Vec<Device>)>, ApiError> {
    let native =
        |device: &Device| offered.iter().find(|(there, _)| there == device).map(|(_, native)| *native);
    let Some(devices) = &wish.devices else {
        let able = |native: Backend| wish.backend.is_none_or(|backend| computes(backend, native, lone));
        let able: Vec<_> = offered.iter().filter(|(_, native)| able(*native)).collect();
        if able.is_empty() {
            return Err(no_device(offered));
        }
        let on = |(device, native): &&(Device, Backend)| {
            Some((backend_on(*native, wish.backend, kind, lone)?, vec![*device]))
        };
        let each: Vec<_> = able.iter().filter_map(on).collect();
        return if each.is_empty() { Err(wrong_kind(kind)) } else { Ok(each) };
    };
    let natives: Vec<Backend> = devices.iter().filter_map(native).collect();
    let backend = natives[0];
    if natives.iter().any(|native| *native != backend) {
        return Err(wrong("device", "GPUs of one maker"));
    }
    if let Some(asked) = wish.backend
        && !computes(asked, backend, lone)
    {
        let right = if backend == Backend::Cpu { "cpu on the device cpu" } else { "one of the device's own" };
        return Err(wrong("backend", right));
    }
    let backend = backend_on(backend, wish.backend, kind, lone).ok_or_else(|| wrong_kind(kind))?;
    Ok(vec![(backend, devices.clone())])
}

/// Whether `backend` computes on a device whose own one is `native`. Vulkan numbers GPUs in its own way, and
/// nothing that the drivers tell names one to it: a worker stays on its GPU where that is the only one.
fn computes(backend: Backend, native: Backend, lone: bool) -> bool {
    backend == native || (backend == Backend::Vulkan && native != Backend::Cpu && lone)
}

/// What `kind` computes with on a device whose own backend is `native`.
fn backend_on(native: Backend, asked: Option<Backend>, kind: &Kind, lone: bool) -> Option<Backend> {
    let general = Some(Backend::Vulkan).filter(|vulkan| computes(*vulkan, native, lone));
    let mut able = asked.map_or_else(|| vec![native], |asked| vec![asked]);
    able.extend(general.filter(|_| asked.is_none()));
    able.into_iter().find(|backend| kind.backends.contains(backend))
}

fn wrong_kind(kind: &Kind) -> ApiError {
    let runs_on: Vec<&str> = kind.backends.iter().map(|backend| backend.as_str()).collect();
    wrong("kind", &format!("one for this device's backend; this one takes {}", runs_on.join(", ")))
}

fn no_device(offered: &[(Device, Backend)]) -> ApiError {
    let has = names(offered.iter().map(|(device, _)| *device)).replace(',', ", ");
    let devices: Vec<Device> = offered.iter().map(|(device, _)| *device).collect();
    ApiError::new(Code::DeviceNotFound, format!("this hive does not have that device; it has {has}"))
        .with_details(json!({ "devices": devices }))
}

fn named_kind(api: &Api, name: &str) -> Result<Arc<Kind>, ApiError> {
    let kinds = api.kinds.get();
    let kind = kinds.get(name).ok_or_else(|| {
        let known: Vec<&str> = kinds.iter().map(|entry| entry.kind.name.as_str()).collect();
        ApiError::new(Code::KindNotFound, format!("there is no such kind; there are {}", known.join(", ")))
    })?;
    if find_program(kind).is_none() {
        return Err(not_installed(&kind.name));
    }
    sound(api, kind)
}

/// A GGUF takes llama-server, safetensors vllm, else the only kind whose program is there.
fn kind_for(api: &Api, format: Format) -> Result<Arc<Kind>, ApiError> {
    let usual = match format {
        Format::Gguf => "llama-server",
        Format::Safetensors => "vllm",
    };
    let kinds = api.kinds.get();
    if let Some(kind) = kinds.get(usual).filter(|kind| find_program(kind).is_some()) {
        return sound(api, kind);
    }
    let mut there = kinds.iter().filter(|entry| find_program(&entry.kind).is_some());
    match (there.next(), there.next()) {
        (Some(only), None) => sound(api, &only.kind),
        _ => Err(not_installed(usual)),
    }
}

/// The kind, if its program is what was installed, where the hive did that.
fn sound(api: &Api, kind: &Arc<Kind>) -> Result<Arc<Kind>, ApiError> {
    let Some(Err(damaged)) = kind.install.as_ref().map(|install| install.glance(&api.hub_cut)) else {
        return Ok(Arc::clone(kind));
    };
    error!("an installed kind is damaged kind={} file={damaged:?}", kind.name);
    let message = format!("what is installed of the kind {} is damaged; provision it again", kind.name);
    Err(ApiError::new(Code::KindNotInstalled, message).with_details(json!({ "kind": kind.name })))
}

fn not_installed(kind: &str) -> ApiError {
    let message = format!(
        "the program of the kind {kind} is not on this machine; provision it, install it or name it by --worker"
    );
    ApiError::new(Code::KindNotInstalled, message).with_details(json!({ "kind": kind }))
}
