"""Classify images over HTTP.

python service.py BUNDLE
curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
"""

import argparse
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import edgekit
from edgekit.errors import EdgekitError, ImageError

MOST_BYTES = 20_000_000


class Service(ThreadingHTTPServer):
    """A thread for each request; all of them share the session, which follows the bundle's link."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], classifier: edgekit.LiveSession) -> None:
        super().__init__(address, Handler)
        self.classifier = classifier


class Handler(BaseHTTPRequestHandler):
    server: Service
    timeout = 30  # seconds that a client may be silent

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, {"status": "ok"})
        else:
            self.answer(404, {"error": f"there is no {self.path}: POST an image to /classify, or GET /health"})

    def do_POST(self) -> None:
        if self.path != "/classify":
            self.answer(404, {"error": f"there is no {self.path}: POST an image to /classify"})
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            problem = f"Content-Length is '{length}': send an image of at most {MOST_BYTES} bytes with its length"
            self.answer(413 if length.isdecimal() else 411, {"error": problem})
            return
        try:
            best = self.server.classifier.classify(self.rfile.read(int(length)))
        except ImageError as error:
            self.answer(400, {"error": str(error)})
        except EdgekitError as error:
            self.answer(500, {"error": str(error)})
        else:
            self.answer(200, {"labels": [{"label": label, "score": score} for label, score in best]})

    def answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify images over HTTP.")
    parser.add_argument("bundle", help="folder of a bundle, or the link that `edgekit push` switches")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000; 0: any free port)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # `docker stop` sends it
    with edgekit.follow(options.bundle) as classifier:
        try:
            service = Service((options.host, options.port), classifier)
        except OSError as error:
            sys.exit(f"Can't listen on {options.host}:{options.port}: {error.strerror}. Choose another --port.")
        with service:
            print(f"listening on http://{options.host}:{service.server_port}", flush=True)
            service.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except EdgekitError as error:
        sys.exit(str(error))
