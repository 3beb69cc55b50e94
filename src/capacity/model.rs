//! What of a model decides how much memory it takes: its weights, and for each layer what it keeps of a token
//! and how wide its steps are.
//!
//! Keys are those of the GGUF format; what each architecture makes of them is llama.cpp's doing
//! (`src/llama-hparams.cpp`, `src/llama-model.cpp`, `src/models/`), and was checked against what its server
//! allocates (`tests/accuracy.rs`). An architecture that is not known here is taken to keep all that its keys
//! allow: a full cache in each layer, and a recurrent state beside it if it has the keys of one.

use std::fmt;

use super::config_json::Config;
use super::gguf::{Header, TensorType};
use crate::limits::{MODEL_LAYERS_MAX, MODEL_NUMBER_MAX};

mod layers;

/// A model, as far as memory is concerned. All sizes are numbers, not bytes, unless they say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Bytes of all tensors.
    pub(super) weights_bytes: u64,
    /// Bytes of the input embedding, if it is not the output matrix too: it stays in the host's memory.
    pub(super) embedding_bytes: u64,
    /// Bytes of matrices that llama.cpp keeps a second time, repacked, on a processor.
    pub(super) repacked_bytes: u64,
    pub(super) trained_ctx: Option<u32>,
    pub(super) vocab: u64,
    /// Numbers that every layer holds for each token of a batch.
    pub(super) width: u64,
    /// Tokens that a windowed layer sees.
    pub(super) window: u64,
    pub(super) layers: Vec<Layer>,
    /// llama.cpp has attention without a table of scores for it.
    pub(super) has_flash_attn: bool,
    pub(super) format: Format,
}

/// Who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// llama.cpp, or an engine that is taken to be like it.
    Gguf,
    /// vLLM; so many bytes a number of the cache.
    Safetensors { number_bytes: u64 },
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Layer {
    pub attention: Option<Attention>,
    /// Kept for each slot, whatever the context.
    pub state: u64,
    /// Held for each token of a batch in its widest step beside attention.
    pub width: u64,
}

/// What a layer keeps of each token, and how wide attention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attention {
    pub windowed: bool,
    pub heads: u64,
    pub key: u64,
    pub value: u64,
    /// Held for each token of a batch.
    pub width: u64,
}

/// Why headers that are well formed are no model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A key that every model has is not there.
    Missing(&'static str),
    /// A number that no model has.
    Absurd(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "the model does not say its {key}"),
            Self::Absurd(key) => write!(f, "the model's {key} is one that no model has"),
        }
    }
}

impl std::error::Error for Fault {}

impl Model {
    /// The model of a GGUF: the headers of all its shards, the first one first, which has the metadata.
    ///
    /// # Errors
    /// If the metadata lack what every language model has, or have numbers that none has.
    pub fn from_gguf(shards: &[Header]) -> Result<Self, Fault> {
        let first = shards.first().ok_or(Fault::Missing("general.architecture"))?;
        let keys = Keys { header: first, arch: first.text("general.architecture") };
        let arch = keys.arch.ok_or(Fault::Missing("general.architecture"))?;
        let tensors = || shards.iter().flat_map(|shard| &shard.tensors);
        let sum = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        let embedding = tensors().find(|tensor| tensor.name == "token_embd.weight");
        let is_tied = !tensors().any(|tensor| tensor.name == "output.weight");
        let vocab = [
            keys.number("vocab_size")?,
            first.array_len("tokenizer.ggml.tokens").unwrap_or(0).min(MODEL_NUMBER_MAX),
            embedding.and_then(|tensor| tensor.shape.get(1).copied()).unwrap_or(0).min(MODEL_NUMBER_MAX),
        ];
        let (layers, extra) = layers::of(arch, &keys)?;
        let embd = keys.needed("embedding_length")?;
        Ok(Self {
            weights_bytes: sum(&mut tensors().map(|tensor| tensor.bytes)),
            embedding_bytes: if is_tied { 0 } else { embedding.map_or(0, |tensor| tensor.bytes) },
            repacked_bytes: sum(&mut tensors()
                .filter(|tensor| is_repacked(tensor.kind) && tensor.shape.len() > 1)
                .filter(|tensor| is_tied || tensor.name != "token_embd.weight")
                .map(|tensor| tensor.bytes)),
            trained_ctx: u32::try_from(keys.number("context_length")?).ok().filter(|ctx| *ctx > 0),
            vocab: vocab.into_iter().max().unwrap_or(0),
            width: 6 * embd + extra,
            window: layers::window(arch, &keys)?,
            layers,
            has_flash_attn: arch != "grok",
            format: Format::Gguf,
        })
    }

    /// The model of a safetensors repository: the bytes of all its tensors, and its configuration.
    ///
    /// # Errors
    /// If the configuration lacks what every language model has, or has numbers that none has.
    pub fn from_safetensors(weights_bytes: u64, config: &Config) -> Result<Self, Fault> {
        let sane = |number: Option<u64>, key: &'static str| match number {
            Some(number) if number > MODEL_NUMBER_MAX => Err(Fault::Absurd(key)),
            number => Ok(number),
        };
        let needed = |number: Option<u64>, key: &'static str| {
            sane(number, key)?.filter(|number| *number > 0).ok_or(Fault::Missing(key))
        };
        let count = needed(config.num_hidden_layers, "num_hidden_layers")?;
        if count > MODEL_LAYERS_MAX {
            return Err(Fault::Absurd("num_hidden_layers"));
        }
        let hidden = needed(config.hidden_size, "hidden_size")?;
        let heads = sane(config.num_attention_heads, "num_attention_heads")?.unwrap_or(1).max(1);
        let kept = sane(config.num_key_value_heads, "num_key_value_heads")?.unwrap_or(heads);
        let head = sane(config.head_dim, "head_dim")?.unwrap_or(hidden / heads);
        let rank = sane(config.kv_lora_rank, "kv_lora_rank")?.unwrap_or(0);
        let rope = sane(config.qk_rope_head_dim, "qk_rope_head_dim")?.unwrap_or(0);
        let (key, value) = if rank > 0 { (rank + rope, 0) } else { (kept * head, kept * head) };
        let attention = Attention { windowed: false, heads, key, value, width: 3 * heads * head };
        // The gated feed-forward network is about four times as wide as the model.
        let layer = Layer { attention: Some(attention), state: 0, width: 12 * hidden };
        let number_bytes = if config.dtype.as_deref() == Some("float32") { 4 } else { 2 };
        Ok(Self {
            weights_bytes,
            embedding_bytes: 0,
            repacked_bytes: 0,
            trained_ctx: config.max_position_embeddings.and_then(|ctx| u32::try_from(ctx).ok()),
            vocab: sane(config.vocab_size, "vocab_size")?.unwrap_or(0),
            width: 6 * hidden,
            window: 0,
            layers: vec![layer; usize::try_from(count).unwrap_or(1)],
            has_flash_attn: true,
            format: Format::Safetensors { number_bytes },
        })
    }

    /// Bytes of all its tensors.
    pub fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// The context that it was trained for, in tokens, if it says so.
    pub fn trained_ctx(&self) -> Option<u32> {
        self.trained_ctx
    }
}

/// Types whose matrices llama.cpp repacks on x86 or ARM (`ggml/src/ggml-cpu/repack.cpp`): there is a second copy
/// beside the mapped file.
fn is_repacked(kind: TensorType) -> bool {
    let arm = cfg!(target_arch = "aarch64");
    match kind.name() {
        "q4_0" | "q4_K" | "q2_K" | "iq4_nl" | "mxfp4" => true,
        "q8_0" | "q5_K" | "q6_K" => arm,
        _ => false,
    }
}

/// The metadata of an architecture, by the part of the key behind its name.
struct Keys<'a> {
    header: &'a Header,
    arch: Option<&'a str>,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.unwrap_or_default())
    }

    /// A number; 0 if it is not there.
    fn number(&self, key: &'static str) -> Result<u64, Fault> {
        match self.header.number(&self.full(key)) {
            Some(number) if number > MODEL_NUMBER_MAX => Err(Fault::Absurd(key)),
            number => Ok(number.unwrap_or(0)),
        }
    }

    /// A number that must be there.
    fn needed(&self, key: &'static str) -> Result<u64, Fault> {
        match self.number(key)? {
            0 => Err(Fault::Missing(key)),
            number => Ok(number),
        }
    }

    /// A number for each of `count` layers: its own, or the same for all.
    fn each(&self, key: &'static str, count: usize) -> Result<Vec<u64>, Fault> {
        let Some(mut each) = self.header.numbers(&self.full(key)) else {
            return Ok(vec![self.number(key)?; count]);
        };
        if each.iter().any(|number| *number > MODEL_NUMBER_MAX) {
            return Err(Fault::Absurd(key));
        }
        // Who says it for fewer layers means at most the largest for the others.
        let most = each.iter().copied().max().unwrap_or(0);
        each.resize(count, most);
        Ok(each)
    }

    fn has(&self, key: &str) -> bool {
        let key = self.full(key);
        self.header.number(&key).is_some() || self.header.numbers(&key).is_some()
    }

    /// Flags or numbers for each layer, if they are there as an array.
    fn array(&self, key: &str) -> Option<Vec<u64>> {
        self.header.numbers(&self.full(key))
    }
}
