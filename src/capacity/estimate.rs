//! How much memory a worker takes, before it is launched.
//!
//! The formulas are those by which llama.cpp allocates (`src/llama-kv-cache.cpp`, `src/llama-context.cpp`), with
//! the widths of a layer's steps fitted from above to what its server was seen to allocate for 37 architectures;
//! `tests/accuracy.rs` compares again. Where an engine is not known, it is taken to be like llama.cpp;
//! safetensors are taken to be run by vLLM.

use super::model::{Format, Layer, Model};
use crate::id::Backend;
use crate::limits::CTX_MAX;

mod load;

pub use load::{CacheType, Load};

const MIB: u64 = 1 << 20;

/// What a worker takes, by what for; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breakdown {
    /// The model's tensors.
    pub weights: u64,
    /// The KV cache, and the state of recurrent layers.
    pub kv_cache: u64,
    /// Compute and output buffers.
    pub compute: u64,
    /// What the engine and its backend take whatever the model.
    pub constant: u64,
}

impl Breakdown {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.compute).saturating_add(self.constant)
    }
}

/// What a worker with `model` takes of its device, or of all `devices` GPUs that it is split over.
pub fn estimate(model: &Model, load: &Load, backend: Backend, devices: u32) -> Breakdown {
    let cells = Cells::of(model, load);
    let devices = u64::from(devices.max(1));
    let on_cpu = backend == Backend::Cpu;
    let weights = if on_cpu {
        model.weights_bytes.saturating_add(model.repacked_bytes)
    } else {
        model.weights_bytes.saturating_sub(model.embedding_bytes)
    };
    let compute = match model.format {
        Format::Gguf => compute(model, load, &cells, load.has_flash_attn(on_cpu) && model.has_flash_attn),
        Format::Safetensors { number_bytes } => profiled(model, load, number_bytes),
    };
    let compute = compute.saturating_add(if on_cpu { 0 } else { unpacked(model, load, &cells) });
    Breakdown {
        weights,
        kv_cache: kv_cache(model, load, &cells),
        compute: compute.saturating_mul(devices),
        constant: constant(model, backend).saturating_mul(devices).saturating_add(if on_cpu {
            host_caches(model, load, &cells)
        } else {
            0
        }),
    }
}

/// What a worker on GPUs takes of the memory of the cpu: what its engine was told to keep there. On the cpu that
/// is part of its [`estimate`].
pub fn host_bytes(model: &Model, load: &Load, backend: Backend) -> u64 {
    if backend == Backend::Cpu { 0 } else { host_caches(model, load, &Cells::of(model, load)) }
}

/// The longest context with which a worker takes at most `bytes`: a multiple of 256 tokens for each slot, at
/// most what the model was trained for. `None` if not even the shortest fits.
pub fn max_ctx(model: &Model, load: &Load, backend: Backend, devices: u32, bytes: u64) -> Option<u32> {
    let step = load.parallel.max(1).checked_mul(Cells::PAD)?;
    let most = model.trained_ctx.unwrap_or(CTX_MAX).min(CTX_MAX) / step;
    let fits = |steps: u32| {
        let load = Load { ctx: steps * step, ..load.clone() };
        estimate(model, &load, backend, devices).total() <= bytes
    };
    // More context never takes less.
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (low > 0).then_some(low * step)
}

/// Places for tokens in the cache.
struct Cells {
    /// Of each stream, in layers that see all tokens. llama.cpp rounds up before it divides, and again.
    full: u64,
    /// Of each stream, in windowed layers.
    windowed: u64,
    /// Caches beside each other: one a slot, or one for all.
    streams: u64,
}

impl Cells {
    const PAD: u32 = 256;

    fn of(model: &Model, load: &Load) -> Self {
        let (ctx, parallel) = (u64::from(load.ctx), u64::from(load.parallel.max(1)));
        let pad = |tokens: u64| tokens.max(1).next_multiple_of(u64::from(Self::PAD));
        let (full, streams) =
            if load.kv_unified { (pad(ctx), 1) } else { (pad(pad(ctx) / parallel), parallel) };
        let sequences = if load.kv_unified { parallel } else { 1 };
        let seen = model.window.saturating_mul(sequences).saturating_add(u64::from(load.ubatch));
        let windowed = if load.swa_full { full } else { full.min(pad(seen)) };
        Self { full, windowed, streams }
    }

    fn of_layer(&self, windowed: bool) -> u64 {
        if windowed { self.windowed } else { self.full }
    }
}

fn kv_cache(model: &Model, load: &Load, cells: &Cells) -> u64 {
    let of = |layer: &Layer| layer_cache(model, load, cells, layer).saturating_add(states(layer, load));
    sum(model.layers.iter().map(of))
}

/// Bytes of what attention keeps in a layer, for all slots.
fn layer_cache(model: &Model, load: &Load, cells: &Cells, layer: &Layer) -> u64 {
    let Some(attention) = layer.attention else { return 0 };
    let token = match model.format {
        Format::Gguf => load.cache_k.bytes(attention.key).saturating_add(load.cache_v.bytes(attention.value)),
        Format::Safetensors { number_bytes } => {
            attention.key.saturating_add(attention.value).saturating_mul(number_bytes)
        }
    };
    token.saturating_mul(cells.of_layer(attention.windowed)).saturating_mul(cells.streams)
}

/// Bytes of a recurrent layer's state: numbers of 32 bits, for each slot.
fn states(layer: &Layer, load: &Load) -> u64 {
    layer.state.saturating_mul(4).saturating_mul(u64::from(load.parallel.max(1)))
}

/// llama.cpp's buffers for a batch: the widest step of any layer, a mask for each kind of cache, the states
/// that are gathered for a batch, and a row of the vocabulary for each slot.
fn compute(model: &Model, load: &Load, cells: &Cells, flash: bool) -> u64 {
    let tokens = u64::from(load.ubatch).min(cells.full.saturating_mul(if load.kv_unified {
        1
    } else {
        cells.streams
    }));
    let width = |layer: &Layer| {
        let attention = layer.attention.map_or(0, |attention| {
            // Without flash attention every head has a number for each token and cell.
            let scores =
                if flash { 0 } else { attention.heads.saturating_mul(cells.of_layer(attention.windowed)) };
            attention.width.saturating_add(scores)
        });
        attention.max(layer.width)
    };
    let widest = model.layers.iter().map(width).max().unwrap_or(0);
    let of_kind = |windowed: bool| {
        let used = model.layers.iter().any(|layer| layer.attention.is_some_and(|a| a.windowed == windowed));
        if used { cells.of_layer(windowed) } else { 0 }
    };
    // 16 bits a cell; without flash attention 32 as well.
    let mask = if flash { 2 } else { 6 };
    let masks = of_kind(false).saturating_add(of_kind(true)).saturating_mul(mask);
    let batch =
        widest.saturating_add(model.width).saturating_mul(4).saturating_add(masks).saturating_mul(tokens);
    let gathered = model.layers.iter().map(|layer| states(layer, load)).max().unwrap_or(0).saturating_mul(4);
    let output = u64::from(load.parallel.max(1)).saturating_mul(model.vocab).saturating_mul(4);
    let all = batch.saturating_add(gathered).saturating_add(output);
    // Odds and ends: positions, indices, alignment.
    all.saturating_add(all / 50).saturating_add(4 * MIB)
}

/// A layer's cache in 16 bits: what GPUs attend with where it is kept in fewer.
fn unpacked(model: &Model, load: &Load, cells: &Cells) -> u64 {
    if !(load.cache_k.is_quantised() || load.cache_v.is_quantised()) {
        return 0;
    }
    let plain = Load { cache_k: CacheType::F16, cache_v: CacheType::F16, ..load.clone() };
    model.layers.iter().map(|layer| layer_cache(model, &plain, cells, layer)).max().unwrap_or(0)
}

/// What vLLM finds in its profiling run: the widest step for the tokens that it takes at once (8192 where it
/// serves, `max_num_batched_tokens`), and twice a row of the vocabulary for each sequence.
fn profiled(model: &Model, load: &Load, number_bytes: u64) -> u64 {
    const TOKENS: u64 = 8192;
    let widest = model.layers.iter().map(|layer| layer.width).max().unwrap_or(0).saturating_add(model.width);
    let output = u64::from(load.parallel.max(1)).saturating_mul(model.vocab).saturating_mul(8);
    widest.saturating_mul(TOKENS).saturating_mul(number_bytes).saturating_add(output)
}

/// What an engine takes of a device whatever the model.
fn constant(model: &Model, backend: Backend) -> u64 {
    match (backend, model.format) {
        // The process itself, and what it keeps of each token's text: 470 to 660 bytes a token were measured at
        // the peak of loading, with 8192 to 262 144 tokens.
        (Backend::Cpu, Format::Gguf) => (32 * MIB).saturating_add(model.vocab.saturating_mul(640)),
        // A Python process with PyTorch.
        (Backend::Cpu, Format::Safetensors { .. }) => 1024 * MIB,
        // Context, kernels and libraries. Ollama has 457 MiB for CUDA and ROCm (discover/gpu.go).
        (_, Format::Gguf) => 512 * MIB,
        // The same with PyTorch's allocator, NCCL and captured graphs.
        (_, Format::Safetensors { .. }) => 1536 * MIB,
    }
}

/// Host memory that llama.cpp's server is told to keep: earlier prompts, and states to return to.
fn host_caches(model: &Model, load: &Load, cells: &Cells) -> u64 {
    // A checkpoint holds what cannot be cut back: states, and what windowed layers have seen last.
    let windowed =
        model.layers.iter().filter(|layer| layer.attention.is_some_and(|a| a.windowed && model.window > 0));
    let kept = sum(windowed.map(|layer| layer_cache(model, load, cells, layer)));
    let state = sum(model.layers.iter().map(|layer| states(layer, load))).saturating_add(kept);
    let checkpoints = state.saturating_mul(u64::from(load.ctx_checkpoints));
    load.cache_ram_bytes.saturating_add(checkpoints)
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
