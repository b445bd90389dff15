#!/usr/bin/env bash
# Installs what `make demo` or `make test` need beside Rust (as root on Debian), or says precisely what is missing.
set -euo pipefail
want=${1:-test}
export PATH="$PATH:/usr/sbin:/sbin"

# program:package
needs=(ip:iproute2 iptables-restore:iptables ip6tables-restore:iptables cc:gcc)
if [ "$want" = test ]; then
  needs+=(curl:curl openssl:openssl nginx:nginx-light tcpdump:tcpdump python3:python3 unshare:util-linux setpriv:util-linux nsenter:util-linux)
fi

missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null 2>&1 || missing+=("${need##*:}")
done
if [ "$want" = test ] && command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}" >&2
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  else
    echo "missing programs; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
command -v cargo >/dev/null || { echo "missing: cargo (https://rustup.rs; the toolchain is named in rust-toolchain.toml)" >&2; exit 1; }

if ! unshare -Urn true 2>/dev/null; then
  echo "this kernel does not let this user make user namespaces, which the demo and its tests live in." >&2
  echo "one of: sysctl kernel.unprivileged_userns_clone=1 · sysctl kernel.apparmor_restrict_unprivileged_userns=0 · sysctl user.max_user_namespaces=10000 · run as root" >&2
  exit 1
fi

if [ "$want" = test ]; then
  tests/python/setup.sh
fi
