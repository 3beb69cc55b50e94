//! `POST /v1/workers/spawn`: state, arguments, kind, device, model, in this order; then the supervisor.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{HiveStatus, SpawnResponse};
use crate::http::{Answer, ApiError, Code, Request};
use crate::id::{Backend, Device};
use crate::kinds::manifest::is_kind_name;
use crate::kinds::{Kind, allow, find_program};
use crate::lifecycle::event::Plan;
use crate::lifecycle::fleet::AdmitError;
use crate::limits::{CTX_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PARALLEL_MAX};
use crate::models::cache::{self, FindError, Format};
use crate::models::reference::ModelRef;

use super::arguments::{Arguments, wrong};
use super::{Api, no_answer, shutting_down};

/// Context tokens if none are asked for.
const CTX_DEFAULT: u32 = 4096;

pub(super) fn spawn(api: &Api, request: &Request) -> Result<Answer, ApiError> {
    if api.picture.snapshot().status != HiveStatus::Ready {
        return Err(shutting_down());
    }
    let key = idempotency_key(request)?;
    let plan = plan(api, &Arguments::parse(&request.body)?)?;
    let admitted = api.inbox.spawn(plan, key).map_err(no_answer)?.map_err(refusal)?;
    let view = admitted.view;
    let url = api.picture.worker_url(view.port);
    let location = format!("/v1/workers/{}", view.id);
    let body = SpawnResponse { worker_id: view.id, url, state: view.state };
    Ok(Answer::json(202, &body).with_header("Location", location))
}

fn idempotency_key(request: &Request) -> Result<Option<String>, ApiError> {
    let given = request.head.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Idempotency-Key"));
    if !given {
        return Ok(None);
    }
    let good = |key: &&str| {
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    let key = request.head.header("Idempotency-Key").filter(good);
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        wrong(
            "Idempotency-Key",
            &format!("one header of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters"),
        )
    })
}

fn plan(api: &Api, arguments: &Arguments) -> Result<Plan, ApiError> {
    let model_ref: ModelRef = arguments
        .needed_text("model_ref")?
        .parse()
        .map_err(|error| ApiError::argument("model_ref", format!("{error}")))?;
    let backend = backend(arguments)?;
    let device = device(arguments, backend)?;
    let kind_name = kind_name(arguments)?;
    let ctx = arguments.number("ctx", 1..=CTX_MAX)?.unwrap_or(CTX_DEFAULT);
    let parallel = arguments.number("parallel", 1..=PARALLEL_MAX)?.unwrap_or(1);
    let (first, last) = (u32::from(*api.worker_ports.start()), u32::from(*api.worker_ports.end()));
    let port_hint = arguments.number("port_hint", first..=last)?.and_then(|port| u16::try_from(port).ok());
    let env = arguments.text_map("env")?.unwrap_or_default();
    let extra_args = arguments.texts("extra_args")?.unwrap_or_default();

    let chosen = kind_name.map(|name| named_kind(api, name)).transpose()?;
    let (device, backend) = place(device, backend)?;
    let found = cache::find(&api.model_dir, &model_ref).map_err(not_found)?;
    let kind = match chosen {
        Some(kind) => kind,
        None => kind_for(api, found.format)?,
    };
    if !kind.backends.contains(&backend) {
        let runs_on: Vec<&str> = kind.backends.iter().map(|backend| backend.as_str()).collect();
        return Err(wrong(
            "kind",
            &format!("one for this device's backend; this one takes {}", runs_on.join(", ")),
        ));
    }
    let refused = |refused: allow::Refused| ApiError::argument(refused.field, refused.message);
    let env = allow::env(&kind, &env).map_err(refused)?;
    let extra_args = allow::extra_args(&kind, &extra_args).map_err(refused)?;
    Ok(Plan {
        kind,
        model_ref: model_ref.to_string(),
        model_path: found.path,
        backend,
        device,
        ctx,
        parallel,
        port_hint,
        env,
        extra_args,
    })
}

fn kind_name(arguments: &Arguments) -> Result<Option<&str>, ApiError> {
    let name = arguments.text("kind")?;
    match name {
        Some(name) if !is_kind_name(name) => Err(wrong("kind", "[a-z0-9][a-z0-9-]{0,63}")),
        _ => Ok(name),
    }
}

fn backend(arguments: &Arguments) -> Result<Option<Backend>, ApiError> {
    let all = [Backend::Cpu, Backend::Cuda, Backend::Rocm, Backend::Vulkan, Backend::Metal];
    arguments.word("backend", &all.map(|backend| (backend.as_str(), backend)))
}

fn device(arguments: &Arguments, backend: Option<Backend>) -> Result<Option<Device>, ApiError> {
    let right = "\"cpu\", \"gpu0\" or a number";
    match arguments.value("device") {
        None => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|()| wrong("device", right)),
        Some(Value::Number(number)) => {
            let number = number.as_u64().and_then(|n| u16::try_from(n).ok());
            let device =
                number.map(|n| if backend == Some(Backend::Cpu) { Device::Cpu } else { Device::Gpu(n) });
            device.map(Some).ok_or_else(|| wrong("device", right))
        }
        Some(_) => Err(wrong("device", right)),
    }
}

/// Where it goes: the only device that this hive knows is the cpu.
fn place(device: Option<Device>, backend: Option<Backend>) -> Result<(Device, Backend), ApiError> {
    let no_device = || {
        ApiError::new(Code::DeviceNotFound, "this hive does not have that device; it has cpu")
            .with_details(json!({ "devices": ["cpu"] }))
    };
    match (device, backend) {
        (Some(Device::Gpu(_)), _) => Err(no_device()),
        (None, Some(backend)) if backend != Backend::Cpu => Err(no_device()),
        (Some(Device::Cpu), Some(backend)) if backend != Backend::Cpu => {
            Err(wrong("backend", "cpu on the device cpu"))
        }
        (_, _) => Ok((Device::Cpu, Backend::Cpu)),
    }
}

fn named_kind(api: &Api, name: &str) -> Result<Arc<Kind>, ApiError> {
    let kind = api.kinds.get(name).ok_or_else(|| {
        let known: Vec<&str> = api.kinds.iter().map(|entry| entry.kind.name.as_str()).collect();
        ApiError::new(Code::KindNotFound, format!("there is no such kind; there are {}", known.join(", ")))
    })?;
    if find_program(kind).is_none() {
        return Err(not_installed(&kind.name));
    }
    Ok(Arc::clone(kind))
}

/// A GGUF takes llama-server, safetensors vllm, else the only kind whose program is there.
fn kind_for(api: &Api, format: Format) -> Result<Arc<Kind>, ApiError> {
    let usual = match format {
        Format::Gguf => "llama-server",
        Format::Safetensors => "vllm",
    };
    if let Some(kind) = api.kinds.get(usual).filter(|kind| find_program(kind).is_some()) {
        return Ok(Arc::clone(kind));
    }
    let mut there = api.kinds.iter().filter(|entry| find_program(&entry.kind).is_some());
    match (there.next(), there.next()) {
        (Some(only), None) => Ok(Arc::clone(&only.kind)),
        _ => Err(not_installed(usual)),
    }
}

fn not_installed(kind: &str) -> ApiError {
    let message =
        format!("the program of the kind {kind} is not on this machine; install it or name it by --worker");
    ApiError::new(Code::KindNotInstalled, message).with_details(json!({ "kind": kind }))
}

fn not_found(error: FindError) -> ApiError {
    match error {
        FindError::Missing(missing) => ApiError::new(Code::ModelNotFound, missing.to_string()),
        FindError::Invalid(fault) => ApiError::new(Code::ModelInvalid, fault.to_string()),
    }
}

fn refusal(error: AdmitError) -> ApiError {
    match error {
        AdmitError::ShuttingDown => shutting_down(),
        AdmitError::TooManyWorkers => {
            ApiError::new(Code::Overloaded, "this hive has as many workers as it can have")
        }
        AdmitError::NoFreePort => ApiError::new(Code::NoFreePort, "no port of --worker-ports is free"),
    }
}
