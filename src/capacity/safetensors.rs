//! The header of a safetensors file: how many bytes its tensors take, and of which types.
//!
//! The format is that of <https://github.com/huggingface/safetensors>: the header's length in eight bytes, a JSON
//! object of `name: {dtype, shape, data_offsets}`, the data. A file is refused for what its reference reader
//! refuses: data that overlap, have gaps, do not fit their shapes or do not end with the file. One thing is not seen:
//! a name that stands twice, for names are not kept.
//!
//! Invariants: no input makes the reader panic; the JSON is read as a stream, so that memory is bounded by
//! [`limits::SAFETENSORS_TEXT_BYTES_MAX`] and [`limits::SAFETENSORS_TENSORS_MAX`], not by the header's length.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::limits;

#[cfg(test)]
mod tests;

/// What stands before the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How many tensors there are.
    pub tensors: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// The same by type; types that do not occur are not in it.
    pub bytes_by_dtype: BTreeMap<Dtype, u64>,
    /// Bytes before the data.
    pub data_offset: u64,
}

/// The one table. Names and sizes are those of `Dtype` in the reference reader's `tensor.rs`.
macro_rules! dtypes {
    ($($dtype:ident $bits:literal)*) => {
        /// What the numbers of a tensor are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(non_camel_case_types, reason = "the names that stand in the files")]
        pub enum Dtype {
            $(
                #[doc = concat!("`", stringify!($dtype), "`: ", $bits, " bits a number.")]
                $dtype,
            )*
        }

        impl Dtype {
            /// Its name in a file.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$dtype => stringify!($dtype),)*
                }
            }

            /// Bits of a number.
            pub fn bits(self) -> u64 {
                match self {
                    $(Self::$dtype => $bits,)*
                }
            }

            fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($dtype) => Some(Self::$dtype),)*
                    _ => None,
                }
            }
        }
    };
}

dtypes! {
    BOOL 8
    F4 4
    F6_E2M3 6
    F6_E3M2 6
    U8 8
    I8 8
    F8_E5M2 8
    F8_E4M3 8
    F8_E8M0 8
    F8_E4M3FNUZ 8
    F8_E5M2FNUZ 8
    I16 16
    U16 16
    F16 16
    BF16 16
    I32 32
    U32 32
    F32 32
    C64 64
    F64 64
    I64 64
    U64 64
}

/// Why a file is no safetensors file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Io(io::ErrorKind),
    /// It ends within its header, or its data do.
    Truncated,
    /// It goes on after its data.
    TooLong,
    /// The header's length cannot be: [`limits::SAFETENSORS_HEADER_BYTES_MAX`].
    HeaderLength,
    /// The header is no JSON, or not of this form.
    Json,
    /// A name or a text is longer than [`limits::SAFETENSORS_TEXT_BYTES_MAX`].
    Text,
    /// More tensors than [`limits::SAFETENSORS_TENSORS_MAX`].
    Tensors,
    /// A tensor is of a type that the reference reader does not know.
    Dtype,
    /// A tensor's data are not as long as its shape and type say.
    Shape,
    /// Data overlap, or there is a gap between them.
    Offsets,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(kind) => write!(f, "the file cannot be read: {kind}"),
            Self::Truncated => f.write_str("the safetensors file is cut off"),
            Self::TooLong => f.write_str("the safetensors file goes on after its tensors"),
            Self::HeaderLength => {
                f.write_str("the file is no safetensors file: the length of its header cannot be")
            }
            Self::Json => f.write_str("the header of the safetensors file is malformed"),
            Self::Text => {
                let max = limits::SAFETENSORS_TEXT_BYTES_MAX;
                write!(f, "the header of the safetensors file has a text of more than {max} bytes")
            }
            Self::Tensors => {
                write!(f, "the safetensors file has more than {} tensors", limits::SAFETENSORS_TENSORS_MAX)
            }
            Self::Dtype => f.write_str("the safetensors file has a tensor of an unknown type"),
            Self::Shape => f.write_str("the safetensors file has a tensor whose data do not fit its shape"),
            Self::Offsets => f.write_str("the safetensors file has tensors that overlap or leave a gap"),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads the header of a file that is `file_bytes` long, and nothing beyond it.
///
/// # Errors
/// Why the file cannot be read, or is none.
pub fn read(source: &mut impl Read, file_bytes: u64) -> Result<Header, Fault> {
    let mut length = [0; 8];
    source.read_exact(&mut length).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Truncated,
        kind => Fault::Io(kind),
    })?;
    let header_bytes = u64::from_le_bytes(length);
    if !(2..=limits::SAFETENSORS_HEADER_BYTES_MAX).contains(&header_bytes) {
        return Err(Fault::HeaderLength);
    }
    let data_offset = 8 + header_bytes;
    let data_bytes = file_bytes.checked_sub(data_offset).ok_or(Fault::Truncated)?;
    let mut seen = Seen::default();
    parse(source.take(header_bytes), &mut seen)?;
    let bytes = seen.end_of_data()?;
    match bytes.cmp(&data_bytes) {
        std::cmp::Ordering::Less => Err(Fault::TooLong),
        std::cmp::Ordering::Greater => Err(Fault::Truncated),
        std::cmp::Ordering::Equal => {
            let tensors = seen.ranges.len() as u64;
            Ok(Header { tensors, bytes, bytes_by_dtype: seen.bytes_by_dtype, data_offset })
        }
    }
}

fn parse(json: io::Take<impl Read>, seen: &mut Seen) -> Result<(), Fault> {
    let mut json = BufReader::new(ShortTexts { from: json, text: None, escaped: false });
    let mut parser = serde_json::Deserializer::from_reader(&mut json);
    let parsed = seen.deserialize(&mut parser).and_then(|()| parser.end());
    let source = json.into_inner();
    let is_cut = source.from.limit() > 0;
    let Err(error) = parsed else {
        return if is_cut { Err(Fault::Truncated) } else { Ok(()) };
    };
    Err(match (seen.fault, error.io_error_kind()) {
        (Some(fault), _) => fault,
        (None, Some(_)) if source.is_too_long() => Fault::Text,
        (None, Some(kind)) => Fault::Io(kind),
        (None, None) if error.is_eof() && is_cut => Fault::Truncated,
        (None, None) => Fault::Json,
    })
}

/// What was read of a header so far.
#[derive(Default)]
struct Seen {
    /// Where each tensor begins and ends.
    ranges: Vec<(u64, u64)>,
    bytes_by_dtype: BTreeMap<Dtype, u64>,
    /// Why reading stopped, if it was not the JSON.
    fault: Option<Fault>,
}

impl Seen {
    fn add(&mut self, tensor: Info) -> Result<(), Fault> {
        if self.ranges.len() as u64 >= limits::SAFETENSORS_TENSORS_MAX {
            return Err(Fault::Tensors);
        }
        let Info { dtype: Name(dtype), shape: Shape(numbers), data_offsets: (start, end) } = tensor;
        let dtype = dtype.ok_or(Fault::Dtype)?;
        let bytes = end.checked_sub(start).ok_or(Fault::Offsets)?;
        let bits = numbers.and_then(|numbers| numbers.checked_mul(dtype.bits())).ok_or(Fault::Shape)?;
        if !bits.is_multiple_of(8) || bits / 8 != bytes {
            return Err(Fault::Shape);
        }
        self.ranges.push((start, end));
        // The ranges may still overlap: their sum means nothing before `end_of_data` has looked at them.
        let sum = self.bytes_by_dtype.entry(dtype).or_default();
        *sum = sum.saturating_add(bytes);
        Ok(())
    }

    /// The end of the last tensor, if each begins where another ends.
    fn end_of_data(&mut self) -> Result<u64, Fault> {
        self.ranges.sort_unstable();
        self.ranges.iter().try_fold(
            0,
            |at, (start, end)| {
                if *start == at { Ok(*end) } else { Err(Fault::Offsets) }
            },
        )
    }
}

impl<'de> DeserializeSeed<'de> for &mut Seen {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Seen {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<Option<Metadata>>()?;
            } else if let Err(fault) = self.add(map.next_value()?) {
                self.fault = Some(fault);
                return Err(de::Error::custom("a tensor is wrong"));
            }
        }
        Ok(())
    }
}

/// One tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: Name,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// The name of a type, if there is such a type.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Name(Option<Dtype>);

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(Dtype::named(&name))
    }
}

/// How many numbers a shape has; `None` if they are too many to count.
struct Shape(Option<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Shape, A::Error> {
                let mut numbers = Some(1_u64);
                while let Some(size) = sizes.next_element()? {
                    numbers = numbers.and_then(|numbers| numbers.checked_mul(size));
                }
                Ok(Shape(numbers))
            }
        }
        from.deserialize_seq(Sizes)
    }
}

/// What somebody wrote about the file, texts by name. Nothing of it is kept.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut texts: A) -> Result<Metadata, A::Error> {
                while texts.next_entry::<String, String>()?.is_some() {}
                Ok(Metadata)
            }
        }
        from.deserialize_map(Texts)
    }
}

/// Passes JSON on up to the first text that is too long: the parser would keep all of it.
struct ShortTexts<R> {
    from: R,
    /// Bytes of the text that is being read, if it is one.
    text: Option<usize>,
    escaped: bool,
}

impl<R> ShortTexts<R> {
    fn is_too_long(&self) -> bool {
        self.text.is_some_and(|bytes| bytes > limits::SAFETENSORS_TEXT_BYTES_MAX)
    }
}

impl<R: Read> Read for ShortTexts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        for byte in &buffer[..length] {
            self.text = match (self.text, byte) {
                (None, b'"') => Some(0),
                (Some(_), b'"') if !self.escaped => None,
                (text, _) => text.map(|bytes| bytes + 1),
            };
            self.escaped = self.text.is_some() && *byte == b'\\' && !self.escaped;
            if self.is_too_long() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(length)
    }
}
