//! A model's `config.json`, as far as memory depends on it.
//!
//! The format is that of Hugging Face's transformers: each architecture writes what it needs, and nothing has to be
//! there. A field of an unexpected form is taken for absent: what it means is for the engine to say.

use std::fmt;
use std::io::{self, Read};

use serde_json::{Map, Value};

use crate::limits;

/// What the file says of the language model; `None` is what it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Such as `llama` or `qwen3_moe`.
    pub model_type: Option<String>,
    /// The first of the classes that implement it, such as `LlamaForCausalLM`.
    pub architecture: Option<String>,
    /// Numbers that stand for a token between the layers.
    pub hidden_size: Option<u64>,
    /// Layers.
    pub num_hidden_layers: Option<u64>,
    /// Heads that ask.
    pub num_attention_heads: Option<u64>,
    /// Heads that are kept in the cache; where absent, as many as ask.
    pub num_key_value_heads: Option<u64>,
    /// Numbers of a head; where absent, `hidden_size / num_attention_heads`.
    pub head_dim: Option<u64>,
    /// Tokens that a windowed layer sees.
    pub sliding_window: Option<u64>,
    /// Tokens of context that it was made for.
    pub max_position_embeddings: Option<u64>,
    /// Tokens that it knows.
    pub vocab_size: Option<u64>,
    /// Of multi-head latent attention: numbers kept for each token and layer.
    pub kv_lora_rank: Option<u64>,
    /// Of multi-head latent attention: numbers kept beside them for the position.
    pub qk_rope_head_dim: Option<u64>,
    /// Type of the weights and, unless told otherwise, of the cache: `bfloat16`.
    pub dtype: Option<String>,
}

/// Why there is no configuration to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Io(io::ErrorKind),
    /// More than [`limits::CONFIG_JSON_BYTES_MAX`].
    TooLarge,
    /// It is no JSON object.
    Json,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(kind) => write!(f, "config.json cannot be read: {kind}"),
            Self::TooLarge => {
                write!(f, "config.json is larger than {} bytes", limits::CONFIG_JSON_BYTES_MAX)
            }
            Self::Json => f.write_str("config.json is malformed"),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads a whole file. Of a model that takes more than text, what stands under `text_config` goes before what
/// stands beside it.
///
/// # Errors
/// It cannot be read, is too large, or no JSON object.
pub fn read(source: &mut impl Read) -> Result<Config, Fault> {
    let max = limits::CONFIG_JSON_BYTES_MAX;
    let mut json = Vec::new();
    source.take(max + 1).read_to_end(&mut json).map_err(|e| Fault::Io(e.kind()))?;
    if json.len() as u64 > max {
        return Err(Fault::TooLarge);
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| Fault::Json)?;
    if let Some(Value::Object(text)) = fields.remove("text_config") {
        fields.extend(text.into_iter().filter(|(_, value)| !value.is_null()));
    }
    let number = |name: &str| fields.get(name)?.as_u64();
    let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    Ok(Config {
        model_type: text("model_type"),
        architecture: fields.get("architectures").and_then(|all| all.get(0)?.as_str().map(str::to_owned)),
        hidden_size: number("hidden_size"),
        num_hidden_layers: number("num_hidden_layers"),
        num_attention_heads: number("num_attention_heads"),
        num_key_value_heads: number("num_key_value_heads"),
        head_dim: number("head_dim"),
        sliding_window: number("sliding_window"),
        max_position_embeddings: number("max_position_embeddings"),
        vocab_size: number("vocab_size"),
        kv_lora_rank: number("kv_lora_rank"),
        qk_rope_head_dim: number("qk_rope_head_dim"),
        dtype: text("dtype").or_else(|| text("torch_dtype")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Config, Fault> {
        read(&mut json.as_bytes())
    }

    #[test]
    fn a_plain_model_says_its_sizes() {
        let config = of(r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":576,
            "num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,"vocab_size":49152,
            "max_position_embeddings":8192,"torch_dtype":"bfloat16","rope_scaling":null}"#)
        .unwrap();
        assert_eq!(
            config,
            Config {
                model_type: Some("llama".to_owned()),
                architecture: Some("LlamaForCausalLM".to_owned()),
                hidden_size: Some(576),
                num_hidden_layers: Some(30),
                num_attention_heads: Some(9),
                num_key_value_heads: Some(3),
                max_position_embeddings: Some(8192),
                vocab_size: Some(49152),
                dtype: Some("bfloat16".to_owned()),
                ..Config::default()
            }
        );
    }

    #[test]
    fn the_language_model_within_a_larger_one_goes_first() {
        let config = of(r#"{"model_type":"gemma3","dtype":"bfloat16","hidden_size":1,"vocab_size":9,
            "text_config":{"model_type":"gemma3_text","hidden_size":2560,"sliding_window":1024,"vocab_size":null}}"#)
        .unwrap();
        assert_eq!(config.model_type.as_deref(), Some("gemma3_text"));
        assert_eq!((config.hidden_size, config.sliding_window), (Some(2560), Some(1024)));
        assert_eq!((config.vocab_size, config.dtype.as_deref()), (Some(9), Some("bfloat16")));
    }

    #[test]
    fn an_unexpected_form_is_absent() {
        let config = of(r#"{"num_key_value_heads":[1,2],"head_dim":-1,"hidden_size":1.5,"architectures":[],
            "sliding_window":null,"text_config":7,"model_type":{}}"#);
        assert_eq!(config, Ok(Config::default()));
    }

    #[test]
    fn what_is_no_object_or_too_large_is_refused() {
        for json in ["", "[]", "{", "null", "{}{}"] {
            assert_eq!(of(json), Err(Fault::Json), "{json}");
        }
        assert_eq!(of(&"[".repeat(100_000)), Err(Fault::Json));
        assert_eq!(of(&" ".repeat(limits::CONFIG_JSON_BYTES_MAX as usize + 1)), Err(Fault::TooLarge));
    }
}
