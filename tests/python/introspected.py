"""Canaille, an OpenID provider from PyPI, with opaque tokens: on plain loopback, behind a front that counts the questions.

usage: introspected.py PORT SECRET

The issuer is `http://127.0.0.1:PORT/`. Prints `ready` when it serves. The front's own: `/_/count` says how often the
introspection endpoint was asked, `/_/revoke?TOKEN` revokes a token.
"""

import datetime
import logging
import sys
import threading

from werkzeug.serving import make_server

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend

PORT, SECRET = int(sys.argv[1]), sys.argv[2]
NOW = datetime.datetime.now(datetime.timezone.utc)

app = create_app(
    {
        "TESTING": True,
        "SECRET_KEY": SECRET,
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"JAVASCRIPT": False, "LOGGING": None},
        "CANAILLE_OIDC": {},
    }
)


def saved(model):
    Backend.instance.save(model)
    return model


def client(name):
    return saved(
        models.Client(
            client_id=name,
            client_name=name,
            contacts=["alice@example.com"],
            client_uri="http://127.0.0.1",
            redirect_uris=["http://127.0.0.1/back"],
            client_id_issued_at=NOW,
            client_secret=SECRET,
            client_secret_expires_at=None,
            grant_types=["password"],
            response_types=["code"],
            scope=["openid", "profile"],
            token_endpoint_auth_method="client_secret_basic",
        )
    )


with app.app_context():
    alice = saved(
        models.User(
            formatted_name="Alice",
            family_name="Alice",
            user_name="alice",
            emails=["alice@example.com"],
            password=SECRET,
        )
    )
    shop, other = client("shop"), client("other")
    for name, audience, lifetime in [
        ("opaque-alice", [shop, other], 3600),
        ("opaque-alice-2", [shop], 3600),
        ("opaque-slow", [shop], 3600),
        ("opaque-storm", [shop], 3600),
        ("opaque-other", [other], 3600),
        ("opaque-old", [shop], -60),
    ]:
        saved(
            models.Token(
                token_id=name,
                access_token=name,
                refresh_token=f"refresh-{name}",
                client=other,
                subject=alice,
                type="Bearer",
                scope=["openid", "profile"],
                issue_date=NOW,
                lifetime=lifetime,
                audience=audience,
            )
        )

asked, lock = 0, threading.Lock()


def front(environ, start):
    global asked
    path = environ["PATH_INFO"]
    if path == "/_/count":
        start("200 OK", [])
        return [str(asked).encode()]
    if path == "/_/revoke":
        with app.app_context():
            token = Backend.instance.get(models.Token, access_token=environ["QUERY_STRING"])
            token.revokation_date = datetime.datetime.now(datetime.timezone.utc)
            Backend.instance.save(token)
        start("200 OK", [])
        return [b"revoked"]
    if path == "/oauth/introspect":
        with lock:
            asked += 1
    return app(environ, start)


logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", PORT, front, threaded=True)
print("ready", flush=True)
server.serve_forever()
