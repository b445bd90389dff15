"""Canaille, an OpenID provider from PyPI, on plain loopback, behind a front that counts what it is asked for and can misbehave.

usage: provider.py PORT...

Each port is an issuer of its own, `http://127.0.0.1:PORT/`, with the same keys. `/_/...` is the front's own: `count` says how often discovery and keys were asked for; `token` signs alice in at the provider's token
endpoint; `rotate` gives the provider a new key, and keeps the old ones published (`?forget` drops them); `be?WHAT` misbehaves for
discovery and keys: ok, down, slow, html, empty, half, huge, redirect, other_issuer.
"""

import json
import sys
import threading
import time

from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend

PORTS = [int(port) for port in sys.argv[1:]]
SECRET = "correct horse battery staple"


def key():
    return RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)


app = create_app(
    {
        "TESTING": True,
        "SECRET_KEY": SECRET,
        "CANAILLE": {"JAVASCRIPT": False, "LOGGING": None},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [key()]},
    }
)
with app.app_context():
    alice = models.User(
        formatted_name="Alice",
        family_name="Alice",
        user_name="alice",
        emails=["alice@example.com"],
        password=SECRET,
    )
    Backend.instance.save(alice)
    shop = models.Client(
        client_id="shop",
        client_name="Shop",
        contacts=["alice@example.com"],
        client_uri="http://127.0.0.1",
        redirect_uris=["http://127.0.0.1/back"],
        client_id_issued_at=None,
        client_secret=SECRET,
        client_secret_expires_at=None,
        grant_types=["password"],
        response_types=["code"],
        scope=["openid", "profile"],
        token_endpoint_auth_method="client_secret_basic",
    )
    Backend.instance.save(shop)
    shop.audience = [shop]
    Backend.instance.save(shop)

counts = {port: {"discovery": 0, "jwks": 0} for port in PORTS}
state = {port: "ok" for port in PORTS}
lock = threading.Lock()
PATHS = {"/.well-known/openid-configuration": "discovery", "/oauth/jwks.json": "jwks"}


def token(port):
    base = f"http://127.0.0.1:{port}/"
    form = {"grant_type": "password", "username": "alice", "password": SECRET, "scope": "openid profile"}
    answer = app.test_client().post("/oauth/token", data=form, auth=("shop", SECRET), base_url=base)
    if answer.status_code != 200:
        return "500 No Token", answer.get_data()
    return "200 OK", answer.json["access_token"].encode()


def own(port, path, query):
    if path == "/_/count":
        with lock:
            return "200 OK", json.dumps(counts[port]).encode()
    if path == "/_/token":
        return token(port)
    if path == "/_/rotate":
        keys = app.config["CANAILLE_OIDC"]
        old = keys["ACTIVE_JWKS"] + (keys["INACTIVE_JWKS"] or [])
        keys["INACTIVE_JWKS"] = None if query == "forget" else old
        keys["ACTIVE_JWKS"] = [key()]
        return "200 OK", b""
    if path == "/_/be":
        state[port] = query
        return "200 OK", b""
    return "404 Not Found", b""


def misbehave(what, be):
    """An answer in the provider's place: status, headers, body; or nothing."""
    kind = [("content-type", "application/json"), ("cache-control", "max-age=300")]
    if be == "down":
        return "503 Down", [], b"down"
    if be == "html":
        return "200 OK", [("content-type", "text/html")], b"<html>We will be back soon</html>"
    if be == "empty":
        return "200 OK", kind, b'{"keys": []}' if what == "jwks" else b"{}"
    if be == "half":
        return "200 OK", kind, b'{"keys": [{"kty": "RSA", "n": "'
    if be == "huge":
        return "200 OK", kind, b'{"keys": [], "pad": "' + b"x" * (1 << 20) + b'"}'
    if be == "redirect":
        return "302 Found", [("location", "http://127.0.0.2/jwks")], b""
    if be == "other_issuer" and what == "discovery":
        return "200 OK", kind, json.dumps({"issuer": "http://evil", "jwks_uri": "http://evil/jwks"}).encode()
    return None


def front_of(port):
    def front(environ, start):
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith("/_/"):
            status, body = own(port, path, query)
            start(status, [("content-length", str(len(body)))])
            return [body]
        what = PATHS.get(path)
        if what:
            with lock:
                counts[port][what] += 1
                be = state[port]
            if be == "slow":
                time.sleep(1)
            wrong = misbehave(what, be)
            if wrong:
                status, headers, body = wrong
                start(status, headers + [("content-length", str(len(body)))])
                return [body]
        return app.wsgi_app(environ, start)

    return front


servers = [make_server("127.0.0.1", port, front_of(port), threaded=True) for port in PORTS]
threads = [threading.Thread(target=server.serve_forever) for server in servers]
for thread in threads:
    thread.start()
print("ready", flush=True)
