//! The smallest model that is one: a GGUF v3 with a llama's metadata and two tensors.

use std::io::{self, Write};

/// Bytes at whose multiples tensors begin; GGUF's own default.
const ALIGNMENT: usize = 32;
/// Numbers in a row.
const WIDTH: u64 = 32;
/// Rows of the token table.
const TOKENS: u64 = 8;
/// GGUF's number for a tensor of 32-bit floats.
const F32: u32 = 0;

enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
}

const METADATA: [(&str, Value); 9] = [
    ("general.architecture", Value::Text("llama")),
    ("general.name", Value::Text("demo")),
    ("llama.block_count", Value::U32(1)),
    ("llama.context_length", Value::U32(4096)),
    ("llama.embedding_length", Value::U32(WIDTH as u32)),
    ("llama.feed_forward_length", Value::U32(4 * WIDTH as u32)),
    ("llama.attention.head_count", Value::U32(4)),
    ("llama.attention.head_count_kv", Value::U32(2)),
    ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
];

const TENSORS: [(&str, &[u64]); 2] =
    [("token_embd.weight", &[WIDTH, TOKENS]), ("output_norm.weight", &[WIDTH])];

/// Writes the model.
///
/// # Errors
/// If `out` takes no more.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((TENSORS.len() as u64).to_le_bytes());
    bytes.extend((METADATA.len() as u64).to_le_bytes());
    for (key, value) in METADATA {
        text(&mut bytes, key);
        match value {
            Value::U32(number) => number_of(&mut bytes, 4, number.to_le_bytes()),
            Value::F32(number) => number_of(&mut bytes, 6, number.to_le_bytes()),
            Value::Text(word) => {
                bytes.extend(8_u32.to_le_bytes());
                text(&mut bytes, word);
            }
        }
    }
    let mut offset = 0;
    for (name, shape) in TENSORS {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(F32.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += size_bytes(shape);
    }
    let header = bytes.len().next_multiple_of(ALIGNMENT);
    bytes.resize(header + offset, 0);
    out.write_all(&bytes)
}

fn number_of(bytes: &mut Vec<u8>, kind: u32, number: [u8; 4]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(number);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// What a tensor takes in the file, up to where the next one begins.
fn size_bytes(shape: &[u64]) -> usize {
    let numbers = usize::try_from(shape.iter().product::<u64>()).expect("the tensors above are small");
    (numbers * 4).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::gguf;
    use crate::capacity::inspect::Inspector;
    use crate::models::{Format, Found};

    #[test]
    fn the_hive_takes_it_for_a_model() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write(file.as_file_mut()).unwrap();
        let path = file.path().to_owned();
        let found = Found { weights: vec![path.clone()], path, format: Format::Gguf };
        assert!(Inspector::default().inspect(&found).is_ok());
    }

    #[test]
    fn its_header_is_followed_by_the_tensors_it_names_and_by_nothing_else() {
        let mut file = Vec::new();
        write(&mut file).unwrap();
        let header = gguf::read(&mut file.as_slice()).unwrap();
        assert_eq!(header.text("general.architecture"), Some("llama"));
        assert_eq!(header.number("llama.context_length"), Some(4096));
        let tensors = header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
        assert!(tensors.eq(TENSORS));
        assert_eq!(file.len() as u64, header.file_bytes());
    }
}
