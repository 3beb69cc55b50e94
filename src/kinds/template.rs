//! Arguments with placeholders: parsed once, filled in at each launch.

use std::ffi::{OsStr, OsString};

use super::command::Values;
use super::{Piece, Placeholder, Template};
use crate::capacity::ledger::Placement;
use crate::id::Backend;
use crate::limits::TENSOR_SPLIT_MAX;

/// What `{gpu_layers}` is on a GPU: more layers than any model has, hence all of them.
const ALL_LAYERS: &str = "999";

/// Each placeholder with its name between the braces.
pub const PLACEHOLDERS: [(&str, Placeholder); 15] = [
    ("worker_id", Placeholder::WorkerId),
    ("model_path", Placeholder::ModelPath),
    ("model_ref", Placeholder::ModelRef),
    ("backend", Placeholder::Backend),
    ("device", Placeholder::Device),
    ("device_index", Placeholder::DeviceIndex),
    ("host", Placeholder::Host),
    ("port", Placeholder::Port),
    ("hive_url", Placeholder::HiveUrl),
    ("ctx", Placeholder::Ctx),
    ("parallel", Placeholder::Parallel),
    ("gpu_layers", Placeholder::GpuLayers),
    ("device_count", Placeholder::DeviceCount),
    ("gpu_memory_fraction", Placeholder::GpuMemoryFraction),
    ("tensor_split", Placeholder::TensorSplit),
];

impl Template {
    /// Parses `text`: a name between braces (`{port}`) is a placeholder, any other brace is itself, so
    /// that JSON needs no escapes.
    ///
    /// # Errors
    /// The name of a placeholder that does not exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, braced) = rest.split_at(open);
            plain.push_str(before);
            let Some(name) = braced[1..].split_once('}').map(|(name, _)| name).filter(|n| is_name(n)) else {
                plain.push('{');
                rest = &braced[1..];
                continue;
            };
            let Some(&(_, value)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) else {
                return Err(name.to_owned());
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Value(value));
            rest = &braced[name.len() + 2..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// What is known of it before there is a launch: its text, the context and the number of slots.
    pub fn known(&self, ctx: u32, parallel: u32) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Value(Placeholder::Ctx) => Some(ctx.to_string()),
            Piece::Value(Placeholder::Parallel) => Some(parallel.to_string()),
            Piece::Value(_) => None,
        };
        self.0.iter().filter_map(text).collect()
    }

    /// What [`Template::parse`] reads as the same.
    pub fn text(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(value) => {
                let name = PLACEHOLDERS.iter().find(|(_, known)| known == value).map(|(name, _)| *name);
                format!("{{{}}}", name.expect("each placeholder has its name"))
            }
        };
        self.0.iter().map(text).collect()
    }

    /// Its text, if it has no placeholder.
    pub fn plain(&self) -> Option<String> {
        let mut plain = String::new();
        for piece in &self.0 {
            let Piece::Text(text) = piece else { return None };
            plain.push_str(text);
        }
        Some(plain)
    }

    /// Whether it names `placeholder`.
    pub fn names(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Piece::Value(placeholder))
    }

    /// The text with each placeholder replaced. What a value contains is not looked at again: a file
    /// called `{port}` stays that file.
    pub fn fill(&self, values: &Values<'_>) -> OsString {
        let mut filled = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push(text),
                Piece::Value(placeholder) => filled.push(value_of(*placeholder, values)),
            }
        }
        filled
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn value_of(placeholder: Placeholder, values: &Values<'_>) -> OsString {
    let placement = values.placement;
    let on_cpu = placement.backend == Backend::Cpu;
    match placeholder {
        Placeholder::WorkerId => values.worker_id.as_str().into(),
        Placeholder::ModelPath => values.model_path.into(),
        Placeholder::ModelRef => values.model_ref.into(),
        Placeholder::Backend => placement.backend.as_str().into(),
        Placeholder::Device => placement.device().into(),
        // The worker sees its own GPUs only, and counts them from 0.
        Placeholder::DeviceIndex => OsStr::new(if on_cpu { "" } else { "0" }).into(),
        Placeholder::Host => values.host.into(),
        Placeholder::Port => values.port.to_string().into(),
        Placeholder::HiveUrl => values.hive_url.into(),
        Placeholder::Ctx => values.ctx.to_string().into(),
        Placeholder::Parallel => values.parallel.to_string().into(),
        Placeholder::DeviceCount => placement.shares.len().to_string().into(),
        // Rounded down: a promise is not exceeded. A millionth of a large card is less than a MiB.
        Placeholder::GpuMemoryFraction => format!("{:.6}", (placement.fraction() * 1e6).floor() / 1e6).into(),
        Placeholder::TensorSplit => tensor_split(placement).into(),
        Placeholder::GpuLayers => OsStr::new(if on_cpu { "0" } else { ALL_LAYERS }).into(),
    }
}

/// Parts of a model in proportion to what was promised of each GPU, in MiB; 0, which llama.cpp takes for
/// nothing said, where there is nothing to split, or more than it can be told.
fn tensor_split(placement: &Placement) -> String {
    let shares = &placement.shares;
    if !(2..=TENSOR_SPLIT_MAX).contains(&shares.len()) {
        return "0".to_owned();
    }
    shares.iter().map(|share| share.bytes.div_ceil(1 << 20).to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_values_alternate() {
        let template = Template::parse("http://{host}:{port}/x").expect("known names");
        assert_eq!(
            template.0,
            [
                Piece::Text("http://".into()),
                Piece::Value(Placeholder::Host),
                Piece::Text(":".into()),
                Piece::Value(Placeholder::Port),
                Piece::Text("/x".into()),
            ]
        );
    }

    #[test]
    fn an_unknown_placeholder_is_named() {
        assert_eq!(Template::parse("--x={prot}"), Err("prot".to_owned()));
        assert_eq!(Template::parse("{Port}"), Err("Port".to_owned()));
    }

    #[test]
    fn other_braces_are_text() {
        for text in ["", "{", "}", "{}", "{ port}", r#"{"a":{"b":1}}"#, "a{b", "${", "{é}"] {
            let pieces = Template::parse(text).expect("no placeholder").0;
            let plain = if text.is_empty() { vec![] } else { vec![Piece::Text(text.to_owned())] };
            assert_eq!(pieces, plain, "{text}");
        }
        let nested = Template::parse("{{port}}").expect("a known name").0;
        assert_eq!(nested.len(), 3);
    }
}
