use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::capacity::gguf::writer::Writer;
use crate::capacity::gguf::{self, TensorType};
use crate::limits::PARALLEL_MAX;

const GIB: u64 = 1 << 30;

/// What llama.cpp was seen to allocate: see `tests/accuracy/measure.py`, which prints it.
const MEASURED: &str = include_str!("measured.jsonl");

fn with_keys(keys: &Value, writer: Writer) -> Writer {
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    keys.as_object().unwrap().iter().fold(writer, |writer, (key, value)| match value {
        Value::Array(all) => match all.iter().map(number).collect::<Option<Vec<u32>>>() {
            Some(numbers) => writer.numbers(key, &numbers),
            None => writer.flags(key, &all.iter().map(|flag| flag == &Value::Bool(true)).collect::<Vec<_>>()),
        },
        value => match number(value) {
            Some(number) => writer.number(key, number),
            None => writer.float(key, value.as_f64().unwrap() as f32),
        },
    })
}

fn model(writer: &Writer) -> Model {
    let header = gguf::read(&mut writer.header().as_slice()).unwrap();
    Model::from_gguf(&[header]).unwrap()
}

#[test]
fn the_estimate_is_never_below_what_llama_cpp_allocates_and_not_far_above() {
    let mut lines = MEASURED.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (mut now, mut cases) = (None, 0);
    let mut wrong = Vec::new();
    for line in &mut lines {
        if let Some(arch) = line["arch"].as_str() {
            now = Some((line["model"].clone(), model(&with_keys(&line["keys"], Writer::model(arch)))));
            continue;
        }
        let (name, model) = now.as_ref().unwrap();
        let byte = |at: usize| line[at].as_u64().unwrap();
        let (ctx, parallel) = (byte(0) as u32, byte(1) as u32);
        let load = Load::new(ctx, parallel).with_args(line[2].as_str().unwrap().split(' '));
        let estimated = estimate(model, &load, Backend::Cpu, 1);
        // The weights of these files are not in the fixture: they are taken as they were.
        let (real, all) = (byte(4) + byte(5), byte(3) + byte(4) + byte(5));
        let guess = estimated.kv_cache + estimated.compute;
        let slack = (all * 15 / 100).max(64 * MIB);
        if guess < real || guess > real + slack {
            wrong.push(format!("{name} {line}: {guess} for {real}"));
        }
        cases += 1;
    }
    assert!(cases > 1000, "the measurements are gone");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Llama 3.1 70B in Q4_K_M: 42.5 GB, and what it keeps for 4096 tokens.
fn seventy() -> Model {
    let keys = [
        ("block_count", 80),
        ("context_length", 131_072),
        ("embedding_length", 8192),
        ("feed_forward_length", 28_672),
        ("attention.head_count", 64),
        ("attention.head_count_kv", 8),
        ("vocab_size", 128_256),
    ];
    let writer = keys.iter().fold(Writer::model("llama"), |writer, (key, number)| {
        writer.number(&format!("llama.{key}"), *number)
    });
    let rows = 42_500_000_000 / (8192 / 256 * 144);
    let embedding = [8192, 128_256];
    model(
        &writer
            .tensor("token_embd.weight", TensorType::Q4_K, &embedding)
            .tensor("output.weight", TensorType::Q4_K, &embedding)
            .tensor("blk.0.ffn_up.weight", TensorType::Q4_K, &[8192, rows - 2 * 128_256]),
    )
}

#[test]
fn a_large_model_takes_what_its_shape_says() {
    let model = seventy();
    let load = Load::new(4096, 1);
    let on_gpu = estimate(&model, &load, Backend::Cuda, 1);
    // 80 layers of 8 heads of 128 numbers of 2 bytes, twice, for 4096 tokens.
    assert_eq!(on_gpu.kv_cache, 80 * 8 * 128 * 2 * 2 * 4096);
    let embedding = 8192 / 256 * 144 * 128_256;
    assert!((42_490_000_000..42_500_001_000).contains(&(on_gpu.weights + embedding)));
    assert!(on_gpu.total() > 41 * GIB && on_gpu.total() < 44 * GIB, "{on_gpu:?}");
    let on_two = estimate(&model, &load, Backend::Cuda, 2);
    assert_eq!((on_two.weights, on_two.compute), (on_gpu.weights, 2 * on_gpu.compute));
    // 513 tokens are 768, and half of them 512 for each of two.
    let odd = |ctx, parallel| estimate(&model, &Load::new(ctx, parallel), Backend::Cuda, 1).kv_cache;
    assert_eq!((odd(513, 2), odd(2049, 8)), (odd(1024, 1), odd(4096, 1)));
    let scores = load.clone().with_args(["-ctk", "q8_0"].into_iter());
    let compute = |load: &Load| estimate(&model, load, Backend::Cuda, 1).compute;
    assert!(
        compute(&scores) > compute(&load) + 512 * 64 * 4096 * 4 / 2,
        "no kernel for keys and values that differ"
    );
    let quantised = load.clone().with_args(["-ctk", "q8_0", "--cache-type-v=q4_0"].into_iter());
    let bytes = estimate(&model, &quantised, Backend::Cuda, 1).kv_cache;
    assert_eq!(bytes, 80 * 8 * 128 / 32 * (34 + 18) * 4096);
}

#[test]
fn caches_in_host_memory_are_the_cpus_wherever_the_model_is() {
    let (model, load) = (seventy(), Load::new(4096, 1));
    let told = load.clone().with_args(["--cache-ram", "2048", "--ctx-checkpoints", "4"].into_iter());
    let total = |load: &Load, backend| estimate(&model, load, backend, 1).total();
    assert_eq!(total(&told, Backend::Cpu), total(&load, Backend::Cpu) + 2 * GIB);
    assert_eq!(host_bytes(&model, &told, Backend::Cpu), 0, "it is in the estimate");
    assert_eq!(total(&told, Backend::Cuda), total(&load, Backend::Cuda), "no card holds it");
    assert_eq!(host_bytes(&model, &told, Backend::Cuda), 2 * GIB);
    assert_eq!(host_bytes(&model, &load, Backend::Cuda), 0);
    // A model with states keeps those in its checkpoints.
    let states = with_keys(
        &serde_json::json!({
            "mamba2.block_count": 2, "mamba2.embedding_length": 64, "mamba2.context_length": 4096,
            "mamba2.ssm.conv_kernel": 4, "mamba2.ssm.inner_size": 128, "mamba2.ssm.state_size": 16,
            "mamba2.ssm.group_count": 1, "mamba2.ssm.time_step_rank": 4, "mamba2.vocab_size": 256,
        }),
        Writer::model("mamba2"),
    );
    let states = self::model(&states);
    let one = host_bytes(&states, &load.clone().with_args(["-ctxcp", "1"].into_iter()), Backend::Cuda);
    assert!(one > 0);
    assert_eq!(host_bytes(&states, &load.with_args(["-ctxcp", "8"].into_iter()), Backend::Cuda), 8 * one);
}

#[test]
fn the_longest_context_that_fits_fits_and_the_next_one_does_not() {
    let (model, load) = (seventy(), Load::new(4096, 4));
    let fits = |ctx: u32, bytes: u64| {
        estimate(&model, &Load { ctx, ..load.clone() }, Backend::Cuda, 1).total() <= bytes
    };
    for bytes in [43 * GIB, 48 * GIB, 60 * GIB] {
        let ctx = max_ctx(&model, &load, Backend::Cuda, 1, bytes).unwrap();
        assert!(ctx.is_multiple_of(1024) && fits(ctx, bytes) && !fits(ctx + 1024, bytes), "{ctx}");
    }
    assert_eq!(max_ctx(&model, &load, Backend::Cuda, 1, 24 * GIB), None);
    assert_eq!(max_ctx(&model, &load, Backend::Cuda, 1, u64::MAX), Some(131_072), "what it was trained for");
}

#[test]
fn options_that_take_more_or_less_are_read_as_the_server_reads_them() {
    let load = |args: &str| Load::new(1, 1).with_args(args.split(' '));
    assert_eq!(load("--flash-attn disabled").flash_attn, Some(false));
    assert_eq!(load("-fa off --flash-attn=auto"), load(""));
    assert_eq!(load("--ubatch-size=2048").ubatch, 2048);
    assert_eq!(load("--ubatch-size 0 -ub x --cache-type-k nonsense --threads 4 -ctk"), load(""));
    assert_eq!(load("--cache-ram 512").cache_ram_bytes, 512 * MIB);
    assert!(load("--cache-ram -1").cache_ram_bytes > 1 << 40, "no bound");
    assert!(load("--kv-unified").kv_unified && !load("--kv-unified --no-kv-unified").kv_unified);
    let env = [("LLAMA_ARG_UBATCH", "1024"), ("LLAMA_ARG_FLASH_ATTN", "off"), ("PATH", "/bin")];
    let by_env = Load::new(1, 1).with_env(env.into_iter()).with_args(["-fa", "auto"].into_iter());
    assert_eq!(by_env, load("--ubatch-size 1024"), "an option goes before its variable");
    assert!(load("--swa-full --ctx-checkpoints 3").swa_full);
}

#[test]
fn a_model_that_says_nothing_of_itself_is_none() {
    let read = |writer: Writer| {
        let header = gguf::read(&mut writer.header().as_slice()).unwrap();
        Model::from_gguf(&[header]).map_err(|fault| fault.to_string())
    };
    assert_eq!(read(Writer::new()), Err("the model does not say its general.architecture".to_owned()));
    assert_eq!(read(Writer::model("llama")), Err("the model does not say its block_count".to_owned()));
    let huge = Writer::model("llama").number("llama.block_count", u32::MAX);
    assert_eq!(read(huge), Err("the model's block_count is one that no model has".to_owned()));
    // An architecture that is not known keeps whatever its keys allow.
    let unknown = |writer: Writer| {
        writer
            .number("new.block_count", 4)
            .number("new.embedding_length", 512)
            .number("new.attention.head_count", 8)
    };
    let bytes = |writer: Writer| {
        estimate(&read(unknown(writer)).unwrap(), &Load::new(1024, 1), Backend::Cpu, 1).kv_cache
    };
    assert_eq!(bytes(Writer::model("new")), 4 * 2 * 512 * 2 * 1024);
    let recurrent = Writer::model("new").number("new.ssm.inner_size", 64).number("new.ssm.state_size", 16);
    assert_eq!(bytes(recurrent), 4 * 2 * 512 * 2 * 1024 + 4 * 64 * 16 * 4);
}

proptest! {
    #[test]
    fn more_of_anything_never_takes_less_and_nothing_overflows(
        numbers in prop::collection::vec(any::<u32>(), 24),
        ctx in 1..CTX_MAX,
        parallel in 1..PARALLEL_MAX,
        arch in prop::sample::select(vec!["llama", "gemma3", "deepseek2", "mamba2", "jamba", "falcon-h1", "rwkv7", "x"]),
    ) {
        const KEYS: [&str; 24] = [
            "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
            "attention.key_length", "attention.value_length", "attention.sliding_window", "expert_used_count",
            "expert_feed_forward_length", "attention.kv_lora_rank", "rope.dimension_count",
            "attention.key_length_mla", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size",
            "ssm.time_step_rank", "ssm.group_count", "wkv.head_size", "shortconv.l_cache", "kda.head_dim",
            "vocab_size", "context_length", "full_attention_interval", "attention.sliding_window_pattern",
        ];
        let mut writer = Writer::model(arch).number(&format!("{arch}.block_count"), 1 + numbers[0] % 4096);
        for (key, number) in KEYS.iter().zip(&numbers) {
            // Small numbers, none, and all that a key can hold.
            let number = match number % 4 { 0 => 0, 1 => number % 64, 2 => number % (1 << 28), _ => *number };
            writer = writer.number(&format!("{arch}.{key}"), number);
        }
        let header = gguf::read(&mut writer.header().as_slice()).unwrap();
        if let Ok(model) = Model::from_gguf(&[header]) {
            let total = |ctx, parallel| estimate(&model, &Load::new(ctx, parallel), Backend::Cuda, 1).total();
            prop_assert!(total(ctx, parallel) <= total(ctx.saturating_mul(2), parallel));
            prop_assert!(total(ctx, 1) <= total(ctx, 1).max(total(ctx, parallel)));
            let _ = max_ctx(&model, &Load::new(ctx, parallel), Backend::Cpu, u32::MAX, u64::MAX);
        }
    }
}
