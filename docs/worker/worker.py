#!/usr/bin/env python3
"""A whole native worker of rbee-hive, standard library alone. It answers with a text's words in reverse."""
import argparse, http.client, http.server, json, os, threading, time, urllib.request

cli = argparse.ArgumentParser(allow_abbrev=False)
for name in ("worker-id", "model", "model-ref", "backend", "device", "port", "hive-url"):
    cli.add_argument("--" + name, required=True)
for name, default in (("host", "127.0.0.1"), ("slots", 1), ("heartbeat", 30.0)):
    cli.add_argument("--" + name, type=type(default), default=default)
args = cli.parse_args()
headers = {"Authorization": "Bearer " + os.environ["RBEE_WORKER_TOKEN"], "Content-Type": "application/json"}
hive = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is not for the hive
free, changed = args.slots, threading.Condition()

def call(path, **body):
    request = urllib.request.Request(args.hive_url + path, json.dumps(body).encode(), headers)
    try:
        return hive.open(request, timeout=5).status == 200
    except (OSError, http.client.HTTPException) as error:  # it may be away, slow or wrong for a while
        print(f"not heard path={path} error={error!r}", flush=True)

def use_slots(n):  # waits for as many, or gives them back if n is negative; a heartbeat tells of it at once
    global free
    with changed:
        changed.wait_for(lambda: free >= n)
        free -= n
        changed.notify_all()

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text=""):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404)
    def do_POST(self):
        words = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode().split()
        if self.path != "/v1/shutdown":
            use_slots(1)
            time.sleep(len(words) / 10)
            use_slots(-1)
            self.answer(200, " ".join(reversed(words)))
        elif self.headers["Authorization"] == headers["Authorization"]:
            self.answer(200)
            os._exit(0)  # requests under way are cut off
        else:
            self.answer(401)

server = http.server.ThreadingHTTPServer((args.host, int(args.port)), Handler)
os.stat(args.model)  # here a model would be loaded
threading.Thread(target=server.serve_forever, daemon=True).start()
while not call("/v1/workers/ready", worker_id=args.worker_id, url=f"http://{args.host}:{args.port}",
               model_ref=args.model_ref, backend=args.backend, device=args.device, slots_total=args.slots):
    time.sleep(1)
while True:
    told, now = free, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    heard = call("/v1/heartbeat", worker_id=args.worker_id, timestamp=now, health_status="healthy",
                 state="ready" if told else "busy", slots_total=args.slots, slots_available=told)
    with changed:
        changed.wait_for(lambda: free != told, args.heartbeat if heard else min(args.heartbeat, 5))
