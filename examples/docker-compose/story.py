#!/usr/bin/env python3
"""The demo in containers: brings docker-compose.yml up, sends requests from inside the mesh and from outside of it, tells for each
what was expected and what came, and takes everything away again. `--once` ends after the story; without it the mesh stays until ctrl-C."""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE = os.environ.get("HOPGUARD_IMAGE", "hopguard:local")
SERVICES = ("web", "orders", "payments")


class Failed(Exception):
    pass


def run(*command, stdin="", check=True, timeout=120):
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=timeout, cwd=HERE)
    if check and done.returncode:
        raise Failed(f"{' '.join(command[:6])}: {done.stderr.strip() or done.stdout.strip()}")
    return done


class Mesh:
    def __init__(self, project):
        self.project = project
        compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self.compose = [*compose, "-p", project, "-f", "docker-compose.yml"]
        info = json.loads(run("docker", "info", "--format", "{{json .}}").stdout)
        if info.get("CgroupVersion") == "2":
            if compose[0] == "docker-compose":
                raise Failed("this engine gives each container a cgroup namespace of its own, where the authority could prove nothing; "
                             "use Compose v2, or set \"default-cgroupns-mode\": \"host\" in /etc/docker/daemon.json")
            self.compose += ["-f", "docker-compose.cgroup2.yml"]
        self.environment = dict(os.environ)
        self.environment["HOPGUARD_CA_UID"] = str(os.stat(os.path.join(HERE, "entries.toml")).st_uid)
        if info.get("CgroupDriver") == "systemd":
            for service in SERVICES:
                self.environment[f"HOPGUARD_CGROUP_{service.upper()}"] = f"hopguarddemo-{service}.slice"

    def __call__(self, *arguments, check=True):
        done = subprocess.run([*self.compose, *arguments], text=True, capture_output=True, cwd=HERE, env=self.environment)
        if check and done.returncode:
            raise Failed(f"compose {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def container(self, service):
        name = self("ps", "-q", service).strip()
        if not name:
            raise Failed(f"{service} has no container")
        return name

    def down(self):
        # A container that joined another's network is removed before it.
        self("down", "--volumes", "--remove-orphans", "-t", "20", check=False)

    def call(self, place, *arguments, token="", user="10001"):
        """One call from within the network of a service, or from outside of the mesh (`laptop`)."""
        if place == "laptop":
            network = f"{self.project}_mesh"
        else:
            network = f"container:{self.container(place + '-net')}"
        command = ["docker", "run", "--rm", "-i", "--read-only", "--cap-drop", "ALL", "--user", user, "--network", network,
                   "-v", f"{self.project}_idp-secrets:/provider:ro", IMAGE, "demo", "call", *arguments]
        if token:
            command.append("--bearer")
        done = run(*command, stdin=token, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failed(f"demo call {' '.join(arguments)}: {done.stderr.strip()}") from None

    def token(self, user, flaw="none"):
        said = self.call("laptop", "POST", "https://idp:8443/token", "--ca", "/provider/idp-ca.pem", "--form", f"user={user}&flaw={flaw}", user="0")
        return said["body"]["access_token"]

    def records(self, service):
        text = run("docker", "logs", self.container(service + "-sidecar")).stdout
        found = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("direction") == "inbound" and record.get("kind") == "request":
                found.append(record)
        return found

    def counted(self):
        """How many requests the application of payments counted, asked for within its network, past its sidecar."""
        return self.call("payments", "GET", "http://127.0.0.1:8080/count")["body"]["count"]

    def hop(self, service, trace):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for record in self.records(service):
                if record.get("trace_id") == trace:
                    return record
            time.sleep(0.1)
        return None


def scenarios(mesh):
    alice = mesh.token("alice")
    order = ("laptop", "POST", "http://web:8080/order")
    to_15008, to_8080 = "https://payments:15008/charge", "https://payments:8080/charge"
    yield 1, "alice, who is a clerk, orders: three hops, each with its own decision", [(order, alice, [])], 200
    yield 2, "bob, who has no role, orders: payments is the first that minds", [(order, mesh.token("bob"), [])], 403
    yield 3, "web skips orders and calls payments itself with alice's valid token", [(("web", "POST", "http://payments:8080/charge"), alice, [])], 403
    yield 4, "a container without identity replays alice's token: refused before HTTP", [
        (("laptop", "POST", url), alice, more) for url in (to_15008, to_8080) for more in ([], ["--self-made"])], None
    yield 5, "the same container speaks plaintext to the port of payments", [(("laptop", "POST", "http://payments:8080/charge"), alice, [])], None
    yield 6, "forged tokens: alg none, another key, expired", [
        (order, mesh.token("alice", flaw), []) for flaw in ("alg_none", "wrong_key", "expired")], 401
    yield 7, "payments, whom the policy allows, replays alice's token at orders: it is web's", [(("payments", "POST", "http://orders:8080/order"), alice, [])], 401


HOPS = {1: [("web", "allow"), ("orders", "allow"), ("payments", "allow")], 2: [("web", "allow"), ("orders", "allow"), ("payments", "deny")],
        3: [("payments", "deny")], 6: [("web", "deny")], 7: [("orders", "deny")]}


def play(mesh, number, attempts, wanted):
    before = mesh.counted()
    problems, hops, statuses = [], [], []
    for (place, *arguments), token, more in attempts:
        trace = secrets.token_hex(16)
        said = mesh.call(place, *arguments, *more, "--traceparent", f"00-{trace}-{trace[:16]}-01", token=token)
        statuses.append(said["status"])
        if said["status"] != wanted:
            problems.append(f"{arguments[1]}: {said}")
        for service, verdict in HOPS.get(number, []):
            record = mesh.hop(service, trace)
            seen = ((record or {}).get("decision") or {}).get("verdict")
            hops.append({"service": service, "decision": seen, "record": record})
            if seen != verdict:
                problems.append(f"{service} decided {seen} instead of {verdict}")
    counted = mesh.counted() - before
    expected = len(attempts) if wanted == 200 else 0
    if counted != expected:
        problems.append(f"the application of payments counted {counted} requests instead of {expected}")
    return {"expected": {"status": wanted, "application_requests": expected}, "observed": {"statuses": statuses, "application_requests": counted},
            "hops": hops, "ok": not problems, "problems": problems}


def describe(record):
    if record is None:
        return "no record"
    decision, source, user = (record.get(key) or {} for key in ("decision", "src", "user"))
    words = [str(decision.get("verdict")), f"from {source.get('spiffe_id') or source.get('addr')}"]
    if user.get("sub"):
        words.append(f"for {user['sub']}")
    if decision.get("rule"):
        words.append(f"by {decision['rule']}")
    else:
        words.append(str(decision.get("reason")))
    if (decision.get("needs") or {}).get("rule"):
        words.append(f"needs {decision['needs']['rule']}")
    return ", ".join(words)


def tell(mesh, as_json):
    outcomes = []
    for number, title, attempts, wanted in scenarios(mesh):
        outcome = {"id": number, "title": title, **play(mesh, number, attempts, wanted)}
        outcomes.append(outcome)
        if as_json:
            continue
        came = ", ".join("refused" if status is None else str(status) for status in outcome["observed"]["statuses"])
        print(f"{number}. {title}\n   {'as it must be' if outcome['ok'] else 'NOT as it must be'}: {came}")
        for hop in outcome["hops"]:
            print(f"     {hop['service']:9} {describe(hop['record'])}")
        for problem in outcome["problems"]:
            print(f"     ! {problem}")
        sys.stdout.flush()
    ok = all(outcome["ok"] for outcome in outcomes)
    if as_json:
        print(json.dumps({"ok": ok, "scenarios": outcomes}))
    return ok


def stay(mesh):
    print(f"\nThe mesh stays until ctrl-C. Try: docker-compose -p {mesh.project} logs -f payments-sidecar", flush=True)
    while True:
        time.sleep(3600)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--once", action="store_true", help="end after the story")
    arguments.add_argument("--json", action="store_true", help="one JSON document instead of text")
    arguments.add_argument("--project", default="hopguard-demo", help="Compose's project name")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    mesh = Mesh(options.project)
    try:
        print("bringing the mesh up ...", file=sys.stderr)
        mesh("up", "-d")
        ok = tell(mesh, options.json)
        if not options.once:
            stay(mesh)
        return 0 if ok else 1
    except KeyboardInterrupt:
        return 130
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        for service in ("ca", "idp", *(f"{service}-{part}" for service in SERVICES for part in ("redirect", "sidecar"))):
            said = mesh("logs", "--no-color", "--tail", "5", service, check=False).strip()
            if said:
                print(said, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("taking it away ...", file=sys.stderr)
        mesh.down()


if __name__ == "__main__":
    sys.exit(main())
