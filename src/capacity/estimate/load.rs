//! How an engine is told to run a model, as far as memory depends on it.

use crate::limits::MEMORY_BYTES_MAX;

/// How a model is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Context tokens, shared by all slots.
    pub ctx: u32,
    /// Slots.
    pub parallel: u32,
    /// Tokens that are computed at once.
    pub ubatch: u32,
    /// Attention without a table of all scores; `None`: wherever the engine can.
    pub flash_attn: Option<bool>,
    /// What keys are kept as.
    pub cache_k: CacheType,
    /// What values are kept as.
    pub cache_v: CacheType,
    /// Windowed layers keep all tokens.
    pub swa_full: bool,
    /// One cache for all slots.
    pub kv_unified: bool,
    /// Host memory for earlier prompts, in bytes.
    pub cache_ram_bytes: u64,
    /// States that are kept to return to.
    pub ctx_checkpoints: u32,
}

/// What the numbers of a cache are: so many of them in so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheType {
    block: u64,
    block_bytes: u64,
}

/// Those that llama-server takes (`--cache-type-k`).
const TYPES: [(&str, CacheType); 9] = [
    ("f32", CacheType { block: 1, block_bytes: 4 }),
    ("f16", CacheType::F16),
    ("bf16", CacheType::F16),
    ("q8_0", CacheType { block: 32, block_bytes: 34 }),
    ("q5_1", CacheType { block: 32, block_bytes: 24 }),
    ("q5_0", CacheType { block: 32, block_bytes: 22 }),
    ("q4_1", CacheType { block: 32, block_bytes: 20 }),
    ("q4_0", CacheType { block: 32, block_bytes: 18 }),
    ("iq4_nl", CacheType { block: 32, block_bytes: 18 }),
];

impl CacheType {
    /// 16 bits a number.
    pub const F16: Self = Self { block: 1, block_bytes: 2 };

    /// The type that llama.cpp calls so.
    pub fn named(name: &str) -> Option<Self> {
        TYPES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Whether its numbers have less than 16 bits.
    pub(super) fn is_quantised(self) -> bool {
        self.block > 1
    }

    /// Bytes of so many numbers, in whole blocks.
    pub(super) fn bytes(self, numbers: u64) -> u64 {
        numbers.div_ceil(self.block).saturating_mul(self.block_bytes)
    }
}

impl Load {
    /// As llama.cpp's server does it without further options, and without caches in host memory.
    pub fn new(ctx: u32, parallel: u32) -> Self {
        Self {
            ctx,
            parallel,
            ubatch: 512,
            flash_attn: None,
            cache_k: CacheType::F16,
            cache_v: CacheType::F16,
            swa_full: false,
            kv_unified: false,
            cache_ram_bytes: 0,
            ctx_checkpoints: 0,
        }
    }

    /// Whether attention goes without a table of scores. Left to itself, the usual build for GPUs can do so only
    /// where keys and values are kept alike, as 16 bits, Q8_0 or Q4_0.
    pub(super) fn has_flash_attn(&self, on_cpu: bool) -> bool {
        let usual = [CacheType::F16, TYPES[3].1, TYPES[7].1];
        let can = on_cpu || (self.cache_k == self.cache_v && usual.contains(&self.cache_k));
        self.flash_attn.unwrap_or(can)
    }

    /// Reads llama-server's options that change how much memory it takes, `--name value` or `--name=value`; the
    /// last one counts. What is no such option, or has no value that the server would take, changes nothing.
    #[must_use]
    pub fn with_args<'a>(mut self, args: impl Iterator<Item = &'a str>) -> Self {
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let (name, own) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (arg, None),
            };
            match name {
                "--swa-full" => self.swa_full = true,
                "--kv-unified" | "-kvu" => self.kv_unified = true,
                "--no-kv-unified" | "-no-kvu" => self.kv_unified = false,
                _ => {
                    if let Some(value) = own.or_else(|| args.peek().copied()) {
                        self.set(name, value);
                    }
                }
            }
        }
        self
    }

    /// Reads the variables that stand for the same options (`LLAMA_ARG_…`); the last one counts, and an option
    /// goes before its variable.
    #[must_use]
    pub fn with_env<'a>(mut self, env: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        for (name, value) in env {
            let Some(name) = name.strip_prefix("LLAMA_ARG_") else { continue };
            let is_on = !matches!(value, "off" | "0" | "false" | "disabled");
            match name {
                "SWA_FULL" => self.swa_full = is_on,
                "KV_UNIFIED" => self.kv_unified = is_on,
                "UBATCH" => self.set("--ubatch-size", value),
                "FLASH_ATTN" => self.set("--flash-attn", value),
                "CACHE_TYPE_K" => self.set("--cache-type-k", value),
                "CACHE_TYPE_V" => self.set("--cache-type-v", value),
                "CACHE_RAM" => self.set("--cache-ram", value),
                "CTX_CHECKPOINTS" => self.set("--ctx-checkpoints", value),
                _ => {}
            }
        }
        self
    }

    fn set(&mut self, name: &str, value: &str) {
        match name {
            "--ubatch-size" | "-ub" => {
                if let Some(tokens) = value.parse().ok().filter(|tokens| *tokens > 0) {
                    self.ubatch = tokens;
                }
            }
            "--flash-attn" | "-fa" => match value {
                "on" | "1" | "true" | "enabled" => self.flash_attn = Some(true),
                "off" | "0" | "false" | "disabled" => self.flash_attn = Some(false),
                "auto" | "-1" => self.flash_attn = None,
                _ => {}
            },
            "--cache-type-k" | "-ctk" => self.cache_k = CacheType::named(value).unwrap_or(self.cache_k),
            "--cache-type-v" | "-ctv" => self.cache_v = CacheType::named(value).unwrap_or(self.cache_v),
            "--cache-ram" | "-cram" => match value.parse::<i64>() {
                // No bound at all.
                Ok(mib) if mib < 0 => self.cache_ram_bytes = MEMORY_BYTES_MAX,
                Ok(mib) => {
                    self.cache_ram_bytes = mib.unsigned_abs().saturating_mul(1 << 20).min(MEMORY_BYTES_MAX)
                }
                Err(_) => {}
            },
            "--ctx-checkpoints" | "--swa-checkpoints" | "-ctxcp" => {
                self.ctx_checkpoints = value.parse().unwrap_or(self.ctx_checkpoints);
            }
            _ => {}
        }
    }
}
