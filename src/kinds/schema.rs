//! The manifest's JSON Schema, made from what the parser knows: `docs/kind.schema.json` is this text.
//!
//! What a schema cannot say, the bounds of a duration, stands in its descriptions;
//! [`super::manifest::parse`] has the last word.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};

use super::template::PLACEHOLDERS;
use crate::duration::show;
use crate::id::Backend;
use crate::limits::{KIND_NAME_BYTES_MAX, PROBE_INTERVAL, PROBE_TIMEOUT};

/// The schema (2020-12), as it is published: with a line break at its end.
pub fn text() -> String {
    let text = serde_json::to_string_pretty(&schema()).expect("JSON is valid JSON");
    text + "\n"
}

fn schema() -> Value {
    let names: Vec<String> = PLACEHOLDERS.iter().map(|(name, _)| format!("{{{name}}}")).collect();
    let no_nul = "^[^\\u0000]*$";
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kind of worker",
        "description": "How rbee-hive launches a worker, and how it knows that the worker is ready.",
        "type": "object",
        "required": ["kind", "protocol", "program", "backends"],
        "additionalProperties": false,
        "properties": {
            "kind": {
                "description": "Its name.",
                "type": "string",
                "pattern": format!("^[a-z0-9][a-z0-9-]{{0,{}}}$", KIND_NAME_BYTES_MAX - 1),
            },
            "protocol": {
                "description": "probe: the hive asks the worker over HTTP. native: the worker calls the hive.",
                "enum": ["native", "probe"],
            },
            "program": {
                "description": "A name that is looked for on PATH, or a path; a relative one begins at the \
                                manifest's folder.",
                "type": "string",
                "allOf": [{ "pattern": no_nul }, { "not": { "pattern": "(^|/)\\.{0,2}$" } }],
            },
            "backends": {
                "description": "What it can compute with.",
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": { "enum": Backend::ALL.map(Backend::as_str) },
            },
            "args": {
                "description": format!("Arguments, one each; no shell is involved. Placeholders: {}.", names.join(" ")),
                "type": "array",
                "items": { "$ref": "#/$defs/template" },
            },
            "env": {
                "description": "Environment, set whatever a spawn says; with placeholders as in args.",
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": { "$ref": "#/$defs/template" },
            },
            "env_allow": {
                "description": "Variables that a spawn may set beyond the harmless ones; * stands for any \
                                beginning or any end.",
                "type": "array",
                "uniqueItems": true,
                "items": { "type": "string", "pattern": "^([A-Za-z_][A-Za-z0-9_]*\\*?|\\*[A-Za-z0-9_]*)$" },
            },
            "args_allow": {
                "description": "Options that a spawn's extra_args may name.",
                "type": "array",
                "uniqueItems": true,
                "items": { "type": "string", "pattern": "^-+[A-Za-z][!-<>-~]*$" },
            },
            "probe": {
                "description": "How the worker is asked. Refused or 503 is loading, 200 is ready, anything else \
                                is not ready.",
                "type": "object",
                "required": ["path"],
                "additionalProperties": false,
                "properties": {
                    "path": { "$ref": "#/$defs/url_path" },
                    "interval": time("Time between two questions once it is ready", &PROBE_INTERVAL),
                    "timeout": time("Time that an answer may take", &PROBE_TIMEOUT),
                    "busy": {
                        "description": "How running requests are counted, out of the worker's slots: by count or \
                                        by sum.",
                        "type": "object",
                        "required": ["path"],
                        "additionalProperties": false,
                        "properties": {
                            "path": { "$ref": "#/$defs/url_path" },
                            "count": {
                                "description": "A field: the elements of a JSON array in which it is true.",
                                "type": "string",
                                "minLength": 1,
                            },
                            "sum": {
                                "description": "A Prometheus gauge, summed over its labels.",
                                "type": "string",
                                "pattern": "^[A-Za-z_:][A-Za-z0-9_:]*$",
                            },
                        },
                        "oneOf": [{ "required": ["count"] }, { "required": ["sum"] }],
                    },
                },
            },
            "version_args": {
                "description": "Arguments that make the program print its version and end; none: it is not asked.",
                "type": "array",
                "items": { "type": "string", "allOf": [{ "pattern": no_nul }, { "not": { "pattern": PLACEHOLDER } }] },
            },
        },
        "if": { "properties": { "protocol": { "const": "probe" } } },
        "then": { "required": ["args", "probe"] },
        "else": { "properties": { "probe": false } },
        "$defs": {
            "template": {
                "type": "string",
                "allOf": [{ "pattern": no_nul }, { "not": { "pattern": unknown_placeholder() } }],
            },
            "url_path": {
                "description": "The path of a URL, like /health.",
                "type": "string",
                "pattern": "^/[!-\"$-~]*$",
            },
        },
    })
}

/// What the parser takes for a placeholder, known or not.
const PLACEHOLDER: &str = r"\{[A-Za-z_][A-Za-z0-9_]*\}";

fn unknown_placeholder() -> String {
    let names: Vec<&str> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
    format!(r"\{{(?!(?:{})\}})[A-Za-z_][A-Za-z0-9_]*\}}", names.join("|"))
}

fn time(what: &str, range: &RangeInclusive<Duration>) -> Value {
    let (least, most) = (show(*range.start()), show(*range.end()));
    json!({
        "description": format!("{what}, from {least} to {most}: 250ms, 30s, 5m, 1h, or plain seconds."),
        "type": "string",
        "pattern": "^[0-9]+(ms|s|m|h)?$",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kinds::manifest::parse;

    #[test]
    fn the_published_file_is_this_one() {
        let file = include_str!("../../docs/kind.schema.json");
        assert!(file == text(), "docs/kind.schema.json should be what `rbee-hive kinds schema` prints");
    }

    /// Good manifests of both protocols.
    fn good() -> [Value; 2] {
        let native = json!({"kind": "k", "protocol": "native", "program": "k", "backends": ["cpu"]});
        let mut probe = native.clone();
        probe["protocol"] = json!("probe");
        probe["args"] = json!([]);
        probe["probe"] = json!({"path": "/", "busy": {"path": "/", "count": "x"}});
        [native, probe]
    }

    fn mistake(manifest: &Value) -> String {
        parse(manifest.to_string().as_bytes())
            .map_or_else(|mistake| mistake.to_string(), |_| "none".to_owned())
    }

    #[test]
    fn it_names_the_fields_that_the_parser_knows_and_no_other() {
        let schema = schema();
        for (there, pointer) in
            [("", ""), ("/probe", "/properties/probe"), ("/probe/busy", "/properties/probe/properties/busy")]
        {
            let [_, mut manifest] = good();
            manifest.pointer_mut(there).expect("it is there")["zzzzzzzzzzzzzzz"] = json!(1);
            let message = mistake(&manifest);
            let (_, known) = message.split_once("there are ").expect("the parser tells what there is");
            let properties = schema.pointer(pointer).expect("it is there")["properties"].as_object();
            let named: BTreeSet<&str> = properties.expect("fields").keys().map(String::as_str).collect();
            assert_eq!(named, known.split(", ").collect(), "{there}");
        }
    }

    #[test]
    fn it_requires_what_the_parser_requires() {
        let schema = schema();
        for (manifest, more) in good().into_iter().zip([json!([]), schema["then"]["required"].clone()]) {
            assert_eq!(mistake(&manifest), "none");
            let always = schema["required"].as_array().expect("a list");
            let required: BTreeSet<&str> =
                always.iter().chain(more.as_array().expect("a list")).filter_map(Value::as_str).collect();
            let fields = manifest.as_object().expect("an object");
            let missed = fields.keys().map(String::as_str).filter(|name| {
                let mut without = manifest.clone();
                without.as_object_mut().expect("an object").remove(*name);
                mistake(&without).contains("is missing")
            });
            assert_eq!(missed.collect::<BTreeSet<_>>(), required);
        }
    }

    #[test]
    fn it_knows_the_placeholders_of_the_parser() {
        let pattern = unknown_placeholder();
        for (name, _) in PLACEHOLDERS {
            let [_, mut manifest] = good();
            manifest["args"] = json!([format!("{{{name}}}")]);
            assert_eq!(mistake(&manifest), "none");
            assert!(pattern.contains(name) && text().contains(&format!("{{{name}}}")), "{name}");
        }
    }
}
