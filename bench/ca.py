#!/usr/bin/env python3
"""How many SVIDs one core of the authority gives: through the Workload API, each a new key and a new certificate for an attested
caller, checked against its profile and on the disk (store and audit log) before it leaves.

    bench/ca.py [--seconds 5] [--rounds 3] [--profile]

The optimised authority runs on one core, its clients on the others. Three ways to come: `streams` stay open and are renewed when
half of a life of 2 s has passed, `calls` are new calls on open connections, `connections` are a new connection each. CPU is read from
/proc: `svids_per_core_second` is one second divided by the CPU time (user and system) of the authority per SVID, `per_second` what
came out while others wanted something of the same machine. Medians over the rounds; ends with one JSON line. With `--profile`, perf
says where the time goes.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOPGUARD = ROOT / "target/release/hopguard"
CLIENT = ROOT / "target/release/hopguard-svids"
TICK = os.sysconf("SC_CLK_TCK")
SHAPES = {
    "streams": ["--mode", "streams", "--parallel", "20", "--streams", "4000"],
    "calls": ["--mode", "calls", "--parallel", "64"],
    "connections": ["--mode", "connections", "--parallel", "64"],
}


def cpu(pid):
    """User and system CPU seconds of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) / TICK, int(fields[12]) / TICK


def rss(pid):
    """Resident KiB of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class Authority:
    def __init__(self, folder, ttl):
        self.folder = pathlib.Path(folder)
        uid = os.getuid()
        (self.folder / "entries.toml").write_text(
            f'[[entry]]\nspiffe_id = "spiffe://bench.local/ns/bench/sa/client"\nselectors = ["unix:uid:{uid}"]\n')
        # The limits of one uid are lifted here, because one uid plays all workloads; a real authority keeps them.
        (self.folder / "ca.toml").write_text(
            f'trust_domain = "bench.local"\ndata_dir = "data"\nentries = "entries.toml"\nsvid_ttl = "{ttl}"\naudit = "audit.log"\n'
            '[[workload_api]]\nsocket = "w.sock"\n'
            '[limits]\nconnections = 4096\nconnections_per_uid = 4096\nstreams_per_connection = 1000\n'
            'calls_per_second = 10000000\ncall_burst = 10000000\n')
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen([*pin(0), HOPGUARD, "ca", "serve", self.folder / "ca.toml"],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        if not self.process.stdout.readline().startswith("unix://"):
            sys.exit("the authority did not start: " + (self.folder / "log").read_text())

    def load(self, shape, seconds):
        command = [*pin(1), CLIENT, "--socket", self.folder / "w.sock", "--seconds", str(seconds), *SHAPES[shape]]
        before = cpu(self.process.pid)
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        after = cpu(self.process.pid)
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        if result["failed"] or result["distinct"] != result["svids"] or not result["svids"]:
            sys.exit(f"it did not go as it must: {result}")
        user, system = (1e6 * (now - was) / result["svids"] for now, was in zip(after, before))
        result.update(user_us=user, system_us=system, cpu_us=user + system)
        return result

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def pin(side):
    """The authority alone on one core, everybody else on the others; on a machine with one, together."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return []
    chosen = cores[:1] if side == 0 else cores[1:]
    return ["taskset", "-c", ",".join(map(str, chosen))]


def floor():
    """What the cryptography of one SVID takes alone (a key, a signature, its verification), on the core of the authority, here and now."""
    done = subprocess.run([*pin(0), CLIENT, "--mode", "floor", "--seconds", "1"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def profile(authority, shape):
    """The functions in which the authority spends its time, the most expensive first."""
    data = authority.folder / "perf.data"
    recorder = subprocess.Popen(["perf", "record", "-q", "-F", "1999", "-g", "-p", str(authority.process.pid), "-o", data],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    authority.load(shape, 5)
    recorder.send_signal(2)
    recorder.wait()
    report = subprocess.run(["perf", "report", "-i", data, "--no-children", "-g", "none", "--percent-limit", "0.7", "--stdio"],
                            capture_output=True, text=True)
    lines = [line for line in report.stdout.splitlines() if line.strip() and not line.startswith("#")]
    print(f"--- {shape}: where the authority's time goes\n" + "\n".join(lines[:60]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    report, floors = {}, []
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            authority = Authority(folder, "2s" if shape == "streams" else "1h")
            try:
                start = rss(authority.process.pid)
                authority.load(shape, 3)
                rounds = []
                for _ in range(options.rounds):
                    floors.append(floor())
                    rounds.append(authority.load(shape, options.seconds))
                middle = lambda pick: statistics.median(pick(one) for one in rounds)
                figures = {
                    "svids_per_core_second": round(1e6 / middle(lambda one: one["cpu_us"])),
                    "cpu_us": round(middle(lambda one: one["cpu_us"]), 1),
                    "user_us": round(middle(lambda one: one["user_us"]), 1),
                    "system_us": round(middle(lambda one: one["system_us"]), 1),
                    "per_second": round(middle(lambda one: one["svids"] / one["seconds"])),
                    "p50_us": middle(lambda one: one["p50_us"]),
                    "p99_us": middle(lambda one: one["p99_us"]),
                    "rss_kib_at_start": start,
                    "rss_kib_after": rss(authority.process.pid),
                }
                report[shape] = figures
                print(f"{shape}: {figures['cpu_us']} us of CPU an SVID ({figures['user_us']} user, {figures['system_us']} system), "
                      f"{figures['svids_per_core_second']} a second of one core; {figures['per_second']} a second came, "
                      f"p50 {figures['p50_us']} us, p99 {figures['p99_us']} us")
                if options.profile:
                    profile(authority, shape)
            finally:
                authority.end()
    report["floor"] = {key: round(statistics.median(one[key] for one in floors), 1) for key in floors[0]}
    print(f"the cryptography alone, on the same core meanwhile: {report['floor']}")
    print(json.dumps(report))


main()
