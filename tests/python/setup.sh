#!/bin/sh
# Makes target/pyenv with what others wrote and we are tested against, from PyPI, once: two SPIFFE clients and gRPC's own
# reflection and health clients (for our Workload API), Canaille (an OpenID provider), PyJWT, Authlib and joserfc (JWT
# libraries), a WebSocket client, the schemas of Kubernetes. Prints the path of its python. Says precisely what is missing, and exits with 4 then.
set -eu

# Moved by hand, after reading what changed.
WANT="spiffe==0.3.2 spiffe-defakto==1.1.0 grpcio-reflection==1.85.1 grpcio-health-checking==1.85.1 canaille[oidc]==0.3.6 websockets==17.4 pyjwt[crypto]==2.15.1 authlib==1.9.10 joserfc==1.8.0 kubernetes-validate==1.37.0"

root=$(cd "$(dirname "$0")/../.." && pwd)
env=${CARGO_TARGET_DIR:-$root/target}/pyenv

missing() {
    echo "tests/python/setup.sh: $1" >&2
    echo "  hint: $2" >&2
    exit 4
}

command -v python3 >/dev/null || missing "python3 is not installed" "apt-get install python3 python3-venv"
mkdir -p "$(dirname "$env")"
# Tests run in parallel: one builds, the others wait.
exec 9>"$env.lock"
flock 9

if [ "$(cat "$env/.ready" 2>/dev/null)" != "$WANT" ]; then
    rm -rf "$env"
    python3 -m venv "$env" >"$env.log" 2>&1 ||
        missing "python3 -m venv fails: $(tail -n 1 "$env.log")" "apt-get install python3-venv"
    # shellcheck disable=SC2086 # one word for each package
    "$env/bin/pip" install --quiet --disable-pip-version-check $WANT >"$env.log" 2>&1 ||
        missing "pip cannot install $WANT: $(tail -n 1 "$env.log")" \
            "is PyPI reachable? PIP_INDEX_URL names a mirror, PIP_FIND_LINKS a folder of wheels"
    echo "$WANT" >"$env/.ready"
fi
echo "$env/bin/python"
