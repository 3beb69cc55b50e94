"""docs/kind.schema.json and `rbee-hive kinds check` beside a validator that is not ours.

    python kind_schema.py RBEE-HIVE

The schema itself is sound; the examples and the built-in kinds are valid by it; and of a list of bad manifests
each is refused by it and by the hive alike, which names the field.
"""

import copy
import glob
import json
import os
import subprocess
import sys
import tempfile

from jsonschema import Draft202012Validator

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
HIVE = sys.argv[1]

PROBE = {
    "kind": "k", "protocol": "probe", "program": "k", "backends": ["cpu"], "args": ["--port", "{port}"],
    "probe": {"path": "/health", "interval": "1s", "timeout": "250ms", "busy": {"path": "/slots", "count": "busy"}},
}
NATIVE = {"kind": "k", "protocol": "native", "program": "./bin/k", "backends": ["cuda", "rocm"]}
MISSING = object()

# Each is a good manifest with one thing changed: where, to what, and what the hive calls that place.
BAD = [
    (PROBE, ["kind"], MISSING, "kind"),
    (PROBE, ["protocol"], MISSING, "protocol"),
    (PROBE, ["program"], MISSING, "program"),
    (PROBE, ["backends"], MISSING, "backends"),
    (PROBE, ["args"], MISSING, "args"),
    (PROBE, ["probe"], MISSING, "probe"),
    (PROBE, ["probe", "path"], MISSING, "probe.path"),
    (PROBE, ["probe", "busy", "path"], MISSING, "probe.busy.path"),
    (PROBE, ["probe", "busy", "count"], MISSING, "probe.busy.count"),
    (PROBE, ["probe", "busy", "sum"], "gauge", "probe.busy.count"),
    (PROBE, ["probe", "busy", "field"], "x", "probe.busy.field"),
    (PROBE, ["probe", "codes"], [200], "probe.codes"),
    (PROBE, ["comment"], "x", "comment"),
    (NATIVE, ["probe"], PROBE["probe"], "probe"),
    (NATIVE, ["kind"], "Upper", "kind"),
    (NATIVE, ["kind"], "-k", "kind"),
    (NATIVE, ["kind"], "k" * 65, "kind"),
    (NATIVE, ["kind"], 7, "kind"),
    (NATIVE, ["protocol"], "http", "protocol"),
    (NATIVE, ["program"], "", "program"),
    (NATIVE, ["program"], "bin/", "program"),
    (NATIVE, ["program"], "bin/..", "program"),
    (NATIVE, ["program"], "a\0b", "program"),
    (NATIVE, ["program"], ["k"], "program"),
    (NATIVE, ["backends"], [], "backends"),
    (NATIVE, ["backends"], ["tpu"], "backends[0]"),
    (NATIVE, ["backends"], ["cpu", "cpu"], "backends[1]"),
    (NATIVE, ["backends"], "cpu", "backends"),
    (NATIVE, ["args"], ["{prot}"], "args[0]"),
    (NATIVE, ["args"], ["a\0b"], "args[0]"),
    (NATIVE, ["args"], [1], "args[0]"),
    (NATIVE, ["args"], None, "args"),
    (NATIVE, ["env"], {"1A": "x"}, "env.1A"),
    (NATIVE, ["env"], {"A": "{prot}"}, "env.A"),
    (NATIVE, ["env"], {"A": 1}, "env.A"),
    (NATIVE, ["env"], [], "env"),
    (NATIVE, ["env_allow"], ["A*B"], "env_allow[0]"),
    (NATIVE, ["env_allow"], ["A", "A"], "env_allow[1]"),
    (NATIVE, ["args_allow"], ["threads"], "args_allow[0]"),
    (NATIVE, ["args_allow"], ["--a=1"], "args_allow[0]"),
    (NATIVE, ["version_args"], ["{port}"], "version_args[0]"),
    (NATIVE, ["version_args"], "-v", "version_args"),
    (PROBE, ["probe", "path"], "health", "probe.path"),
    (PROBE, ["probe", "path"], "/a#b", "probe.path"),
    (PROBE, ["probe", "interval"], "soon", "probe.interval"),
    (PROBE, ["probe", "interval"], 500, "probe.interval"),
    (PROBE, ["probe", "timeout"], "-1s", "probe.timeout"),
    (PROBE, ["probe", "busy", "count"], "", "probe.busy.count"),
    (PROBE, ["probe", "busy"], {"path": "/m", "sum": "1a"}, "probe.busy.sum"),
    (PROBE, ["probe", "busy"], [], "probe.busy"),
]


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def changed(manifest, way, value):
    manifest = copy.deepcopy(manifest)
    place = manifest
    for name in way[:-1]:
        place = place[name]
    if value is MISSING:
        del place[way[-1]]
    else:
        place[way[-1]] = value
    return manifest


def check(manifest, folder):
    """What `kinds check --json` says of it."""
    path = os.path.join(folder, "kind.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    done = subprocess.run([HIVE, "kinds", "check", "--json", path], capture_output=True, text=True, timeout=60)
    (told,) = json.loads(done.stdout)["files"]
    assert done.returncode == (0 if told["good"] else 2), done
    return told


def main():
    schema = read(os.path.join(ROOT, "docs", "kind.schema.json"))
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)

    good = [PROBE, NATIVE]
    for folder in ("docs/kinds", "src/kinds/builtin"):
        files = sorted(glob.glob(os.path.join(ROOT, folder, "*.json")))
        assert len(files) >= 3, folder
        good += [read(path) for path in files]
    with tempfile.TemporaryDirectory() as folder:
        for manifest in good:
            judge.validate(manifest)
            told = check(manifest, folder)
            assert told["good"] and told["kind"] == manifest["kind"], told
        for manifest, way, value, field in BAD:
            manifest = changed(manifest, way, value)
            assert not judge.is_valid(manifest), f"the schema takes {manifest}"
            told = check(manifest, folder)
            assert not told["good"] and told["field"] == field, f"the hive says {told} of {manifest}"
    print(f"kind.schema.json: sound; {len(good)} good manifests are valid, {len(BAD)} bad ones refused by both")


main()
