#!/usr/bin/env python3
"""A worker without an engine: it answers every question with the size of its model."""
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1:] == ["--version"]:
    print("plain-script 1.0")
    sys.exit()
HOST, PORT, MODEL = sys.argv[1:]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"ok\n" if self.path == "/health" else f"{os.path.getsize(MODEL)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


print(f"serving {MODEL}")
ThreadingHTTPServer((HOST, int(PORT)), Handler).serve_forever()
