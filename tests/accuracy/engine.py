"""llama.cpp's server, as a Python module: what it says of a model, and what it allocates for it."""

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
import urllib.request

import xllamacpp

LAST_WORDS = re.compile(r"listening on|exiting due to model loading error|fitting params to free memory took")
BUFFER = re.compile(r" (model|output|KV|RS|compute) buffer size = +([\d.]+) MiB")
BREAKDOWN = re.compile(r"- Host +\| +\d+ = +(\d+) \+ +(\d+) \+ +(\d+)")
PATIENCE = 300
PROMPT_MAX = 600  # more than is computed at once
MIB = 1024 * 1024


def serve(path, load):
    """Starts the server, in this process."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = 0
    params.verbosity = 9
    params.n_gpu_layers = 0
    params.warmup = False
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    params.fit_params = False
    for name, value in load.items():
        setattr(params, name, value)
    return xllamacpp.Server(params)


def run(path, load, use=None):
    """The log of a server in a process of its own, and what `use` of it and its log's path gives back."""
    with tempfile.NamedTemporaryFile() as log:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.environ["GGML_NO_BACKTRACE"] = "1"
            os.dup2(log.fileno(), 2)
            try:
                server = serve(path, load)
                signal.pause()
            except RuntimeError:
                signal.pause()
            os._exit(1)
        try:
            text = wait(child, log.name)
            return text, use(child, text) if use else None
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def wait(child, path):
    """The log, once it has said the last word of a start, or the process is dead."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        with open(path, errors="replace") as log:
            text = log.read()
        if ended or LAST_WORDS.search(text):
            return text
        time.sleep(0.002)
    raise SystemExit(f"the engine is silent: {text[-500:]}")


def complaint(path):
    """Why the engine refuses a model; None if it does not."""
    text, _ = run(path, {"n_ctx": 256, "fit_params": True})
    if "memory breakdown" in text:
        return None
    found = re.search(r"error loading model: (.*)", text)
    return found[1] if found else "\n".join(text.splitlines()[-8:])


def allocated(path, load, dry):
    """Bytes that the engine allocates for a model, by purpose; None if it refuses to load it so.

    A dry run is the engine's own: all is computed, nothing allocated. It tells weights and caches in whole MiB.
    """
    text, _ = run(path, {**load, "fit_params": dry})
    breakdown = BREAKDOWN.search(text)
    if not (breakdown if dry else "compute buffer size" in text):
        return None
    sums = dict.fromkeys(("model", "output", "KV", "RS", "compute"), 0.0)
    for purpose, mib in BUFFER.findall(text[: breakdown.start()] if dry else text):
        sums[purpose] += float(mib)
    if dry:
        sums["model"], context, _ = map(float, breakdown.groups())
        sums["KV"], sums["RS"] = max(0.0, context - sums["output"]), 0.0
    return {
        "weights": round(sums["model"] * MIB),
        "kv_cache": round((sums["KV"] + sums["RS"]) * MIB),
        "compute": round((sums["compute"] + sums["output"]) * MIB),
    }


def peak(path, load):
    """The most memory that a server had, mapped weights included, once each slot has answered a long prompt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tokens = min(load["n_ctx"] // load["n_parallel"] // 2, PROMPT_MAX)

    def ask(child, _):
        def one(slot):
            prompt = {"prompt": [100 + (slot * 31 + n) % 1000 for n in range(tokens)], "n_predict": 8}
            url = f"http://127.0.0.1:{port}/completion"
            body = urllib.request.Request(url, json.dumps(prompt).encode(), {"Content-Type": "application/json"})
            urllib.request.urlopen(body, timeout=PATIENCE).read()

        asking = [threading.Thread(target=one, args=(slot,)) for slot in range(load["n_parallel"])]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        with open(f"/proc/{child}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024

    return run(path, {**load, "port": port, "warmup": True}, ask)[1]
