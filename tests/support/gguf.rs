//! Model files for tests: a true header, and tensors that are holes in the file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const ALIGNMENT: u64 = 32;
const Q8_0: u32 = 8;
/// A block of Q8_0: 32 numbers in 34 bytes.
const BLOCK: (u64, u64) = (32, 34);

/// A dense model of the llama architecture.
#[derive(Clone, Copy)]
pub struct Llama {
    pub layers: u32,
    pub embd: u32,
    pub ff: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub vocab: u32,
    pub trained_ctx: u32,
}

/// So small that it fits anywhere.
pub const TINY: Llama =
    Llama { layers: 1, embd: 64, ff: 128, heads: 2, kv_heads: 1, vocab: 256, trained_ctx: 4096 };

impl Llama {
    /// Writes it with all tensors as Q8_0. The tensors take no room on disk.
    pub fn write(self, path: &Path) {
        self.write_with_tokens(path, 0);
    }

    /// Writes it with a tokenizer of so many tokens, which are most of a real header.
    pub fn write_with_tokens(self, path: &Path, tokens: u32) {
        self.write_as("llama", &[], path, tokens);
    }

    /// Writes it as Gemma 2, of whose layers every other one sees the last `window` tokens only.
    pub fn write_windowed(self, path: &Path, window: u32) {
        self.write_as("gemma2", &[("attention.sliding_window", window)], path, 0);
    }

    fn write_as(self, arch: &str, more: &[(&str, u32)], path: &Path, tokens: u32) {
        let Self { layers, embd, ff, heads, kv_heads, vocab, trained_ctx } = self;
        let numbers = [
            ("block_count", layers),
            ("context_length", trained_ctx),
            ("embedding_length", embd),
            ("feed_forward_length", ff),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("vocab_size", vocab),
        ];
        let mut tensors: Vec<(String, [u64; 2])> = vec![
            ("token_embd.weight".to_owned(), [embd.into(), vocab.into()]),
            ("output.weight".to_owned(), [embd.into(), vocab.into()]),
        ];
        let kv = u64::from(embd / heads * kv_heads);
        let (embd, ff) = (u64::from(embd), u64::from(ff));
        for layer in 0..layers {
            let shapes = [
                ("attn_q", [embd, embd]),
                ("attn_k", [embd, kv]),
                ("attn_v", [embd, kv]),
                ("attn_output", [embd, embd]),
                ("ffn_gate", [embd, ff]),
                ("ffn_up", [embd, ff]),
                ("ffn_down", [ff, embd]),
            ];
            tensors.extend(shapes.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape)));
        }
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(((numbers.len() + more.len()) as u64 + 2).to_le_bytes());
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, arch);
        for (key, number) in numbers.iter().chain(more) {
            text(&mut bytes, &format!("{arch}.{key}"));
            bytes.extend(4u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        text(&mut bytes, "tokenizer.ggml.tokens");
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(u64::from(tokens).to_le_bytes());
        (0..tokens).for_each(|token| text(&mut bytes, &format!("token{token}")));
        let mut offset = 0u64;
        for (name, shape) in &tensors {
            text(&mut bytes, name);
            bytes.extend(2u32.to_le_bytes());
            shape.iter().for_each(|dimension| bytes.extend(dimension.to_le_bytes()));
            bytes.extend(Q8_0.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset += (shape[0] / BLOCK.0 * BLOCK.1 * shape[1]).next_multiple_of(ALIGNMENT);
        }
        let header = (bytes.len() as u64).next_multiple_of(ALIGNMENT);
        let mut file = File::create(path).unwrap();
        file.write_all(&bytes).unwrap();
        file.set_len(header + offset).unwrap();
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
