"""The hive and huggingface_hub on one cache: what either fetches, the other finds and approves.

    python check.py RBEE-HIVE RBEE-MOCK

Everything is loopback: the hub is `rbee-mock hub`, private, so that both sides show a token and neither may show it
to the CDN. Prints what was seen; 1 where something was not as it must be.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HIVE, MOCK = sys.argv[1:]
FOLDER = Path(tempfile.mkdtemp(prefix="rbee-official-"))
TOKEN = "hf_made_up"
# Read when the client is imported. Nothing of whoever runs this is used.
os.environ.update(HF_HOME=str(FOLDER / "home"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
                  HF_HUB_DISABLE_PROGRESS_BARS="1")
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY",
             "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
    os.environ.pop(name, None)

import huggingface_hub  # noqa: E402
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download  # noqa: E402

MIB = 1 << 20
SLOW = "slow-Q8_0.gguf"  # the hub sends files of this name at 4 MB/s on each connection
REPOSITORIES = {
    "org/one": {"README.md": 2_000, "one-Q4_K_M.gguf": 3 * MIB, "one-Q8_0.gguf": 5 * MIB},
    "org/split": {f"Q4_K_M/split-Q4_K_M-0000{n}-of-00003.gguf": 2 * MIB for n in (1, 2, 3)},
    "org/tensors": {"model-00001-of-00002.safetensors": 3 * MIB, "model-00002-of-00002.safetensors": MIB,
                    "model.safetensors.index.json": 900, "config.json": 700, "tokenizer.json": 2 * MIB,
                    "tokenizer_config.json": 300, "README.md": 2_000},
    "org/cancelled": {SLOW: 24 * MIB},
    "org/hive-first": {SLOW: 12 * MIB},
    "org/client-first": {SLOW: 12 * MIB},
}
# What is asked of the hive, and the file of the repository that it then names; none: the folder of the snapshot.
MODELS = {"hf:org/one:Q8_0": "one-Q8_0.gguf", "hf:org/split": "Q4_K_M/split-Q4_K_M-00001-of-00003.gguf",
          "hf:org/tensors": None}
failures = 0


def check(what, is_so, seen=""):
    global failures
    failures += not is_so
    print(f"  {'ok  ' if is_so else 'FAIL'}  {what}{f': {seen}' if seen and not is_so else ''}", flush=True)


def main():
    print(f"huggingface_hub {huggingface_hub.__version__}, python {sys.version.split()[0]}")
    for name, files in REPOSITORIES.items():
        for path, size in files.items():
            file = FOLDER / "hub" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"GGUF" + random.Random(f"{name}/{path}").randbytes(size - 4))
    with started([MOCK, "hub", str(FOLDER / "hub"), "--bind", "127.0.0.1:0", "--token", TOKEN,
                  "--fault", f"rate=4000000@{SLOW}"], {}, "hub") as hub:
        client_to_hive(hub)
        hive_to_client(hub)
        in_the_middle(hub)
        at_once(hub)
    cdn = [line for line in (FOLDER / "hub.out").read_text().splitlines() if line.startswith("cdn")]
    check("no token ever came to the CDN", cdn and not [line for line in cdn if not line.endswith("token=no")])


def client_to_hive(hub):
    print("\nThe official client fetches, the hive finds it without the hub:")
    cache = FOLDER / "by-client"
    for name in ("org/one", "org/split", "org/tensors"):
        snapshot_download(name, cache_dir=cache, endpoint=hub, token=TOKEN)
    with hive(cache, HF_HUB_OFFLINE="1") as url:
        listed = ask("GET", f"{url}/v1/models")[1]["models"]
        for model in listed:
            print(f"        {model['model_ref']}  {model['size_bytes']} bytes in {len(model['files'])} files")
        for ref, path in MODELS.items():
            repository = ref.split(":")[1]
            found = [model for model in listed if model["model_ref"].startswith(f"hf:{repository}")]
            check(f"{ref} is listed, and whole", found and not any(model["partial"] for model in found), listed)
            status, answer = ask("POST", f"{url}/v1/models/download", {"model_ref": ref})
            check(f"{ref} is there already", (status, answer.get("download_id")) == (200, "cached"), answer)
            check(f"{ref} is where the client has it", answer.get("local_path") == client_has(cache, repository, path),
                  answer)


def hive_to_client(hub):
    print("\nThe hive fetches, the official client finds it without the hub:")
    cache = FOLDER / "by-hive"
    with hive(cache, hub) as url:
        for ref, path in MODELS.items():
            repository = ref.split(":")[1]
            end = fetch(url, ref)
            check(f"{ref} is fetched", end["stage"] == "complete", end)
            local = end.get("local_path", "")
            check("hf_hub_download(local_files_only) gives the hive's path" if path else
                  "snapshot_download(local_files_only) gives the hive's path",
                  local == client_has(cache, repository, path), local)
            snapshot = snapshot_download(repository, cache_dir=cache, local_files_only=True)
            check("all bytes are the hub's", right_bytes(repository, snapshot), snapshot)
    scan(cache, "afterwards", show=True)


def in_the_middle(hub):
    print("\nA download of the hive's, looked at by the official client all the while:")
    cache, ref = FOLDER / "middle", "hf:org/cancelled"
    with hive(cache, hub) as url:
        scans = []
        id = begin(url, ref)
        for event in events(url, id):
            scans.append(scan_cache_dir(cache))
            if event["stage"] == "downloading" and event["bytes_downloaded"] > 4 * MIB:
                status, _ = ask("DELETE", f"{url}/v1/models/download?id={id}")
                check("in its middle it is cancelled", status == 202, status)
                break
        seen = sum(bool(scan.incomplete_files) for scan in scans)
        check(f"{len(scans)} scans, {seen} of them with a partial file: no warning",
              seen and not any(scan.warnings for scan in scans), [scan.warnings for scan in scans])
        end = list(events(url, id))[-1]
        check("it ends as cancelled", end["stage"] == "error", end)
        scan(cache, "after the cancel", show=True)
        end = fetch(url, ref)
        check("asked for again, it is completed", end["stage"] == "complete", end)
        check("all bytes are the hub's", right_bytes("org/cancelled", Path(end.get("local_path", "")).parent), end)
    scan(cache, "afterwards")


def at_once(hub):
    cache = FOLDER / "both"
    with hive(cache, hub) as url:
        for first in ("hive", "client"):
            repository = f"org/{first}-first"
            print(f"\nThe hive and the official client fetch the same file at once, the {first} first:")
            ends = {}
            both = {
                "hive": threading.Thread(target=lambda: ends.update(hive=fetch(url, f"hf:{repository}"))),
                "client": threading.Thread(target=lambda: ends.update(client=hf_hub_download(
                    repository, SLOW, cache_dir=cache, endpoint=hub, token=TOKEN))),
            }
            both[first].start()
            blobs = cache / f"models--org--{first}-first" / "blobs"
            while both[first].is_alive() and not any(blobs.glob("*.incomplete")):
                time.sleep(0.01)
            both["client" if first == "hive" else "hive"].start()
            warnings, scans = [], 0
            while any(thread.is_alive() for thread in both.values()):
                warnings += scan_cache_dir(cache).warnings
                scans += 1
                time.sleep(0.05)
            check(f"{scans} scans meanwhile: no warning", scans and not warnings, warnings)
            path = ends.get("hive", {}).get("local_path")
            check("both end well, with the same path", path and path == ends.get("client"), ends)
            check("all bytes are the hub's", path and right_bytes(repository, Path(path).parent), ends)
            left = [file.name for file in blobs.iterdir() if len(file.name) != 64]
            check("nothing else is left", not left, left)
    scan(cache, "afterwards", show=True)


# ---- The official client ----

def client_has(cache, repository, path):
    """The path that the client gives without the hub."""
    try:
        if path is None:
            return snapshot_download(repository, cache_dir=cache, local_files_only=True)
        return hf_hub_download(repository, path, cache_dir=cache, local_files_only=True)
    except Exception as error:  # whatever it is, the client has it not
        return f"{type(error).__name__}: {error}"


def right_bytes(repository, snapshot):
    """Whether the snapshot has files, and all are the hub's."""
    files = [file for file in Path(snapshot).glob("**/*") if file.is_file()]
    return bool(files) and all(
        digest(file) == digest(FOLDER / "hub" / repository / file.relative_to(snapshot)) for file in files)


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def scan(cache, when, show=False):
    seen = scan_cache_dir(cache)
    if show:
        # Its last column is a path of this machine.
        for line in seen.export_as_table(verbosity=1).splitlines():
            print("        " + line.replace(f"{cache}/", "").rstrip())
        for file in seen.incomplete_files:
            print(f"        incomplete: {file.file_path.name} {file.size_on_disk} bytes")
    check(f"scan_cache_dir() {when}: no warning", not seen.warnings, seen.warnings)


# ---- The hive ----

def hive(cache, endpoint="http://127.0.0.1:9", **env):
    cache.mkdir(exist_ok=True)
    env = {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, **env}
    return started([HIVE, "serve", "--bind", "127.0.0.1:0", "--hive-id", "official", "--model-dir", str(cache),
                    "--data-dir", str(FOLDER / f"data-{cache.name}")], env, f"hive-{cache.name}")


@contextlib.contextmanager
def started(command, env, name):
    """Runs a program that says where it listens, and ends it; gives its URL."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(FOLDER), "RBEE_HIVE_NVML_LIBRARY": "/nowhere",
           "RBEE_HIVE_NVIDIA_SMI": "/nowhere", **env}
    out = FOLDER / f"{name}.out"
    with out.open("w") as stdout, (FOLDER / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=log)
    try:
        while " listening on " not in (said := out.read_text()):
            if process.poll() is not None:
                sys.exit(f"{command[0]} did not start:\n{(FOLDER / f'{name}.log').read_text()}")
            time.sleep(0.01)
        yield said.split(" listening on ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=60)


def ask(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def begin(url, ref):
    """The id of a download."""
    status, answer = ask("POST", f"{url}/v1/models/download", {"model_ref": ref})
    if status != 202:
        raise AssertionError(f"{ref}: {status} {answer}")
    return answer["download_id"]


def events(url, id):
    """The events of a download, to its end."""
    with urllib.request.urlopen(f"{url}/v1/models/download/progress?id={urllib.parse.quote(id)}", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                yield json.loads(data)
    raise AssertionError(f"the stream of {id} ends without [DONE]")


def fetch(url, ref):
    """The last event of a download, or what stands for it where the model is there already."""
    status, answer = ask("POST", f"{url}/v1/models/download", {"model_ref": ref})
    if status == 202:
        return list(events(url, answer["download_id"]))[-1]
    return {"stage": "complete" if status == 200 else "refused", **answer}


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        check("everything could be asked", False, f"{type(error).__name__}: {error}")
    if failures:
        print(f"\n{failures} failures; logs are in {FOLDER}")
        sys.exit(1)
    print("\nAll is well.")
    shutil.rmtree(FOLDER)
