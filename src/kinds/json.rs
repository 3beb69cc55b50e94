//! Reading a JSON object field by field, so that each mistake is named by its path: repeated fields,
//! unknown ones, missing ones, and those of a wrong type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits::MISTAKE_NAME_CHARS_MAX;
use crate::nearest;

/// A mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The field, with its way from the top (`probe.busy.path`); empty for the file as a whole.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Mistake {
    /// A mistake in `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl std::error::Error for Mistake {}

/// The fields of an object that have not been asked for yet.
pub(super) struct Object {
    prefix: String,
    fields: BTreeMap<String, Value>,
    /// What was asked for: the fields that there may be.
    asked: BTreeSet<String>,
}

impl Object {
    /// Parses `bytes`, which must hold one object and nothing else.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Mistake> {
        let wrong = |what: String| Mistake::new("", format!("no valid JSON: {what}"));
        let text = std::str::from_utf8(bytes)
            .map_err(|e| wrong(format!("what follows byte {} is no UTF-8", e.valid_up_to())))?;
        if text.starts_with('\u{feff}') {
            return Err(wrong("it begins with a byte order mark; save it as UTF-8 without one".to_owned()));
        }
        if text.trim_ascii().is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        let Strict(value) = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        Self::of(String::new(), value).map_err(|_| Mistake::new("", "must be a JSON object"))
    }

    fn of(prefix: String, value: Value) -> Result<Self, Mistake> {
        match value {
            Value::Object(fields) => {
                Ok(Self { prefix, fields: fields.into_iter().collect(), asked: BTreeSet::new() })
            }
            _ => Err(Mistake::new(prefix, "must be an object")),
        }
    }

    /// The path of `name` from the top of the file.
    pub(super) fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { escaped(name) } else { format!("{}.{}", self.prefix, escaped(name)) }
    }

    /// A mistake in the field `name`.
    pub(super) fn mistake(&self, name: &str, message: impl Into<String>) -> Mistake {
        Mistake::new(self.path(name), message)
    }

    /// A text, if the field is there.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Mistake> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.mistake(name, "must be a text")),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, name: &str) -> Result<String, Mistake> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// A list of texts, if the field is there.
    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Mistake> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(self.mistake(name, "must be a list of texts")) };
        let text = |(index, item)| match item {
            Value::String(text) => Ok(text),
            _ => Err(Mistake::new(format!("{}[{index}]", self.path(name)), "must be a text")),
        };
        items.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// An object within, if the field is there.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, Mistake> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(path, value)).transpose()
    }

    /// The names of the fields that have not been asked for.
    pub(super) fn names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// That the field `name` must be there; names the one that was probably meant to be it.
    pub(super) fn missing(&self, name: &str) -> Mistake {
        match nearest::of(name, self.fields.keys().map(String::as_str)) {
            Some(near) => self.mistake(name, format!("is missing; is it `{}`?", escaped(near))),
            None => self.mistake(name, "is missing"),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn end(&self) -> Result<(), Mistake> {
        let Some(name) = self.fields.keys().next() else { return Ok(()) };
        let known = || self.asked.iter().map(String::as_str);
        let hint = match nearest::of(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
        };
        Err(self.mistake(name, format!("is no field of a manifest; {hint}")))
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.asked.insert(name.to_owned());
        self.fields.remove(name)
    }
}

/// `name` with what would break a line or hide in it escaped; of a long one the beginning.
pub(super) fn escaped(name: &str) -> String {
    let mut shown: String = name.chars().take(MISTAKE_NAME_CHARS_MAX).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

/// A value in which no object repeats a field.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Strict(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some((name, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!(
                    "the field `{}` stands there twice",
                    escaped(&name)
                )));
            }
            map.insert(name, value);
        }
        Ok(Strict(map.into()))
    }
}
