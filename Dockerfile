# hopguard's image: one binary, its own uid, no shell needed. `make image` builds it; docs/docker.md says how it is run.
# BUILDER: anything with Rust of rust-toolchain.toml, gcc and the same C library as BASE. BASE: any Debian-like image.
ARG BUILDER=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p hopguard && strip -o /hopguard target/release/hopguard

# The redirect step alone needs iptables, root and NET_ADMIN.
FROM ${BASE} AS redirect-base
RUN apt-get update && apt-get install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*

FROM redirect-base AS redirect
COPY --from=build /hopguard /usr/local/bin/hopguard
USER 0:0
ENTRYPOINT ["/usr/local/bin/hopguard"]
CMD ["iptables", "apply", "--uid", "10015"]

FROM ${BASE} AS hopguard
COPY --from=build /hopguard /usr/local/bin/hopguard
USER 10015:10015
ENTRYPOINT ["/usr/local/bin/hopguard"]
CMD ["sidecar", "--config", "/etc/hopguard/sidecar.toml"]
