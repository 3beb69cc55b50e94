//! What each layer of an architecture keeps and computes.

use super::{Attention, Fault, Keys, Layer};
use crate::limits::MODEL_LAYERS_MAX;

/// Every how many layers one sees all tokens, the others a window, where the metadata do not say it.
const PATTERNS: [(&str, usize); 11] = [
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gemma-embedding", 6),
    ("cohere2", 4),
    ("exaone4", 4),
    ("exaone-moe", 4),
    ("gpt-oss", 2),
    ("llama4", 4),
    ("olmo2", 4),
    ("smallthinker", 4),
];

/// Llama 4 attends in chunks of so many tokens and does not say so.
const LLAMA4_CHUNK: u64 = 8192;

/// Gemma 3n's first layers keep a cache that all later ones use.
const GEMMA3N_CACHED: usize = 20;

/// The layers, and what every one of them holds for each token beside them.
pub(super) fn of(arch: &str, keys: &Keys<'_>) -> Result<(Vec<Layer>, u64), Fault> {
    let count = keys.needed("block_count")?;
    if count > MODEL_LAYERS_MAX {
        return Err(Fault::Absurd("block_count"));
    }
    let count = usize::try_from(count).unwrap_or(1);
    let embd = keys.needed("embedding_length")?;
    let feed = keys.each("feed_forward_length", count)?;
    let heads = keys.each("attention.head_count", count)?;
    let kept = if keys.has("attention.head_count_kv") {
        keys.each("attention.head_count_kv", count)?
    } else {
        heads.clone()
    };
    let most_heads = heads.iter().copied().max().unwrap_or(0).max(1);
    let or = |number: u64, other: u64| if number == 0 { other } else { number };
    let key = or(keys.number("attention.key_length")?, embd / most_heads);
    let value = or(keys.number("attention.value_length")?, embd / most_heads);
    let mixture = Mixture::read(keys, &feed)?;
    let latent = Latent::read(keys)?;
    let recurrence = Recurrence::read(keys, embd, most_heads)?;
    let windows = Windows::read(arch, keys, count)?;
    let interval = or(keys.number("full_attention_interval")?, 4) as usize;

    let layers = (0..count).map(|at| {
        let (attends, recurs) = match arch {
            "mamba" | "mamba2" | "rwkv6" | "rwkv6qwen2" | "rwkv7" | "arwkv7" => (false, true),
            "jamba" | "granitehybrid" | "lfm2" | "lfm2moe" | "plamo2" | "kimi-linear" => {
                (kept[at] > 0, kept[at] == 0)
            }
            "nemotron_h" | "nemotron_h_moe" => (kept[at] > 0, kept[at] == 0 && feed[at] == 0),
            "qwen3next" | "qwen35" | "qwen35moe" => ((at + 1) % interval == 0, (at + 1) % interval != 0),
            "gemma3n" => (at < GEMMA3N_CACHED, false),
            // Falcon-H1 has both in each layer; what is not known may have.
            _ => (true, recurrence.is_some()),
        };
        let attention = attends.then(|| {
            let (heads, kept) = (or(heads[at], most_heads), or(kept[at], 1));
            latent.attention(heads, kept, key, value, windows.is_windowed(at))
        });
        let recurrence = recurrence.as_ref().filter(|_| recurs);
        let feed = [3 * feed[at], mixture.width(embd), recurrence.map_or(0, |r| r.width(embd, feed[at]))];
        let width = feed.into_iter().max().unwrap_or(0);
        Layer { attention, state: recurrence.map_or(0, |recurrence| recurrence.state()), width }
    });
    let layers = layers.collect();
    // Gemma 3n runs four streams at once, and embeds each token for each layer.
    let per_layer = keys.number("embedding_length_per_layer_input")?;
    let extra = if per_layer > 0 { 10 * embd + 2 * count as u64 * per_layer } else { 0 };
    Ok((layers, extra))
}

/// Tokens that a windowed layer sees.
pub(super) fn window(arch: &str, keys: &Keys<'_>) -> Result<u64, Fault> {
    // One of its kin says that it has none.
    if arch == "llama4" && !keys.has("attention.sliding_window") {
        return Ok(LLAMA4_CHUNK);
    }
    keys.number("attention.sliding_window")
}

struct Windows {
    each: Option<Vec<u64>>,
    pattern: Option<usize>,
}

impl Windows {
    fn read(arch: &str, keys: &Keys<'_>, layers: usize) -> Result<Self, Fault> {
        let known = PATTERNS.iter().find(|(name, _)| *name == arch).map(|(_, every)| *every);
        // The small models of EXAONE 4 have no windows.
        let has = window(arch, keys)? > 0 && !(arch == "exaone4" && layers != 64);
        let Some(usual) = known.filter(|_| has) else { return Ok(Self { each: None, pattern: None }) };
        let said = usize::try_from(keys.number("attention.sliding_window_pattern")?).unwrap_or(0);
        let each = keys.array("attention.sliding_window_pattern");
        Ok(Self { each, pattern: Some(if said > 0 { said } else { usual }) })
    }

    fn is_windowed(&self, at: usize) -> bool {
        match (&self.each, self.pattern) {
            (Some(each), Some(_)) => each.get(at).is_some_and(|windowed| *windowed != 0),
            (None, Some(every)) => at % every + 1 < every,
            (_, None) => false,
        }
    }
}

/// Experts of a mixture.
struct Mixture {
    used: u64,
    feed: u64,
    shared: u64,
}

impl Mixture {
    fn read(keys: &Keys<'_>, feed: &[u64]) -> Result<Self, Fault> {
        let used = keys.number("expert_used_count")?;
        let own = keys.number("expert_feed_forward_length")?;
        let feed = if own > 0 { own } else { feed.iter().copied().max().unwrap_or(0) };
        let shared = keys.number("expert_shared_feed_forward_length")?;
        let shared = shared.max(feed.saturating_mul(keys.number("expert_shared_count")?));
        Ok(Self { used, feed, shared })
    }

    fn width(&self, embd: u64) -> u64 {
        let routed = self.used.saturating_mul(3 * self.feed + embd);
        if self.used == 0 { 0 } else { routed.max(self.shared.saturating_mul(3)) }
    }
}

/// Multi-head latent attention: the cache keeps a compressed vector in place of keys and values.
struct Latent {
    rank: u64,
    rope: u64,
    key: u64,
    /// Kept beside it by those that look up which tokens matter.
    index: u64,
}

impl Latent {
    fn read(keys: &Keys<'_>) -> Result<Self, Fault> {
        Ok(Self {
            rank: keys.number("attention.kv_lora_rank")?,
            rope: keys.number("rope.dimension_count")?,
            key: keys.number("attention.key_length_mla")?,
            index: keys.number("attention.indexer.key_length")?,
        })
    }

    fn attention(&self, heads: u64, kept: u64, key: u64, value: u64, windowed: bool) -> Attention {
        let spread = heads.saturating_mul(2 * key + value);
        let plain = spread.saturating_add(kept.saturating_mul(2 * (key + value)));
        if self.rank == 0 {
            let (key, value) = (kept.saturating_mul(key), kept.saturating_mul(value));
            return Attention { windowed, heads, key, value, width: plain };
        }
        let compressed = 2 * (self.rank + self.rope);
        let own = if self.key > 0 { self.key } else { key };
        let width = heads.saturating_mul(compressed + own + self.rope);
        if self.key > 0 {
            return Attention { windowed, heads, key: self.rank + self.rope + self.index, value: 0, width };
        }
        let (key, value) = (kept.saturating_mul(key), kept.saturating_mul(value));
        Attention { windowed, heads, key, value, width: width.max(plain) }
    }
}

/// What a recurrent layer keeps for each slot.
enum Recurrence {
    /// State-space models: Mamba, Mamba 2 and what is built on them.
    Ssm { conv: u64, inner: u64, state: u64, rank: u64, groups: u64 },
    /// RWKV: heads of this size.
    Wkv { embd: u64, head: u64 },
    /// Short convolutions over so many tokens (LFM2).
    Conv { embd: u64, tokens: u64 },
    /// Kimi's delta attention.
    Delta { conv: u64, heads: u64, head: u64 },
}

impl Recurrence {
    fn read(keys: &Keys<'_>, embd: u64, heads: u64) -> Result<Option<Self>, Fault> {
        let (wkv, tokens) = (keys.number("wkv.head_size")?, keys.number("shortconv.l_cache")?);
        let (delta, conv) = (keys.number("kda.head_dim")?, keys.number("ssm.conv_kernel")?);
        let inner = keys.number("ssm.inner_size")?;
        Ok(if wkv > 0 {
            Some(Self::Wkv { embd, head: wkv })
        } else if tokens > 0 {
            Some(Self::Conv { embd, tokens })
        } else if delta > 0 {
            Some(Self::Delta { conv: if conv > 0 { conv } else { 4 }, heads, head: delta })
        } else if inner > 0 {
            let (state, rank) = (keys.number("ssm.state_size")?, keys.number("ssm.time_step_rank")?);
            Some(Self::Ssm { conv, inner, state, rank, groups: keys.number("ssm.group_count")? })
        } else {
            None
        })
    }

    /// Numbers of 32 bits a slot.
    fn state(&self) -> u64 {
        match *self {
            Self::Ssm { conv, inner, state, groups, .. } => {
                let mixed = inner.saturating_add(groups.saturating_mul(2 * state));
                conv.saturating_sub(1).saturating_mul(mixed).saturating_add(state.saturating_mul(inner))
            }
            Self::Wkv { embd, head } => embd.saturating_mul(2 + head),
            Self::Conv { embd, tokens } => embd.saturating_mul(tokens - 1),
            Self::Delta { conv, heads, head } => {
                let inner = heads.saturating_mul(head);
                inner.saturating_mul(3 * (conv - 1)).saturating_add(inner.saturating_mul(head))
            }
        }
    }

    /// Numbers held for each token of a batch.
    fn width(&self, embd: u64, feed: u64) -> u64 {
        match *self {
            Self::Ssm { inner, state, rank, groups, .. } => {
                let beside = groups.saturating_mul(2 * state);
                (7 * inner + rank).saturating_add(beside.saturating_mul(3))
            }
            Self::Wkv { .. } => (3 * feed + 4 * embd).max(14 * embd),
            Self::Conv { .. } => 6 * embd,
            Self::Delta { heads, head, .. } => heads.saturating_mul(12 * head),
        }
    }
}
