"""Writes synthetic models: GGUF files with the shapes of an architecture and random weights.

Only metadata stand here. Which tensors an architecture has, and of what shape, the engine itself is asked: it names
the first one that it misses, or that has the wrong shape, until it has no complaint left.
"""

import os
import random
import re
import struct

import engine

F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12
BLOCKS = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), Q4_K: (256, 144)}
ALIGNMENT = 32
ASKED_MAX = 5000


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def typed(value):
    """Type and bytes of a value of the metadata."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, text(value)
    elements = [typed(element) for element in value]
    return 9, struct.pack("<IQ", elements[0][0], len(elements)) + b"".join(bytes for _, bytes in elements)


def size(kind, shape):
    """Bytes of a tensor; a row that the type's blocks do not divide is kept as it is."""
    values = 1
    for length in shape:
        values *= length
    per_block, block = BLOCKS[kind]
    return values // per_block * block


def kind_of(name, shape, kind):
    """The type of a tensor as a quantiser chooses it: norms, biases and other small ones stay F32."""
    long = [length for length in shape if length > 1]
    small = len(long) < 2 or not name.endswith(".weight") or "norm" in name or "conv" in name or "ssm_" in name
    small = small or "_inp.weight" in name or "time_mix" in name or "altup" in name
    if small:
        return F32
    return kind if shape[0] % BLOCKS[kind][0] == 0 else F16


def write(path, model, tensors, random_bytes=None):
    """Writes a GGUF file; without `random_bytes` its weights are a hole."""
    keys = {key.replace("A.", model["arch"] + "."): value for key, value in model["keys"].items()}
    keys = {"general.architecture": model["arch"], "tokenizer.ggml.model": "none", **keys}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for key, value in keys.items():
        kind, value = typed(value)
        head += text(key) + struct.pack("<I", kind) + value
    offset, places = 0, []
    for name, (kind, shape) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        places.append((offset, size(kind, shape)))
        offset += -(-size(kind, shape) // ALIGNMENT) * ALIGNMENT
    start = -(-len(head) // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as file:
        file.write(head)
        for place, length in places if random_bytes else []:
            file.seek(start + place)
            file.write(random_bytes(length))
        file.truncate(start + offset)


def discover(path, model):
    """The tensors of an architecture, by asking the engine."""
    tensors = {name: (F32, shape) for name, shape in model.get("tensors", {}).items()}
    for _ in range(ASKED_MAX):
        write(path, model, tensors)
        complaint = engine.complaint(path)
        if complaint is None:
            return tensors
        if missing := re.search(r"tensor '(.+?)' not found", complaint):
            name, shape = missing[1], (1,)
        elif wrong := re.search(r"tensor '(.+?)' has wrong shape; expected\s+([\d, ]+), got", complaint):
            name, shape = wrong[1], tuple(int(length) for length in wrong[2].split(","))
        else:
            raise SystemExit(f"{model['name']}: {complaint}")
        tensors[name] = (kind_of(name, shape, model["kind"]), shape)
    raise SystemExit(f"{model['name']}: the engine is not content after {ASKED_MAX} tensors")


def make(folder, model):
    """The path of a model's file, written where it is missing."""
    path = os.path.join(folder, model["name"] + ".gguf")
    if not os.path.exists(path):
        tensors = discover(path + ".asked", model)
        random_bytes = None if model["dry"] else random.Random(model["name"]).randbytes
        write(path + ".asked", model, tensors, random_bytes)
        os.rename(path + ".asked", path)
    return path
