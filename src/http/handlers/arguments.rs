//! Reads a JSON body field by field, so that every mistake names its field and says what would be right.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::http::endpoints::Parameter;
use crate::http::{ApiError, Code};

/// The fields of a body or of a query. Unknown ones are ignored; `null` counts as absent.
pub(super) struct Arguments {
    fields: Map<String, Value>,
    /// From a query, where numbers and truth values are texts.
    is_query: bool,
}

impl Arguments {
    /// Parses a body; an empty one is `{}`.
    ///
    /// # Errors
    /// 400 `INVALID_JSON` if it is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self { fields: Map::new(), is_query: false });
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, is_query: false }),
            Ok(_) => Err(ApiError::new(Code::InvalidJson, "the body must be a JSON object")),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let message = format!("the body is not valid JSON at line {line}, column {column}");
                Err(ApiError::new(Code::InvalidJson, message))
            }
        }
    }

    /// Reads the values that are `known` of a query as sent: `name=value&…`, percent-encoded.
    ///
    /// # Errors
    /// 400 `INVALID_ARGUMENT` for a name that is there twice, or a value that is no UTF-8.
    pub fn from_query(query: &str, known: &[Parameter]) -> Result<Self, ApiError> {
        let mut fields = Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().map(|known| known.name).find(|known| *known == name) else {
                continue;
            };
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| wrong(name, "percent-encoded UTF-8"))?
                .into_owned();
            if fields.insert(name.to_owned(), Value::String(value)).is_some() {
                return Err(ApiError::argument(name, format!("{name} must be given once")));
            }
        }
        Ok(Self { fields, is_query: true })
    }

    /// Whether it came as a query.
    pub fn is_query(&self) -> bool {
        self.is_query
    }

    /// The field as it stands.
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
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
    pub fn number<T>(&self, field: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let Some(value) = self.value(field) else { return Ok(None) };
        let digits = value.as_str().filter(|text| self.is_query && text.bytes().all(|b| b.is_ascii_digit()));
        let number = value.as_u64().or_else(|| digits?.parse().ok());
        let number = number.and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        let (low, high) = range.into_inner();
        number.map(Some).ok_or_else(|| wrong(field, &format!("a whole number from {low} to {high}")))
    }

    /// True or false, if it is there.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ApiError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if self.is_query && text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if self.is_query && text == "false" => Ok(Some(false)),
            Some(_) => Err(wrong(field, "true or false")),
        }
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
