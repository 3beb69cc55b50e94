//! Metadata: what an entry says, and how much of it is kept.

use std::io::Read;

use super::fault::{Fault, Label, Part};
use super::source::Source;
use crate::limits;

/// What is kept of an entry's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `u32`, the one type that `general.alignment` may have.
    U32(u32),
    /// A whole number of any other type; `None` if it is below 0.
    Whole(Option<u64>),
    Float(f64),
    Flag(bool),
    /// `None` if it is too long to be kept, or no UTF-8.
    Text(Option<Box<str>>),
    /// `numbers` is `None` unless all elements are whole or flags, none is below 0, and they are few enough to
    /// be kept.
    Array {
        len: u64,
        numbers: Option<Box<[u64]>>,
    },
}

/// What an entry's value, or each element of an array, can be.
#[derive(Clone, Copy)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    U64,
    I64,
    F64,
}

/// The type of a value that is an array.
const ARRAY: u32 = 9;

impl Kind {
    /// The types' numbers are those of `enum gguf_type` in ggml's `gguf.h`. An array of arrays is refused, as ggml
    /// does.
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn scalar<R: Read>(self, source: &mut Source<R>) -> Result<Value, Fault> {
        Ok(match self {
            Self::U8 => Value::Whole(Some(u8::from_le_bytes(source.array()?).into())),
            Self::U16 => Value::Whole(Some(u16::from_le_bytes(source.array()?).into())),
            Self::U32 => Value::U32(source.u32()?),
            Self::U64 => Value::Whole(Some(source.u64()?)),
            Self::I8 => Value::whole(i8::from_le_bytes(source.array()?).into()),
            Self::I16 => Value::whole(i16::from_le_bytes(source.array()?).into()),
            Self::I32 => Value::whole(i32::from_le_bytes(source.array()?).into()),
            Self::I64 => Value::whole(i64::from_le_bytes(source.array()?)),
            Self::F32 => Value::Float(f32::from_le_bytes(source.array()?).into()),
            Self::F64 => Value::Float(f64::from_le_bytes(source.array()?)),
            Self::Bool => Value::Flag(source.array()? != [0]),
            Self::Text => Value::Text(text(source)?),
        })
    }

    fn array<R: Read>(self, source: &mut Source<R>, len: u64) -> Result<Value, Fault> {
        let each_bytes = match self {
            Self::Text => {
                (0..len).try_for_each(|_| source.skip_text())?;
                return Ok(Value::Array { len, numbers: None });
            }
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        };
        if len > limits::GGUF_ARRAY_KEPT_MAX {
            source.skip(len.checked_mul(each_bytes).ok_or(Fault::TooLarge(Part::Header))?)?;
            return Ok(Value::Array { len, numbers: None });
        }
        source.keep(len * size_of::<u64>() as u64)?;
        let numbers: Vec<Option<u64>> =
            (0..len).map(|_| Ok(self.scalar(source)?.as_element())).collect::<Result<_, Fault>>()?;
        Ok(Value::Array { len, numbers: numbers.into_iter().collect() })
    }
}

impl Value {
    /// Reads type and value of the entry `key`.
    pub(super) fn read<R: Read>(source: &mut Source<R>, key: &[u8]) -> Result<Self, Fault> {
        let known = |number| Kind::of(number).ok_or_else(|| Fault::ValueType { key: Label::of(key), number });
        match source.u32()? {
            ARRAY => {
                let kind = known(source.u32()?)?;
                let len = source.u64()?;
                kind.array(source, len)
            }
            number => known(number)?.scalar(source),
        }
    }

    fn whole(number: i64) -> Self {
        Self::Whole(u64::try_from(number).ok())
    }

    /// A whole number that is not below 0.
    pub(super) fn as_number(&self) -> Option<u64> {
        match self {
            Self::U32(number) => Some((*number).into()),
            Self::Whole(number) => *number,
            _ => None,
        }
    }

    fn as_element(&self) -> Option<u64> {
        match self {
            Self::Flag(flag) => Some((*flag).into()),
            other => other.as_number(),
        }
    }
}

fn text<R: Read>(source: &mut Source<R>) -> Result<Option<Box<str>>, Fault> {
    let length = source.u64()?;
    if length > limits::GGUF_TEXT_KEPT_BYTES_MAX {
        source.skip(length)?;
        return Ok(None);
    }
    Ok(String::from_utf8(source.bytes(length)?).ok().map(Into::into))
}
