//! What a spawn or a question about capacity asks for, read from a body or a query by the same rules.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::http::ApiError;
use crate::id::{Backend, Device};
use crate::kinds::manifest::is_kind_name;
use crate::limits::{CTX_MAX, DEVICES_PER_WORKER_MAX, MEMORY_BYTES_MAX, PARALLEL_MAX};
use crate::models::reference::ModelRef;

use super::arguments::{Arguments, wrong};

/// A worker that somebody wants, or may want.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wish {
    pub model_ref: ModelRef,
    /// `None`: wherever it fits.
    pub devices: Option<Vec<Device>>,
    pub backend: Option<Backend>,
    pub kind: Option<String>,
    /// `None`: the default, or what the model was trained for.
    pub ctx: Option<u32>,
    pub parallel: u32,
    /// In place of the estimate.
    pub memory_bytes: Option<u64>,
    pub make_room: bool,
    pub env: BTreeMap<String, String>,
    pub extra_args: Vec<String>,
}

impl Wish {
    /// Reads it, the reference of the model from the field `model`.
    ///
    /// # Errors
    /// 400 for the first field that is wrong.
    pub fn read(arguments: &Arguments, model: &str) -> Result<Self, ApiError> {
        let model_ref: ModelRef = arguments
            .needed_text(model)?
            .parse()
            .map_err(|error| ApiError::argument(model, format!("{error}")))?;
        let backend = backend(arguments)?;
        Ok(Self {
            model_ref,
            devices: devices(arguments, backend)?,
            backend,
            kind: kind_name(arguments)?,
            ctx: arguments.number("ctx", 1..=CTX_MAX)?,
            parallel: arguments.number("parallel", 1..=PARALLEL_MAX)?.unwrap_or(1),
            memory_bytes: arguments.number("memory_bytes", 1..=MEMORY_BYTES_MAX)?,
            make_room: arguments.flag("make_room")?.unwrap_or(false),
            env: arguments.text_map("env")?.unwrap_or_default(),
            extra_args: arguments.texts("extra_args")?.unwrap_or_default(),
        })
    }
}

fn kind_name(arguments: &Arguments) -> Result<Option<String>, ApiError> {
    let name = arguments.text("kind")?;
    match name {
        Some(name) if !is_kind_name(name) => Err(wrong("kind", "[a-z0-9][a-z0-9-]{0,63}")),
        _ => Ok(name.map(str::to_owned)),
    }
}

fn backend(arguments: &Arguments) -> Result<Option<Backend>, ApiError> {
    let all = [Backend::Cpu, Backend::Cuda, Backend::Rocm, Backend::Vulkan, Backend::Metal];
    arguments.word("backend", &all.map(|backend| (backend.as_str(), backend)))
}

/// A device by name or number, several in a list or joined by commas.
fn devices(arguments: &Arguments, backend: Option<Backend>) -> Result<Option<Vec<Device>>, ApiError> {
    let right = "\"cpu\", \"gpu0\", \"gpu0:1\", a number, or a list of GPUs";
    let one = |value: &Value| -> Option<Vec<Device>> {
        let numbered = |n: u16| if backend == Some(Backend::Cpu) { Device::Cpu } else { Device::Gpu(n) };
        match value {
            Value::String(text) => text
                .split(',')
                .map(|name| match name.parse() {
                    Ok(device) => Some(device),
                    Err(()) if arguments.is_query() => name.parse().ok().map(numbered),
                    Err(()) => None,
                })
                .collect(),
            Value::Number(number) => {
                Some(vec![numbered(number.as_u64().and_then(|n| u16::try_from(n).ok())?)])
            }
            _ => None,
        }
    };
    let Some(value) = arguments.value("device") else { return Ok(None) };
    let devices: Option<Vec<Device>> = match value {
        Value::Array(items) => items
            .iter()
            .map(one)
            .collect::<Option<Vec<_>>>()
            .map(|lists| lists.into_iter().flatten().collect()),
        single => one(single),
    };
    let devices = devices.filter(|devices| !devices.is_empty()).ok_or_else(|| wrong("device", right))?;
    let mut once = devices.clone();
    once.sort();
    once.dedup();
    if devices.len() > DEVICES_PER_WORKER_MAX || once.len() < devices.len() {
        let right = format!("at most {DEVICES_PER_WORKER_MAX} devices, each named once");
        return Err(wrong("device", &right));
    }
    if devices.len() > 1 && devices.contains(&Device::Cpu) {
        return Err(wrong("device", "the cpu alone, or GPUs"));
    }
    // A process sees one MIG instance, however many it may see.
    if devices.len() > 1 && devices.iter().any(|device| matches!(device, Device::Mig { .. })) {
        return Err(wrong("device", "a MIG instance alone, or whole GPUs"));
    }
    Ok(Some(devices))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::endpoints::ENDPOINTS;

    fn asked(query: &str) -> Result<Arguments, ApiError> {
        let capacity = ENDPOINTS.iter().find(|endpoint| endpoint.name == "capacity").unwrap();
        Arguments::from_query(query, capacity.query)
    }

    fn read(body: &str) -> Result<Wish, ApiError> {
        let body = body.replacen('{', r#"{"model_ref":"hf:org/tiny","#, 1).replace(",}", "}");
        Wish::read(&Arguments::parse(body.as_bytes())?, "model_ref")
    }

    fn device(value: &str) -> Result<Vec<String>, ApiError> {
        let devices = read(&format!("{{\"device\":{value}}}"))?.devices.unwrap_or_default();
        Ok(devices.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_device_is_a_name_a_number_or_a_list_of_gpus() {
        assert_eq!(device("\"cpu\""), Ok(vec!["cpu".to_owned()]));
        assert_eq!(device("3"), Ok(vec!["gpu3".to_owned()]));
        assert_eq!(device("[\"gpu1\",0]"), Ok(vec!["gpu1".to_owned(), "gpu0".to_owned()]));
        assert_eq!(device("\"gpu0,gpu2\""), Ok(vec!["gpu0".to_owned(), "gpu2".to_owned()]));
        for wrong in
            ["\"\"", "\"gpu\"", "[]", "-1", "65536", "1.5", "true", "{}", "[[0]]", "\"0\"", "\"gpu0:\""]
        {
            assert!(device(wrong).is_err(), "{wrong}");
        }
        for wrong in ["[\"gpu0:1\",\"gpu0:2\"]", "[0,0]", "[\"cpu\",\"gpu0\"]", "\"gpu0,gpu0\""] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read(r#"{"backend":"cpu","device":0}"#).map(|w| w.devices), Ok(Some(vec![Device::Cpu])));
    }

    #[test]
    fn a_query_reads_like_a_body() {
        let query = "x=%ff&x=1&model=hf%3Aorg%2Ftiny&device=1&ctx=512&parallel=2&memory_bytes=5000000000";
        let arguments = asked(query).unwrap();
        let wish = Wish::read(&arguments, "model").unwrap();
        let body = r#"{"device":1,"ctx":512,"parallel":2,"memory_bytes":5000000000}"#;
        assert_eq!(Ok(wish), read(body));
        for wrong in
            ["model=hf:org/tiny&ctx=+1", "model=hf:org/tiny&ctx=1&ctx=1", "model=%zz", "model=%ff", "x=1"]
        {
            let read = asked(wrong).and_then(|query| Wish::read(&query, "model"));
            assert!(read.is_err(), "{wrong}");
        }
    }
}
