"""What schemathesis sends is made up: half of it is led to what is there, so that workers are spawned, seen and
stopped as well."""

import json
import os

import requests
import schemathesis

SPAWN = json.loads(os.environ["RBEE_SPAWN"])
WORKER, URL, TOKEN = (os.environ[name] for name in ("RBEE_WORKER", "RBEE_URL", "RBEE_HIVE_TOKEN"))
turn = 0


def every_other():
    global turn
    turn += 1
    return turn % 2 == 0


@schemathesis.hook
def before_call(context, case, kwargs):
    """Valid spawns are made real ones, and valid ids that of a worker."""
    meta = case.meta
    if meta is None or meta.phase.name.value != "fuzzing":
        return
    modes = [meta.generation.mode, *(part.mode for part in meta.components.values())]
    if not all(mode.is_positive for mode in modes):
        return
    if case.path == "/v1/workers/spawn" and isinstance(case.body, dict) and every_other():
        known = ("ctx", "parallel", "make_room", "pinned")
        # Looked at again once the body is another one, some of these keys would count as wrong.
        case.headers.pop("Idempotency-Key", None)
        case.body = SPAWN | {name: case.body[name] for name in known if case.body.get(name) is not None}
    elif case.path == "/v1/workers/{id}/logs" and every_other():
        case.path_parameters = {"id": WORKER}


@schemathesis.hook
def after_call(context, case, response):
    """A hive that is drained, or full, would refuse all that comes after it."""
    def follow(method, path, body=None):
        requests.request(method, URL + path, json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)

    if case.path == "/v1/drain" and response.status_code == 200:
        follow("POST", "/v1/drain", {"drain": False})
    elif case.path == "/v1/workers/spawn" and response.status_code == 202:
        follow("DELETE", f"/v1/workers/{response.json()['worker_id']}?force=true")
