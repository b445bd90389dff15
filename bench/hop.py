#!/usr/bin/env python3
"""What a hop costs: the same load once direct, once through two sidecars, in one run on this machine.

    bench/hop.py [--seconds 5] [--rounds 3]

Brings up the demo's mesh with the optimised binary, sends POST requests from pod orders to payments with alice's token (mutual TLS,
JWT, policy and a record on each), and the same requests between two pods without sidecars. CPU is read from /proc, latency by the
client. Medians over the rounds; ends with one JSON line. Two noisy cores are shared by client, sidecars and application, so
quote ratios and CPU, not throughput.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOPGUARD = ROOT / "target/release/hopguard"
LOAD = ROOT / "target/release/hopguard-load"
TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """User and system CPU seconds of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss(pid):
    """Resident KiB of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class Mesh:
    def __init__(self):
        self.name = f"bench-{os.getpid()}"
        command = [HOPGUARD, "demo", "up", "--bare", "--name", self.name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the mesh did not come up; try `hopguard demo --once`")
        self.ready = json.loads(line)

    def run(self, pod, *line):
        command = [HOPGUARD, "demo", "exec", "--name", self.name, pod, "--", *map(str, line)]
        return subprocess.run(command, capture_output=True, text=True)

    def start(self, pod, *line):
        command = [HOPGUARD, "demo", "exec", "--name", self.name, pod, "--", *map(str, line)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def token(self):
        command = [HOPGUARD, "demo", "token", "--name", self.name, "alice"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def load(mesh, pod, url, options, *more):
    done = mesh.run(pod, LOAD, "--url", url, *options, *more)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if result["failed"] or set(result["statuses"]) != {"200"}:
        sys.exit(f"requests failed: {result}")
    return result


def measure(mesh, shape, seconds, token):
    """One round of one shape: direct, then through the mesh."""
    options = ["--seconds", seconds, *shape]
    direct = load(mesh, "laptop", "http://stranger:8090/charge", [*options, "--method", "POST"])
    pids = [mesh.ready["pids"][name] for name in ("orders", "payments")]
    before = [cpu(pid) for pid in pids]
    meshed = load(mesh, "orders", "http://payments:8080/charge", [*options, "--method", "POST"], "--header", f"authorization: Bearer {token}")
    spent = [cpu(pid) - was for pid, was in zip(pids, before)]
    per = [1e6 * seconds_ / meshed["answered"] for seconds_ in spent]
    return {"direct": direct, "mesh": meshed, "cpu_us": per}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    mesh = Mesh()
    try:
        plain = mesh.start("stranger", HOPGUARD, "demo", "app", "payments", "--port", "8090")
        idle = {name: rss(mesh.ready["pids"][name]) for name in ("orders", "payments", "ca")}
        token = mesh.token()
        shapes = {"one connection": ["--connections", 1], "64 keep-alive": ["--connections", 64],
                  "new connection each": ["--connections", 16, "--new-connections"]}
        for shape in shapes.values():
            measure(mesh, shape, 1, token)
        report = {"rss_kib_at_start": idle, "shapes": {}}
        print(f"RSS at start: sidecar of orders {idle['orders']} KiB, of payments {idle['payments']} KiB, CA {idle['ca']} KiB")
        for name, shape in shapes.items():
            rounds = [measure(mesh, shape, options.seconds, token) for _ in range(options.rounds)]
            middle = lambda pick: statistics.median(pick(r) for r in rounds)
            figures = {
                "cpu_us_client_sidecar": round(middle(lambda r: r["cpu_us"][0]), 1),
                "cpu_us_server_sidecar": round(middle(lambda r: r["cpu_us"][1]), 1),
                "p50_us_direct": middle(lambda r: r["direct"]["p50_us"]),
                "p50_us_mesh": middle(lambda r: r["mesh"]["p50_us"]),
                "p99_us_direct": middle(lambda r: r["direct"]["p99_us"]),
                "p99_us_mesh": middle(lambda r: r["mesh"]["p99_us"]),
                "requests_per_s_direct": round(middle(lambda r: r["direct"]["answered"] / r["direct"]["seconds"])),
                "requests_per_s_mesh": round(middle(lambda r: r["mesh"]["answered"] / r["mesh"]["seconds"])),
            }
            report["shapes"][name] = figures
            print(f"{name}: CPU {figures['cpu_us_client_sidecar']} + {figures['cpu_us_server_sidecar']} us a request; "
                  f"p50 {figures['p50_us_direct']} -> {figures['p50_us_mesh']} us, "
                  f"p99 {figures['p99_us_direct']} -> {figures['p99_us_mesh']} us")
        report["rss_kib_after_load"] = {name: rss(mesh.ready["pids"][name]) for name in ("orders", "payments", "ca")}
        plain.terminate()
        print(json.dumps(report))
    finally:
        mesh.end()


main()
