#!/usr/bin/env bash
# Builds hopguard:local (sidecar, authority, command line) and hopguard-redirect:local (the same with iptables).
# With a registry: the Dockerfile as it is. Without one: base images made on the spot from Debian's packages, and the binary built
# by this machine's Rust.
#   BASE, BUILDER   images to build from, as in the Dockerfile
#   BINARY          a binary that is built already (it is stripped, never built)
#   TAG             instead of `local`
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-debian:bookworm-slim}
BUILDER=${BUILDER:-rust:1.95-bookworm}
TAG=${TAG:-local}
say() { echo "image: $*" >&2; }

command -v docker >/dev/null || { say "docker is not installed (Debian: apt-get install docker.io)"; exit 4; }
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || { say "no Docker engine answers: start it, or join the group docker"; exit 4; }

here() { docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1; }

if [ -z "${BINARY:-}" ] && here "$BASE" && here "$BUILDER"; then
  docker build -q --build-arg "BASE=$BASE" --build-arg "BUILDER=$BUILDER" --target redirect -t "hopguard-redirect:$TAG" . >/dev/null
  docker build -q --build-arg "BASE=$BASE" --build-arg "BUILDER=$BUILDER" -t "hopguard:$TAG" . >/dev/null
  say "hopguard:$TAG and hopguard-redirect:$TAG, from $BASE"
  exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/context"
if [ -z "${BINARY:-}" ]; then
  say "no registry gives $BASE and $BUILDER: the binary is built here, the base is made from this machine's Debian packages"
  "${CARGO:-cargo}" build --locked --release -p hopguard
  BINARY=target/release/hopguard
fi
command -v strip >/dev/null || { say "strip is missing (Debian: apt-get install binutils)"; exit 4; }
strip -o "$work/context/hopguard" "$BINARY"
chmod 0755 "$work/context/hopguard"

# A root file system of packages, unpacked and not installed: no shell, no package manager, no setuid program.
base() { # NAME PACKAGE...
  local name=$1 root=$work/root.${1%%:*} packages=$work/packages.${1%%:*}
  shift
  mkdir -p "$root" "$packages"
  chmod 0755 "$work"
  chmod 0777 "$packages"
  local all
  all=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    grep -E '^(lib|iptables$|ca-certificates$)' | sed 's/:.*//' | sort -u | grep -vE '^(libcrypt|libdebconf|libssl|libpcre|libselinux|libperl|libgdbm|libdb)')
  # shellcheck disable=SC2086
  (cd "$packages" && apt-get download -qq $all >&2) || { say "Debian's packages cannot be fetched: apt-get update, or set BASE to an image that is here"; exit 4; }
  for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$root"; done
  rm -rf "$root"/usr/share/{doc,man,locale,lintian,bash-completion,bug} "$root"/usr/lib/*/gconv "$root"/usr/lib/*/perl* "$root"/usr/share/perl*
  mkdir -p "$root"/{etc/ssl/certs,proc,sys,dev,run,tmp,usr/local/bin,var/lib/hopguard}
  chmod 1777 "$root/tmp"
  cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
  printf 'root:x:0:0::/:/nonexistent\nhopguard:x:10015:10015::/var/lib/hopguard:/nonexistent\nnobody:x:65534:65534::/:/nonexistent\n' > "$root/etc/passwd"
  printf 'root:x:0:\nhopguard:x:10015:\nnogroup:x:65534:\n' > "$root/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$root/etc/nsswitch.conf"
  chown -R 10015:10015 "$root/var/lib/hopguard" 2>/dev/null || true
  # What Debian's alternatives would link.
  for program in iptables ip6tables; do
    for end in '' -save -restore; do
      [ -e "$root/usr/sbin/xtables-nft-multi" ] && ln -sf xtables-nft-multi "$root/usr/sbin/$program$end"
    done
  done
  tar -C "$root" --numeric-owner -c . | docker import -c 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$name" >/dev/null
}
base "hopguard-base:$TAG" libc6 libgcc-s1 ca-certificates
base "hopguard-redirect-base:$TAG" libc6 libgcc-s1 ca-certificates iptables

# The Dockerfile's own last stages, upon those bases.
stage() { sed -n "/ AS $1\$/,/^\$/p" Dockerfile | sed -e "s#^FROM .*#FROM $2#" -e 's#--from=build /hopguard#hopguard#'; }
stage redirect "hopguard-redirect-base:$TAG" > "$work/context/Dockerfile.redirect"
stage hopguard "hopguard-base:$TAG" > "$work/context/Dockerfile.hopguard"
for part in hopguard redirect; do
  name=hopguard:$TAG
  if [ $part = redirect ]; then name=hopguard-redirect:$TAG; fi
  DOCKER_BUILDKIT=0 docker build -q -t "$name" -f "$work/context/Dockerfile.$part" "$work/context" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
done
say "hopguard:$TAG and hopguard-redirect:$TAG, from Debian's packages of this machine"
