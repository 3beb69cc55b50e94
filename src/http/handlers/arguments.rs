//! Reads a JSON body field by field, so that every mistake names its field and says what would be right.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::http::{ApiError, Code};

/// The fields of a body. Unknown ones are ignored; `null` counts as absent.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    /// Parses a body; an empty one is `{}`.
    ///
    /// # Errors
    /// 400 `INVALID_JSON` if it is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::new(Code::InvalidJson, "the body must be a JSON object")),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let message = format!("the body is not valid JSON at line {line}, column {column}");
                Err(ApiError::new(Code::InvalidJson, message))
            }
        }
    }

    /// The field as it stands.
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// A text, if it is there.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ApiError> {
        self.value(field).map(|v| v.as_str().ok_or_else(|| wrong(field, "a string"))).transpose()
    }

    /// A text that must be there.
    pub fn needed_text(&self, field: &str) -> Result<&str, ApiError> {
        self.text(field)?.ok_or_else(|| ApiError::argument(field, format!("{field} is missing")))
    }

    /// A whole number in `range`, if it is there.
    pub fn number(&self, field: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n));
        let (low, high) = range.into_inner();
        number.map(Some).ok_or_else(|| wrong(field, &format!("a whole number from {low} to {high}")))
    }

    /// One of some words, if it is there.
    pub fn word<T: Copy>(&self, field: &str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(*word));
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| wrong(field, &all.join(" or ")))
    }

    /// A list of texts, if it is there.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let items = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        items.map(Some).ok_or_else(|| wrong(field, "a list of strings"))
    }

    /// A map from names to texts, if it is there.
    pub fn text_map(&self, field: &str) -> Result<Option<BTreeMap<String, String>>, ApiError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let map = value.as_object().and_then(|fields| {
            let pair = |(k, v): (&String, &Value)| Some((k.clone(), v.as_str()?.to_owned()));
            fields.iter().map(pair).collect::<Option<BTreeMap<_, _>>>()
        });
        map.map(Some).ok_or_else(|| wrong(field, "an object with string values"))
    }
}

/// 400 for `field`, which must be `right`.
pub(super) fn wrong(field: &str, right: &str) -> ApiError {
    ApiError::argument(field, format!("{field} must be {right}"))
}
