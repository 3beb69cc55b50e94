#!/usr/bin/env python3
"""A whole native worker of rbee-hive in the standard library alone: it answers with a text's words in reverse."""
import argparse, hmac, http.client, json, os, signal, threading, time, urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

cli = argparse.ArgumentParser(allow_abbrev=False)
for flag in ("--worker-id", "--model", "--model-ref", "--backend", "--device", "--hive-url"):
    cli.add_argument(flag, required=True)
cli.add_argument("--port", type=int, required=True)
cli.add_argument("--host", default="127.0.0.1")
cli.add_argument("--slots", type=int, default=1)
cli.add_argument("--heartbeat", type=float, default=30)
args = cli.parse_args()
bearer = "Bearer " + os.environ["RBEE_WORKER_TOKEN"]
hive = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is not for the hive
loaded, changed, lock, free = threading.Event(), threading.Event(), threading.Lock(), args.slots

def call(path, **body):
    """Whether the hive answered 200: it may be away, slow or wrong for a while."""
    headers = {"Authorization": bearer, "Content-Type": "application/json"}
    request = urllib.request.Request(args.hive_url.rstrip("/") + path, json.dumps(body).encode(), headers)
    try:
        with hive.open(request, timeout=5) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException) as error:
        print(f"not heard path={path} error={error!r}", flush=True)
        return False

def tell():
    try:
        os.stat(args.model)  # here a model would be loaded
    except OSError as error:
        print(error, flush=True)
        os._exit(1)
    loaded.set()
    url = f"http://{args.host}:{args.port}"
    while not call("/v1/workers/ready", worker_id=args.worker_id, url=url, model_ref=args.model_ref,
                   backend=args.backend, device=args.device, slots_total=args.slots):
        time.sleep(1)
    while True:
        changed.clear()
        now = datetime.now(timezone.utc).isoformat()
        heard = call("/v1/heartbeat", worker_id=args.worker_id, timestamp=now, health_status="healthy",
                     state="ready" if free else "busy", slots_total=args.slots, slots_available=free)
        changed.wait(args.heartbeat if heard else min(args.heartbeat, 5))

def use_slot(n):
    """Takes a slot (1) or gives it back (-1), and lets the hive know at once."""
    global free
    with lock:
        if free < n:
            return False
        free -= n
    changed.set()
    return True

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, text=""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.answer((200 if loaded.is_set() else 503) if self.path == "/health" else 404)

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/v1/shutdown":
            known = hmac.compare_digest(self.headers.get("Authorization", "").encode(), bearer.encode())
            self.answer(200 if known else 401)
            if known:
                os.kill(os.getpid(), signal.SIGTERM)
        elif self.path != "/v1/reverse":
            self.answer(404)
        elif use_slot(1):
            words = text.split()
            time.sleep(len(words) / 10)
            use_slot(-1)
            self.answer(200, " ".join(reversed(words)))
        else:
            self.answer(503, "no slot is free")

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
server = ThreadingHTTPServer((args.host, args.port), Handler)
for work in (server.serve_forever, tell):
    threading.Thread(target=work, daemon=True).start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
os._exit(0)  # requests under way are cut off
