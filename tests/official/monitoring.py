"""What is told to Prometheus and Grafana, checked by their own words: promtool reads a live hive's figures, the alert
rules with their tests, and the expressions of the dashboard; and each figure that either names is one that a hive tells.

    python tests/official/monitoring.py target/debug/rbee-hive target/debug/rbee-mock
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hive import ask, running

DOCS = Path(__file__).resolve().parents[2] / "docs/monitoring"

def promtool(*arguments, **options):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, **options)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0 or (arguments[0] == "check" and arguments[1] == "metrics" and said):
        sys.exit(f"error: promtool {' '.join(map(str, arguments))}\n{said}")
    return said


def told(hive, mock, folder):
    """The figures of a hive that has a worker and a queen, once she has taken a heartbeat."""
    command = [mock, "queen", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as queen:
        try:
            url = re.search(r"http://\S+", queen.stdout.readline())[0]
            with running(hive, mock, folder, "--queen-url", url) as hive_url:
                spawn = {"model_ref": f"file:{folder}/models/some.gguf", "kind": "mock", "memory_bytes": 1 << 20}
                ask("POST", f"{hive_url}/v1/workers/spawn", spawn)
                until = time.monotonic() + 30
                while time.monotonic() < until:
                    text = ask("GET", f"{hive_url}/metrics").read().decode()
                    if "rbee_queen_last_success_timestamp_seconds" in text and "rbee_devices_age" in text:
                        return text
                    time.sleep(0.05)
        finally:
            queen.terminate()
    sys.exit("error: the queen never took a heartbeat")


def names(expression):
    """Figures that an expression names: words that begin as ours do."""
    return {word for word in re.findall(r"[a-z_]+", expression) if word.startswith(("rbee_", "process_"))}


def main():
    hive, mock = (Path(path).resolve() for path in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = told(hive, mock, folder)
        promtool("check", "metrics", input=text)
        print(f"promtool has nothing to say of {text.count('# TYPE')} families in {len(text)} bytes")
        known = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        known |= {family + part for family in re.findall(r"^# TYPE (\S+) histogram", text, re.M)
                  for part in ("_bucket", "_sum", "_count")}

        print(promtool("check", "rules", DOCS / "alerts.yml").splitlines()[-1].strip())
        print(promtool("test", "rules", DOCS / "alerts.test.yml").splitlines()[-1].strip(), "in their tests")

        dashboard = json.loads((DOCS / "dashboard.json").read_text())
        wrong = [field for field in ("title", "uid", "schemaVersion", "panels", "templating") if field not in dashboard]
        if wrong:
            sys.exit(f"error: the dashboard lacks {wrong}")
        expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        # What Grafana fills in; as rules, promtool reads them.
        filled = [text.replace("$instance", ".*").replace("$__rate_interval", "5m") for text in expressions]
        rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(filled)]
        (folder / "dashboard.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        promtool("check", "rules", folder / "dashboard.yml")
        print(f"{len(expressions)} expressions of {len(dashboard['panels'])} panels can be read")

        unknown = names((DOCS / "alerts.yml").read_text() + "\n".join(expressions)) - known
        if unknown:
            sys.exit(f"error: no hive tells {sorted(unknown)}")


main()
