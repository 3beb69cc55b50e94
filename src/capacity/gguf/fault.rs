//! Why a file is refused, in words that can be shown: no path, and of the file's own words only harmless ones.

use std::fmt;
use std::io;

use super::types::was_removed;
use crate::limits;

/// Why a file is no GGUF that an engine would load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Io(io::ErrorKind),
    /// It ends within its header.
    Truncated,
    /// It does not begin with `GGUF`.
    NotGguf,
    /// Its numbers begin with the highest byte.
    BigEndian,
    /// A version other than 2 and 3.
    Version(u32),
    /// Something is larger than [`limits`] allow.
    TooLarge(Part),
    /// A key of no characters.
    EmptyKey,
    /// A key stands twice.
    DuplicateKey(Label),
    /// A value is of no known type, or an array of arrays.
    ValueType {
        /// Its key.
        key: Label,
        /// The number of its type, or of its elements'.
        number: u32,
    },
    /// `general.alignment` is not a `u32`, or no power of two.
    Alignment,
    /// A tensor's name is too long or no text.
    TensorName,
    /// A tensor stands twice.
    DuplicateTensor(Label),
    /// A tensor has more than four dimensions.
    Dimensions {
        /// Its name.
        tensor: Label,
        /// How many.
        count: u32,
    },
    /// A tensor's numbers, or their bytes, are too many to count.
    Shape(Label),
    /// A tensor is of a type that ggml does not know, or does not know any more.
    UnknownType {
        /// Its name.
        tensor: Label,
        /// The number of its type.
        number: u32,
    },
    /// A row of a tensor is no whole number of blocks.
    Row(Label),
    /// A tensor does not begin where the one before it ends.
    Offset(Label),
    /// The end of the file lies beyond what can be counted.
    Overflow,
}

/// What of a header can be too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it: [`limits::GGUF_HEADER_BYTES_MAX`].
    Header,
    /// The number of its entries: [`limits::GGUF_ENTRIES_MAX`].
    Entries,
    /// The number of its tensors: [`limits::GGUF_TENSORS_MAX`].
    Tensors,
    /// A key: [`limits::GGUF_KEY_BYTES_MAX`].
    Key,
    /// What is kept of its entries: [`limits::GGUF_KEPT_BYTES_MAX`].
    Kept,
}

/// The name of a key or a tensor, as far as it can be shown: up to 64 letters, digits and `._-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(Option<Box<str>>);

impl Label {
    const BYTES_MAX: usize = 64;

    pub(super) fn of(name: &[u8]) -> Self {
        let harmless = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let shown = (1..=Self::BYTES_MAX).contains(&name.len()) && name.iter().all(harmless);
        Self(shown.then(|| str::from_utf8(name).ok().map(Into::into)).flatten())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("(not shown)"))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            kind => Self::Io(kind),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "a header of more than {} bytes", limits::GGUF_HEADER_BYTES_MAX),
            Self::Entries => write!(f, "more than {} entries", limits::GGUF_ENTRIES_MAX),
            Self::Tensors => write!(f, "more than {} tensors", limits::GGUF_TENSORS_MAX),
            Self::Key => write!(f, "a key of more than {} bytes", limits::GGUF_KEY_BYTES_MAX),
            Self::Kept => write!(f, "more than {} bytes of metadata", limits::GGUF_KEPT_BYTES_MAX),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(kind) => write!(f, "the file cannot be read: {kind}"),
            Self::Truncated => f.write_str("the file ends within its GGUF header"),
            Self::NotGguf => f.write_str("the file is no GGUF"),
            Self::BigEndian => f.write_str("the file is a GGUF for big-endian machines"),
            Self::Version(number) => write!(f, "the file is a GGUF of version {number}, not 2 or 3"),
            Self::TooLarge(part) => write!(f, "the GGUF has {part}"),
            Self::EmptyKey => f.write_str("the GGUF has an empty key"),
            Self::DuplicateKey(key) => write!(f, "the GGUF has the key {key} twice"),
            Self::ValueType { key, number } => write!(f, "key {key}: unknown value type {number}"),
            Self::Alignment => f.write_str("the GGUF's alignment is no power of two"),
            Self::TensorName => f.write_str("the GGUF has a tensor whose name is too long or no text"),
            Self::DuplicateTensor(tensor) => write!(f, "the GGUF has the tensor {tensor} twice"),
            Self::Dimensions { tensor, count } => {
                write!(f, "tensor {tensor}: {count} dimensions instead of up to 4")
            }
            Self::Shape(tensor) => write!(f, "tensor {tensor}: its size cannot be"),
            Self::UnknownType { tensor, number } if was_removed(*number) => {
                write!(f, "tensor {tensor}: tensor type {number} is not supported any more")
            }
            Self::UnknownType { tensor, number } => {
                write!(f, "tensor {tensor}: unknown tensor type {number}")
            }
            Self::Row(tensor) => write!(f, "tensor {tensor}: a row is no whole number of blocks"),
            Self::Offset(tensor) => {
                write!(f, "tensor {tensor}: it does not begin where the one before it ends")
            }
            Self::Overflow => f.write_str("the GGUF's tensors end beyond what a file can be"),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_files_own_words_only_harmless_ones_are_shown() {
        assert_eq!(Label::of(b"blk.0.attn-q_a.weight").to_string(), "blk.0.attn-q_a.weight");
        for name in [b"".as_slice(), b"a b", b"a\nb", b"\xff", "é".as_bytes(), &[b'a'; 65]] {
            assert_eq!(Label::of(name).to_string(), "(not shown)");
        }
    }

    #[test]
    fn an_unknown_type_is_named_by_its_number() {
        let said = |number| Fault::UnknownType { tensor: Label::of(b"output.weight"), number }.to_string();
        assert_eq!(said(77), "tensor output.weight: unknown tensor type 77");
        assert_eq!(said(31), "tensor output.weight: tensor type 31 is not supported any more");
    }
}
