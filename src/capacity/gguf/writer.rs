//! A GGUF in memory for tests: what one says is what one gets, right or wrong.

use super::TensorType;

/// A file that is being put together. Values are little-endian; offsets follow from the tensors before.
#[derive(Clone)]
pub(crate) struct Writer {
    version: u32,
    alignment: u64,
    entries: Vec<(String, Vec<u8>)>,
    tensors: Vec<Written>,
}

#[derive(Clone)]
struct Written {
    name: String,
    shape: Vec<u64>,
    kind: u32,
    bytes: u64,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, entries: Vec::new(), tensors: Vec::new() }
    }

    /// A model of this architecture, which is all that it says of itself.
    pub(crate) fn model(architecture: &str) -> Self {
        Self::new().text("general.architecture", architecture)
    }

    pub(crate) fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// An entry of the type with this number.
    pub(crate) fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push((key.to_owned(), [&kind.to_le_bytes(), value].concat()));
        self
    }

    pub(crate) fn number(self, key: &str, number: u32) -> Self {
        self.entry(key, 4, &number.to_le_bytes())
    }

    pub(crate) fn float(self, key: &str, number: f32) -> Self {
        self.entry(key, 6, &number.to_le_bytes())
    }

    pub(crate) fn flag(self, key: &str, flag: bool) -> Self {
        self.entry(key, 7, &[flag.into()])
    }

    pub(crate) fn text(self, key: &str, text: &str) -> Self {
        self.entry(key, 8, &text_bytes(text))
    }

    /// An array whose elements are of the type with this number.
    pub(crate) fn array<E: AsRef<[u8]>>(self, key: &str, kind: u32, elements: &[E]) -> Self {
        let mut value = [kind.to_le_bytes().as_slice(), &(elements.len() as u64).to_le_bytes()].concat();
        elements.iter().for_each(|element| value.extend(element.as_ref()));
        self.entry(key, 9, &value)
    }

    pub(crate) fn numbers(self, key: &str, numbers: &[u32]) -> Self {
        self.array(key, 4, &numbers.iter().map(|number| number.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn flags(self, key: &str, flags: &[bool]) -> Self {
        self.array(key, 7, &flags.iter().map(|flag| [u8::from(*flag)]).collect::<Vec<_>>())
    }

    pub(crate) fn texts(self, key: &str, texts: &[&str]) -> Self {
        self.array(key, 8, &texts.iter().map(|text| text_bytes(text)).collect::<Vec<_>>())
    }

    /// A vocabulary of so many tokens.
    pub(crate) fn vocabulary(self, tokens: usize) -> Self {
        self.texts("tokenizer.ggml.tokens", &vec!["a"; tokens])
    }

    /// Tensors begin at multiples of it; written as an entry too.
    pub(crate) fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment.into();
        self.number("general.alignment", alignment)
    }

    pub(crate) fn tensor(self, name: &str, kind: TensorType, shape: &[u64]) -> Self {
        let bytes = kind.bytes_of(shape.iter().product()).expect("tests count in whole blocks");
        self.raw_tensor(name, kind as u32, shape, bytes)
    }

    /// A tensor of any type, after which so many bytes are left for it.
    pub(crate) fn raw_tensor(mut self, name: &str, kind: u32, shape: &[u64], bytes: u64) -> Self {
        self.tensors.push(Written { name: name.to_owned(), shape: shape.to_vec(), kind, bytes });
        self
    }

    /// The header, without the padding after it.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(self.version.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            header.extend(text_bytes(key));
            header.extend(value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            header.extend(text_bytes(&tensor.name));
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|size| header.extend(size.to_le_bytes()));
            header.extend(tensor.kind.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = offset.wrapping_add(tensor.bytes).next_multiple_of(self.alignment);
        }
        header
    }
}

fn text_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}
