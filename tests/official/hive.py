"""A hive of a check's own, on loopback, with one kind of worker and one model."""

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

TOKEN = "s3cret-of-the-hive"


def ask(method, url, body=None, headers=None):
    """The answer, whatever its status."""
    headers = {"Authorization": f"Bearer {TOKEN}"} | (headers or {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        return error


def end(process):
    """Ends a program; one that does not listen to SIGTERM is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


@contextlib.contextmanager
def running(hive, mock, folder, *more):
    """A hive of its own, with one kind of worker and one model; gives its URL."""
    (folder / "models").mkdir()
    (folder / "models/some.gguf").write_bytes(b"GGUF" + bytes(20))
    kind = {"kind": "mock", "protocol": "native", "program": str(mock), "backends": ["cpu"],
            "args": ["worker", "--slots", "{parallel}"], "args_allow": ["--load-ms"]}
    (folder / "mock.json").write_text(json.dumps(kind))
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "RBEE_HIVE_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1",
           "RBEE_HIVE_NVML_LIBRARY": "/nowhere", "RBEE_HIVE_NVIDIA_SMI": "/nowhere"}
    command = [hive, "serve", "--bind", "127.0.0.1:0", "--data-dir", folder / "data", "--model-dir",
               folder / "models", "--kind-file", folder / "mock.json", "--shutdown-timeout", "5s",
               *more]
    with open(folder / "log", "w") as log, subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        line = process.stdout.readline()
        if not line.startswith("rbee-hive listening on "):
            process.kill()
            sys.exit(f"error: the hive does not start\n{(folder / 'log').read_text()}")
        try:
            yield line.split()[-1]
        finally:
            end(process)
            if process.wait() != 0:
                sys.exit(f"error: the hive ended with {process.returncode}\n{(folder / 'log').read_text()[-4000:]}")
