"""Tries the hive's own document against a live hive: openapi-spec-validator says that the document is one, and
schemathesis sends what it allows and what it forbids, and compares each answer with what it tells.

    python tests/official/openapi.py target/debug/rbee-hive target/debug/rbee-mock

Left out: the shutdown, and the stream that does not end, which is looked at by itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from openapi_spec_validator import validate

from hive import TOKEN, ask, running

SECONDS_MAX = 120
FOLDER = Path(__file__).resolve().parent


def check_streams(url, worker):
    """What schemathesis cannot wait for: the streams tell what the document says."""
    for path in ("/v1/events", f"/v1/workers/{worker}/logs?follow=true"):
        with ask("GET", url + path) as answer:
            kind = answer.headers["Content-Type"]
            if (answer.status, kind) != (200, "text/event-stream"):
                sys.exit(f"error: {path}: {answer.status} {kind}")


def main():
    hive, mock = (Path(path).resolve() for path in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder, running(hive, mock, Path(folder)) as url:
        document = json.load(ask("GET", f"{url}/openapi.json"))
        validate(document)
        operations = sum(len(methods) for methods in document["paths"].values())
        print(f"the document is OpenAPI {document['openapi']}: {operations} operations")
        spawn = {"model_ref": f"file:{folder}/models/some.gguf", "kind": "mock", "memory_bytes": 1 << 20}
        worker = json.load(ask("POST", f"{url}/v1/workers/spawn", spawn))["worker_id"]
        check_streams(url, worker)
        env = os.environ | {"SCHEMATHESIS_HOOKS": str(FOLDER / "openapi_hooks.py"), "RBEE_SPAWN": json.dumps(spawn),
                            "RBEE_WORKER": worker, "RBEE_URL": url,
                            "RBEE_HIVE_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1"}
        schemathesis = Path(sys.executable).with_name("schemathesis")
        began = time.monotonic()
        done = subprocess.run(
            [schemathesis, "--config-file", FOLDER / "openapi.toml", "run", f"{url}/openapi.json", "--header",
             f"Authorization: Bearer {TOKEN}"],
            env=env, cwd=folder, timeout=SECONDS_MAX * 2)
        print(f"schemathesis took {time.monotonic() - began:.0f} s and ended with {done.returncode}")
        if ask("GET", f"{url}/health").status != 200:
            sys.exit("error: the hive does not live any more")
    sys.exit(done.returncode)


main()
