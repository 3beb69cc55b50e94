"""Runs what the docs show with curl against a live hive, with a real engine and a hub of its own, and compares: each
field that is answered is shown there, and codes and messages are the same.

    python tests/official/docs.py target/debug/rbee-hive target/debug/rbee-mock .ci/llama-server MODEL.gguf
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hive import end

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["devices.md", "models.md", "api.md"]
# What stands in the docs for what each run has anew.
WORKER, DOWNLOAD, MODEL = "w-d1a11e39bb68", "d-8adba5c570ed3414", "/srv/models/SmolLM2-135M-Instruct.Q4_1.gguf"


@contextlib.contextmanager
def running(command, first_line, **options):
    """A program until the end of the block; gives the last word of its first line, which begins so."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith(first_line):
                sys.exit(f"error: {command[0]} does not start: {line!r}")
            yield line.split()[-1]
        finally:
            end(process)


def examples(page):
    """Each curl command of a page, with the lines that are shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```", page, re.S | re.M):
        for example in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.M)[1:]:
            command, *shown = example.splitlines()
            if command.startswith("curl "):
                yield command, shown


def parsed(lines):
    """What of the lines is JSON; what is left out with … is none."""
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(line.removeprefix("data: "))
            if isinstance(value, dict):
                yield value


def differences(told, shown, where=""):
    """Fields that are told and not shown; codes and messages that are others."""
    if isinstance(told, list) and isinstance(shown, list) and told and shown:
        yield from differences(told[0], shown[0], f"{where}[0]")
    if not (isinstance(told, dict) and isinstance(shown, dict)):
        return
    for name, value in told.items():
        if name not in shown:
            yield f"{where}.{name} is not shown"
        elif name in ("code", "message") and value != shown[name]:
            yield f"{where}.{name} is {value!r}, and not {shown[name]!r}"
        else:
            yield from differences(value, shown[name], f"{where}.{name}")


def like(value, among):
    """Of what is shown that which is of the same sort: a worker, the hive, the same stage of a download."""
    def sort(of):
        return of.get("stage"), "worker_id" in of, "hive_id" in of
    return next((other for other in among if sort(other) == sort(value)), None)


def curl(command, known):
    """What a command of the docs prints."""
    for shown, real in known.items():
        command = command.replace(shown, real)
    # A stream that does not end is cut.
    words = ["curl", "--silent", "--show-error", "--max-time", "5", *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode not in (0, 28):
        sys.exit(f"error: {command}: {done.stderr}")
    return done.stdout.splitlines()


def until(known, wanted):
    """Waits for what a reader of the docs would wait for."""
    for _ in range(600):
        if wanted in "".join(curl(f"curl localhost:8600/v1/workers/{WORKER}", known)):
            return
        time.sleep(0.1)
    sys.exit(f"error: the worker never shows {wanted}")


def main():
    hive, mock, engine, model = (Path(argument).absolute() for argument in sys.argv[1:])
    count, wrong, last = 0, [], None
    with tempfile.TemporaryDirectory(prefix="rbee-docs-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        (folder / "hub/org/tiny").mkdir(parents=True)
        shutil.copy(model, folder / "models" / Path(MODEL).name)
        shutil.copy(model, folder / "hub/org/tiny/m-Q8_0.gguf")
        hub = [mock, "hub", folder / "hub", "--bind", "127.0.0.1:0"]
        with running(hub, "") as endpoint, open(folder / "log", "w") as log:
            env = os.environ | {"HOME": name, "HF_ENDPOINT": re.search(r"http://[0-9.:]+", endpoint)[0]}
            serve = [hive, "serve", "--bind", "127.0.0.1:0", "--data-dir", folder / "data", "--model-dir",
                     folder / "models", "--worker", f"llama-server={engine}", "--shutdown-timeout", "5s"]
            with running(serve, "rbee-hive listening on ", env=env, stderr=log) as url:
                known = {"localhost:8600": url.removeprefix("http://"), MODEL: str(folder / "models" / Path(MODEL).name)}
                for page in PAGES:
                    for command, shown in examples((DOCS / page).read_text()):
                        if "/v1/shutdown" in command:
                            last = page, command, shown
                            continue
                        told = curl(command, known)
                        count += 1
                        wrong += judge(page, command, told, shown)
                        for value in parsed(told):
                            if "worker_id" in value and value.get("state") == "spawning" and WORKER not in known:
                                known[WORKER] = value["worker_id"]
                                until(known, '"state":"ready"')
                            if "download_id" in value and DOWNLOAD not in known:
                                known[DOWNLOAD] = value["download_id"]
                        if "DELETE" in command:
                            until(known, "WORKER_NOT_FOUND")
                page, command, shown = last
                wrong += judge(page, command, curl(command, known), shown)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{count + 1} curl commands of the docs do what is shown below them")


def judge(page, command, told, shown):
    """What is told otherwise than shown."""
    if not told:
        return [f"error: {page}: {command}: nothing is told"]
    among, found = list(parsed(shown)), []
    for value in parsed(told):
        other = like(value, among)
        found += [] if other is None else [f"error: {page}: {command}: {what}" for what in differences(value, other)]
    return found


main()
