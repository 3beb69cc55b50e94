"""Prints what llama.cpp allocates: for each model a line of JSON with its metadata, then for each way to load it a
line [ctx, parallel, options, bytes of weights, of caches and states, of compute and output].

    python measure.py FOLDER [MODEL…]        the synthetic models, which are written to FOLDER
    python measure.py --peak FILE            a real one: and, as a fourth size, its peak after a prompt a slot
"""

import json
import os
import sys

import engine
import models
import shapes

from xllamacpp import ggml_type, llama_flash_attn_type

# llama-server's own options, and what they set.
OPTIONS = {
    "": {},
    "--flash-attn off": {"flash_attn_type": llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED},
    "-ctk q8_0 -ctv q4_0": {"cache_type_k": ggml_type.GGML_TYPE_Q8_0, "cache_type_v": ggml_type.GGML_TYPE_Q4_0},
    "--ubatch-size 256": {"n_ubatch": 256},
    "--ubatch-size 2048": {"n_ubatch": 2048},
    "--kv-unified": {"kv_unified": True},
    "--swa-full": {"swa_full": True},
}
PLAIN = [(ctx, parallel, "") for ctx in (512, 2048, 8192, 16384) for parallel in (1, 4)]
LOADS = PLAIN + [(8192, parallel, args) for args in OPTIONS if args for parallel in (1, 4)]


def main(folder, names):
    os.makedirs(folder, exist_ok=True)
    for model in shapes.MODELS:
        if names and model["name"] not in names:
            continue
        path = models.make(folder, model)
        keys = {key.replace("A.", model["arch"] + "."): value for key, value in model["keys"].items()}
        print(json.dumps({"model": model["name"], "file": path, "arch": model["arch"], "keys": keys}), flush=True)
        for ctx, parallel, args in LOADS:
            load = {"n_ctx": ctx, "n_parallel": parallel, **OPTIONS[args]}
            allocated = engine.allocated(path, load, model["dry"])
            if allocated:
                print(json.dumps([ctx, parallel, args, *allocated.values()]), flush=True)


def peak(path):
    print(json.dumps({"model": os.path.basename(path), "file": path}), flush=True)
    for ctx in (512, 2048, 8192):
        for parallel in (1, 4):
            load = {"n_ctx": ctx, "n_parallel": parallel}
            allocated = engine.allocated(path, load, False)
            print(json.dumps([ctx, parallel, "", *allocated.values(), engine.peak(path, load)]), flush=True)


if sys.argv[1] == "--peak":
    peak(sys.argv[2])
else:
    main(sys.argv[1], sys.argv[2:])
