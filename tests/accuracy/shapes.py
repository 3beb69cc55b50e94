"""The synthetic models: small ones, whose weights are written, and the shapes of real ones, for dry runs."""

from models import F16, Q4_0, Q4_K, Q8_0


def model(name, arch, layers, embd, ff, heads, kv, vocab=8192, kind=F16, dry=False, tied=False, extra=None, **keys):
    keys = {
        "A.context_length": 131072,
        "A.block_count": layers,
        "A.embedding_length": embd,
        "A.feed_forward_length": ff,
        "A.attention.head_count": heads,
        "A.attention.head_count_kv": kv,
        "A.attention.layer_norm_rms_epsilon": 1e-5,
        "A.vocab_size": vocab,
        **{"A." + key.replace("__", "."): value for key, value in keys.items()},
    }
    tensors = {} if tied else {"output.weight": (1,)}
    return {"name": name, "arch": arch, "kind": kind, "dry": dry, "keys": keys, "tensors": tensors | (extra or {})}


def alternate(layers, every, rest, nth):
    """One value a layer: `nth` in every `every`th layer, `rest` in the others."""
    return [nth if (layer + 1) % every == 0 else rest for layer in range(layers)]


LN = {"attention__layer_norm_epsilon": 1e-5}
HEAD64 = {"attention__key_length": 64, "attention__value_length": 64}
HEAD128 = {"attention__key_length": 128, "attention__value_length": 128}
HEAD256 = {"attention__key_length": 256, "attention__value_length": 256}


def each(layers, *names):
    """Tensors that the engine does not ask for, and crashes without."""
    return {f"blk.{layer}.{name}": (1,) for layer in layers for name in names}


def moe(experts, used, ff, **keys):
    return {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": ff, **keys}


def ssm(inner, state, rank, group=0, conv=4):
    keys = {"conv_kernel": conv, "inner_size": inner, "state_size": state, "time_step_rank": rank, "group_count": group}
    return {"ssm__" + key: value for key, value in keys.items()}


MLA = {
    "attention__q_lora_rank": 192,
    "attention__kv_lora_rank": 128,
    "attention__key_length": 160,
    "attention__value_length": 128,
    "attention__key_length_mla": 96,
    "attention__value_length_mla": 64,
    "rope__dimension_count": 32,
}

SMALL = [
    model("llama", "llama", 8, 512, 1536, 8, 2, rope__dimension_count=64),
    model("llama-q4_0", "llama", 8, 512, 1536, 8, 2, kind=Q4_0),
    model("llama-q4_k", "llama", 8, 512, 1536, 8, 2, kind=Q4_K, tied=True),
    model("llama-q8_0", "llama", 8, 512, 1536, 8, 8, kind=Q8_0, tied=True),
    model("mixtral", "llama", 4, 256, 512, 8, 2, **moe(8, 2, 512), extra=each(range(4), "ffn_gate_exps.weight")),
    model("qwen2", "qwen2", 8, 512, 1536, 8, 2, tied=True),
    model("qwen3", "qwen3", 8, 384, 1024, 8, 2, tied=True, **HEAD128),
    model("qwen3moe", "qwen3moe", 6, 256, 768, 8, 2, **HEAD64, **moe(16, 4, 128)),
    model("gemma2", "gemma2", 8, 384, 1024, 4, 2, tied=True, attention__sliding_window=1024, **HEAD128),
    model("gemma3", "gemma3", 12, 384, 1024, 4, 1, tied=True, attention__sliding_window=512, **HEAD128),
    model("deepseek2", "deepseek2", 6, 384, 1024, 8, 1, **MLA, **moe(16, 4, 128, leading_dense_block_count=1,
          expert_shared_count=2, expert_weights_scale=1.0)),
    model("mamba", "mamba", 12, 384, 0, 0, 0, **ssm(768, 16, 24)),
    model("mamba2", "mamba2", 12, 384, 0, 0, 0, **ssm(768, 64, 12, 1)),
    model("falcon-h1", "falcon-h1", 6, 384, 1024, 8, 2, **ssm(768, 64, 12, 1), **HEAD64,
          extra=each(range(6), "ssm_conv1d.bias", "ssm_norm.weight")),
    model("jamba", "jamba", 8, 384, 1024, 6, alternate(8, 4, 0, 2), **ssm(768, 16, 24), **moe(4, 2, 1024)),
    model("granitehybrid", "granitehybrid", 8, 384, 1024, 6, alternate(8, 4, 0, 2), **ssm(768, 64, 12, 1),
          extra=each([0, 1, 2, 4, 5, 6], "ssm_conv1d.bias")),
    model("nemotron_h", "nemotron_h", 8, 384, [0, 1024, 0, 0] * 2, 8, alternate(8, 4, 0, 2), **ssm(768, 64, 12, 2), **HEAD64, **LN,
          extra=each([0, 2, 4, 6], "ssm_conv1d.bias")),
    model("lfm2", "lfm2", 8, 384, 1024, 6, alternate(8, 3, 0, 2), shortconv__l_cache=3),
    model("qwen3next", "qwen3next", 8, 256, 768, 8, 2, **HEAD64, **ssm(512, 64, 8, 4), full_attention_interval=4,
          **moe(16, 4, 128, expert_shared_feed_forward_length=128), extra=each([0, 1, 2, 4, 5, 6], "attn_qkv.weight", "attn_gate.weight")),
    model("rwkv7", "rwkv7", 6, 384, 1024, 0, 0, wkv__head_size=64, attention__decay_lora_rank=32,
          attention__iclr_lora_rank=32, attention__value_residual_mix_lora_rank=16, attention__gate_lora_rank=64, **LN),
    model("rwkv6", "rwkv6", 6, 384, 1024, 0, 0, wkv__head_size=64, time_mix_extra_dim=32, time_decay_extra_dim=64,
          rescale_every_n_layers=6, **LN, extra=each(range(6), *(f"time_mix_lerp_{x}.weight" for x in "wkvrg"))),
    model("phi3", "phi3", 8, 512, 1536, 8, 8, attention__sliding_window=2047,
          extra=each(range(8), "attn_qkv.weight")),
    model("phi2", "phi2", 6, 512, 2048, 8, 8, **LN),
    model("gpt2", "gpt2", 6, 512, 2048, 8, 8, context_length=16384, **LN),
    model("gpt-oss", "gpt-oss", 6, 384, 384, 8, 2, attention__sliding_window=128, **HEAD64, **moe(16, 4, 384)),
    model("command-r", "command-r", 6, 512, 1536, 8, 2, tied=True, logit_scale=0.06, **LN),
    model("cohere2", "cohere2", 8, 512, 1536, 8, 2, tied=True, logit_scale=0.06, attention__sliding_window=1024, **LN),
    model("starcoder2", "starcoder2", 6, 512, 2048, 8, 2, **LN),
    model("olmo2", "olmo2", 6, 512, 1536, 8, 8),
    model("glm4", "glm4", 6, 512, 1536, 8, 2),
    model("llama4", "llama4", 8, 384, 1024, 8, 2, **moe(8, 1, 512, interleave_moe_layer_step=1)),
    model("exaone4", "exaone4", 8, 512, 1536, 8, 2, attention__sliding_window=1024),
    model("minicpm3", "minicpm3", 6, 512, 1536, 8, 8, attention__q_lora_rank=192, attention__kv_lora_rank=128,
          attention__key_length=96, attention__value_length=64, rope__dimension_count=32),
    model("smollm3", "smollm3", 8, 512, 1536, 8, 2, tied=True),
    model("gemma3n", "gemma3n", 10, 256, [1024] * 10, 4, 1, tied=True, attention__sliding_window=512, **HEAD64,
          attention__sliding_window_pattern=alternate(10, 5, True, False), attention__shared_kv_layers=4,
          embedding_length_per_layer_input=256),
    model("plamo2", "plamo2", 8, 384, 1024, 8, alternate(8, 2, 0, 2), **ssm(768, 64, 12), **HEAD64),
    model("kimi-linear", "kimi-linear", 8, 384, 1024, 8, alternate(8, 4, 0, 1), **MLA, ssm__conv_kernel=4,
          kda__head_dim=64, **moe(16, 4, 128, leading_dense_block_count=1, expert_shared_count=1,
          expert_gating_func=2)),
]
# Layers do not change what a layer computes with: few of them are enough.
REAL = [
    model("llama-3.1-8b", "llama", 8, 4096, 14336, 32, 8, vocab=128256, dry=True),
    model("llama-3.1-70b", "llama", 8, 8192, 28672, 64, 8, vocab=128256, dry=True),
    model("mixtral-8x7b", "llama", 4, 4096, 14336, 32, 8, dry=True, **moe(8, 2, 14336),
          extra=each(range(4), "ffn_gate_exps.weight")),
    model("qwen2.5-7b", "qwen2", 8, 3584, 18944, 28, 4, vocab=152064, dry=True),
    model("qwen3-30b-a3b", "qwen3moe", 8, 2048, 6144, 32, 4, vocab=151936, dry=True, **HEAD128, **moe(128, 8, 768)),
    model("qwen3-235b-a22b", "qwen3moe", 4, 4096, 12288, 64, 4, vocab=151936, dry=True, **HEAD128, **moe(128, 8, 1536)),
    model("gemma-2-9b", "gemma2", 8, 3584, 14336, 16, 8, vocab=256000, dry=True, tied=True,
          attention__sliding_window=4096, **HEAD256),
    model("gemma-3-27b", "gemma3", 12, 5376, 21504, 32, 16, vocab=262208, dry=True, tied=True,
          attention__sliding_window=1024, **HEAD128),
    model("deepseek-v3", "deepseek2", 5, 7168, 18432, 128, 1, vocab=129280, dry=True, attention__q_lora_rank=1536,
          attention__kv_lora_rank=512, attention__key_length=576, attention__value_length=512,
          attention__key_length_mla=192, attention__value_length_mla=128, rope__dimension_count=64,
          **moe(256, 8, 2048, leading_dense_block_count=3, expert_shared_count=1, expert_weights_scale=2.5,
                expert_gating_func=2)),
    model("mamba2-2.7b", "mamba2", 8, 2560, 0, 0, 0, vocab=50288, dry=True, **ssm(5120, 128, 80, 1)),
    model("mamba-2.8b", "mamba", 8, 2560, 0, 0, 0, vocab=50280, dry=True, **ssm(5120, 16, 160)),
    model("falcon-h1-7b", "falcon-h1", 6, 3072, 12288, 12, 2, vocab=130048, dry=True, **ssm(3072, 256, 24, 1), **HEAD128,
          extra=each(range(6), "ssm_conv1d.bias", "ssm_norm.weight")),
    model("jamba-mini", "jamba", 8, 4096, 14336, 32, alternate(8, 8, 0, 8), vocab=65536, dry=True, **ssm(8192, 16, 256),
          **moe(16, 2, 14336)),
    model("granite-4-h-small", "granitehybrid", 10, 4096, 768, 32, alternate(10, 10, 0, 8), vocab=100352, dry=True,
          **ssm(8192, 128, 128, 1), **moe(72, 10, 768, expert_shared_feed_forward_length=1536),
          extra=each(range(9), "ssm_conv1d.bias")),
    model("nemotron-nano-9b", "nemotron_h", 8, 4480, [0, 15680, 0, 0] * 2, 40, alternate(8, 4, 0, 8), vocab=131072,
          dry=True, **ssm(10240, 128, 128, 8), **HEAD128, **LN,
          extra=each([0, 2, 4, 6], "ssm_conv1d.bias")),
    model("lfm2-2.6b", "lfm2", 9, 2048, 10752, 32, alternate(9, 3, 0, 8), vocab=65536, dry=True, shortconv__l_cache=3),
    model("qwen3-next-80b", "qwen3next", 8, 2048, 5120, 16, 2, vocab=151936, dry=True, **HEAD256,
          **ssm(4096, 128, 32, 16), full_attention_interval=4,
          **moe(512, 10, 512, expert_shared_feed_forward_length=512),
          extra=each([0, 1, 2, 4, 5, 6], "attn_qkv.weight", "attn_gate.weight")),
    model("rwkv7-2.9b", "rwkv7", 6, 2560, 10240, 0, 0, vocab=65536, dry=True, wkv__head_size=64,
          attention__decay_lora_rank=96, attention__iclr_lora_rank=96, attention__value_residual_mix_lora_rank=64,
          attention__gate_lora_rank=320, **LN),
    model("phi-3-mini", "phi3", 8, 3072, 8192, 32, 32, vocab=32064, dry=True, attention__sliding_window=2047,
          extra=each(range(8), "attn_qkv.weight")),
    model("gpt-oss-20b", "gpt-oss", 6, 2880, 2880, 64, 8, vocab=201088, dry=True, attention__sliding_window=128, **HEAD64,
          **moe(32, 4, 2880)),
    model("command-r-plus", "command-r", 4, 12288, 33792, 96, 8, vocab=256000, dry=True, tied=True, logit_scale=0.06, **LN),
    model("llama-4-scout", "llama4", 8, 5120, 16384, 40, 8, vocab=202048, dry=True, **HEAD128,
          **moe(16, 1, 8192, interleave_moe_layer_step=1)),
    model("starcoder2-15b", "starcoder2", 6, 6144, 24576, 48, 4, vocab=49152, dry=True, **LN),
    model("glm-4-9b", "glm4", 6, 4096, 13696, 32, 2, vocab=151552, dry=True),
    model("kimi-linear-48b", "kimi-linear", 8, 2304, 9216, 32, alternate(8, 4, 0, 1), vocab=163840, dry=True,
          attention__kv_lora_rank=512, attention__key_length=576, attention__value_length=512,
          attention__key_length_mla=192, attention__value_length_mla=128, rope__dimension_count=64, ssm__conv_kernel=4,
          kda__head_dim=128, **moe(256, 8, 1024, leading_dense_block_count=1, expert_shared_count=1,
          expert_gating_func=2)),
]
MODELS = SMALL + REAL
