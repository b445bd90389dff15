"""An application with the ports that probes ask: HTTP (8080: 200 at /healthz with the header `x-probe: yes`), TCP (6379) and
gRPC's own health service (9090: `shop` is serving, everything else is not known). Says `up` when all listen."""

import socket
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        well = self.path == "/healthz?full=1" and self.headers["x-probe"] == "yes"
        self.send_response(200 if well else 500)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass


tcp = socket.create_server(("0.0.0.0", 6379))
http = ThreadingHTTPServer(("0.0.0.0", 8080), Handler)
server = grpc.server(futures.ThreadPoolExecutor(2))
servicer = health.HealthServicer()
servicer.set("shop", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port("0.0.0.0:9090")
server.start()
threading.Thread(target=http.serve_forever, daemon=True).start()
print("up", flush=True)
while True:
    peer, _ = tcp.accept()
    try:
        peer.sendall(b"y")
    except OSError:
        pass
    peer.close()
