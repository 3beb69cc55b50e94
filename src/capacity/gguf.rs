//! The header of a GGUF file: what a model is and how large its tensors are, without reading a tensor.
//!
//! A file is refused for what ggml refuses (`gguf_init_from_reader` in its `gguf.cpp`), so that no model is
//! found to fit which the engine then does not load. Beyond that stand the bounds of [`limits`], and names of
//! tensors that are no text. Files for big-endian machines are refused with a fault of their own: an engine on the
//! little-endian machines that a hive runs on refuses them too.
//!
//! Invariants: no input makes the reader panic; memory is bounded by [`limits::GGUF_KEPT_BYTES_MAX`],
//! [`limits::GGUF_TENSORS_MAX`] and the read-ahead, time by the bytes that are there.

use std::collections::BTreeMap;
use std::io::Read;

use crate::limits;

mod fault;
mod source;
#[cfg(test)]
mod tests;
mod types;
mod value;
#[cfg(test)]
pub(crate) mod writer;

pub use fault::{Fault, Label, Part};
pub use types::TensorType;

use source::Source;
use value::Value;

/// Where tensors begin, unless `general.alignment` says otherwise.
const ALIGNMENT: u32 = 32;
/// A tensor has at most so many dimensions: ggml's `GGML_MAX_DIMS`.
const DIMENSIONS_MAX: u32 = 4;
/// A tensor's name is shorter: ggml's `GGML_MAX_NAME`.
const NAME_BYTES: u64 = 64;
/// What an entry costs in memory beside its key and its value, about.
const ENTRY_BYTES: u64 = 128;

/// What stands before the tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// In the order in which they lie in the file; none overlaps another.
    pub tensors: Vec<Tensor>,
    /// Where the tensors' data begin in the file.
    pub data_offset: u64,
    /// Bytes at whose multiples tensors begin, a power of two.
    pub alignment: u32,
    /// Bytes of the header, without the padding after it.
    pub read_bytes: u64,
    entries: BTreeMap<Box<[u8]>, Value>,
    file_bytes: u64,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, such as `blk.0.attn_q.weight`; shorter than 64 bytes.
    pub name: String,
    /// Its one to four dimensions, the innermost first. One of them may be 0.
    pub shape: Vec<u64>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Where it begins, counted from [`Header::data_offset`].
    pub offset: u64,
    /// Its bytes, without the padding after it.
    pub bytes: u64,
}

/// Reads a header, and up to 64 KiB beyond it.
///
/// Of a split model each file has a header with the tensors of that file; the first one has the metadata.
///
/// # Errors
/// Why the file cannot be read, or no engine would load it. A file that ends early but after its header is no
/// error here: see [`Header::file_bytes`].
pub fn read(source: &mut impl Read) -> Result<Header, Fault> {
    let mut source = Source::new(source);
    let version = version(&mut source)?;
    let tensor_count = source.u64()?;
    let entry_count = source.u64()?;
    if tensor_count > limits::GGUF_TENSORS_MAX {
        return Err(Fault::TooLarge(Part::Tensors));
    }
    if entry_count > limits::GGUF_ENTRIES_MAX {
        return Err(Fault::TooLarge(Part::Entries));
    }
    let mut entries: BTreeMap<Box<[u8]>, Value> = BTreeMap::new();
    for _ in 0..entry_count {
        let key = key(&mut source)?;
        if entries.contains_key(&key) {
            return Err(Fault::DuplicateKey(Label::of(&key)));
        }
        let value = Value::read(&mut source, &key)?;
        entries.insert(key, value);
    }
    let alignment = alignment(&entries)?;
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut source)?);
    }
    unique(&tensors)?;
    let read_bytes = source.at();
    // Without tensors nothing follows that would have to be aligned.
    let padding = if tensors.is_empty() { 1 } else { alignment.into() };
    let data_offset = read_bytes.next_multiple_of(padding);
    let file_bytes = data_offset.checked_add(data_bytes(&tensors, alignment)?).ok_or(Fault::Overflow)?;
    Ok(Header { version, tensors, data_offset, alignment, read_bytes, entries, file_bytes })
}

impl Header {
    /// The text at `key`; `None` too if it is longer than [`limits::GGUF_TEXT_KEPT_BYTES_MAX`] or no UTF-8.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.entry(key)? {
            Value::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    /// The whole number at `key`, of any width; `None` too if it is below 0.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.entry(key)?.as_number()
    }

    /// The floating-point number at `key`.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.entry(key)? {
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The flag at `key`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.entry(key)? {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The array of whole numbers or flags (0 and 1) at `key`, such as the head counts of each layer. `None` for
    /// a single number, for an array with a number below 0, and for one of more than
    /// [`limits::GGUF_ARRAY_KEPT_MAX`] elements.
    pub fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        match self.entry(key)? {
            Value::Array { numbers, .. } => numbers.as_deref().map(<[u64]>::to_vec),
            _ => None,
        }
    }

    /// Elements of the array at `key`, whatever they are: `tokenizer.ggml.tokens` has the vocabulary's.
    pub fn array_len(&self, key: &str) -> Option<u64> {
        match self.entry(key)? {
            Value::Array { len, .. } => Some(*len),
            _ => None,
        }
    }

    /// The least length of the whole file: the end of its last tensor. A shorter file is cut off.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    fn entry(&self, key: &str) -> Option<&Value> {
        self.entries.get(key.as_bytes())
    }
}

fn version(source: &mut Source<impl Read>) -> Result<u32, Fault> {
    if source.array()? != *b"GGUF" {
        return Err(Fault::NotGguf);
    }
    match source.u32()? {
        version @ (2 | 3) => Ok(version),
        swapped if (2..=3).contains(&swapped.swap_bytes()) => Err(Fault::BigEndian),
        other => Err(Fault::Version(other)),
    }
}

fn key(source: &mut Source<impl Read>) -> Result<Box<[u8]>, Fault> {
    match source.u64()? {
        0 => Err(Fault::EmptyKey),
        length if length > limits::GGUF_KEY_BYTES_MAX => Err(Fault::TooLarge(Part::Key)),
        length => {
            source.keep(ENTRY_BYTES)?;
            source.bytes(length).map(Into::into)
        }
    }
}

fn alignment(entries: &BTreeMap<Box<[u8]>, Value>) -> Result<u32, Fault> {
    match entries.get(b"general.alignment".as_slice()) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => Ok(*alignment),
        Some(_) => Err(Fault::Alignment),
    }
}

fn tensor(source: &mut Source<impl Read>) -> Result<Tensor, Fault> {
    let length = source.u64()?;
    if length >= NAME_BYTES {
        return Err(Fault::TensorName);
    }
    let name = String::from_utf8(source.bytes(length)?).map_err(|_| Fault::TensorName)?;
    if name.contains('\0') {
        return Err(Fault::TensorName); // ggml would see only what stands before it
    }
    let label = || Label::of(name.as_bytes());
    let count = source.u32()?;
    if count > DIMENSIONS_MAX {
        return Err(Fault::Dimensions { tensor: label(), count });
    }
    let mut shape = (0..count).map(|_| source.u64()).collect::<Result<Vec<_>, _>>()?;
    let number = source.u32()?;
    let offset = source.u64()?;
    if shape.is_empty() {
        shape.push(1); // what ggml makes of a tensor without dimensions
    }
    let numbers = numbers_in(&shape).ok_or_else(|| Fault::Shape(label()))?;
    let kind = TensorType::of(number).ok_or_else(|| Fault::UnknownType { tensor: label(), number })?;
    if !shape[0].is_multiple_of(kind.block()) {
        return Err(Fault::Row(label()));
    }
    let bytes = kind.bytes_of(numbers).ok_or_else(|| Fault::Shape(label()))?;
    Ok(Tensor { name, shape, kind, offset, bytes })
}

/// How many numbers a tensor has; `None` if ggml, which multiplies from the first dimension on, would leave its
/// signed 64 bits on the way.
fn numbers_in(shape: &[u64]) -> Option<u64> {
    let counts = |number: &u64| i64::try_from(*number).is_ok();
    shape.iter().try_fold(1_u64, |numbers, size| {
        Some(*size).filter(counts).and_then(|size| numbers.checked_mul(size)).filter(counts)
    })
}

fn unique(tensors: &[Tensor]) -> Result<(), Fault> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::DuplicateTensor(Label::of(pair[0].as_bytes()))),
        None => Ok(()),
    }
}

/// The end of the last tensor, if each begins where the one before it ends.
fn data_bytes(tensors: &[Tensor], alignment: u32) -> Result<u64, Fault> {
    let mut end = 0_u64;
    let mut next = 0_u64;
    for tensor in tensors {
        if tensor.offset != next {
            return Err(Fault::Offset(Label::of(tensor.name.as_bytes())));
        }
        end = next.checked_add(tensor.bytes).ok_or(Fault::Overflow)?;
        next = end.checked_next_multiple_of(alignment.into()).ok_or(Fault::Overflow)?;
    }
    Ok(end)
}
