//! The keys of `sidecar.toml`.

use super::{Key, Kind, Need, key};

pub(in crate::config) const SIDECAR: &[Key] = &[
    key(
        "service",
        Kind::Text,
        Need::Absent("required, unless `hopguard sidecar --service` says it"),
        "The service of the mesh file that this sidecar stands beside.",
    ),
    key(
        "mesh",
        Kind::Text,
        Need::Default("\"mesh.toml\""),
        "The mesh file.",
    ),
    key(
        "policies",
        Kind::Text,
        Need::Default("\"policies\""),
        "The folder of `*.cedar` files, loaded whole; sub-folders too. The `*.test.toml` files beside them run at each load: \
         a set that fails one is not loaded.",
    ),
    key(
        "shadow_policies",
        Kind::Text,
        Need::Absent("no second set is watched"),
        "A second folder of policies, decided after the first and never enforced: records and metrics say where its answer \
         would have been another one.",
    ),
    key(
        "addresses",
        Kind::Texts,
        Need::Absent("all addresses of the interfaces but loopback"),
        "The pod's own addresses, at which its application listens.",
    ),
    key(
        "identity",
        Kind::Table(IDENTITY),
        Need::Absent("all defaults"),
        "Where the sidecar's identity comes from.",
    ),
    key(
        "outbound",
        Kind::Table(OUTBOUND),
        Need::Absent("all defaults"),
        "Connections that the application opens.",
    ),
    key(
        "inbound",
        Kind::Table(INBOUND),
        Need::Absent("all defaults"),
        "Connections to the application.",
    ),
    key(
        "assertion",
        Kind::Table(ASSERTION),
        Need::Absent("no statement"),
        "A signed statement of caller and user for the application, in the header `x-hopguard-assertion` of each request that was allowed; an empty table takes all defaults. See [headers](headers.md).",
    ),
    key(
        "traffic",
        Kind::Table(TRAFFIC),
        Need::Absent("all defaults"),
        "How the redirect knows the sidecar's own traffic.",
    ),
    key(
        "health",
        Kind::Table(HEALTH),
        Need::Absent("all defaults"),
        "`/healthz` and `/readyz`.",
    ),
    key(
        "metrics",
        Kind::Table(METRICS),
        Need::Absent("all defaults"),
        "`/metrics`; holds no data about users.",
    ),
    key(
        "admin",
        Kind::Table(ADMIN),
        Need::Absent("all defaults"),
        "The administration socket.",
    ),
    key(
        "log",
        Kind::Table(LOG),
        Need::Absent("all defaults"),
        "The records of requests and connections.",
    ),
    key(
        "limits",
        Kind::Table(LIMITS),
        Need::Absent("all defaults"),
        "What one peer, one request and the whole sidecar may take.",
    ),
    key(
        "drain",
        Kind::Table(DRAIN),
        Need::Absent("all defaults"),
        "What happens on SIGTERM.",
    ),
];

const IDENTITY: &[Key] = &[
    key(
        "workload_api",
        Kind::Text,
        Need::Default("the environment's `SPIFFE_ENDPOINT_SOCKET`"),
        "The SPIFFE Workload API: `unix:///path`, `tcp://IP:port`, or the path of a socket, which may be relative to this file.",
    ),
    key(
        "spiffe_id",
        Kind::Text,
        Need::Absent("the first SVID whose ID is one of the service's `spiffe_ids`"),
        "Which of several SVIDs is used, by its ID.",
    ),
    key(
        "hint",
        Kind::Text,
        Need::Absent("see `spiffe_id`"),
        "The same by the hint that the CA gave it; not together with `spiffe_id`.",
    ),
];

const OUTBOUND: &[Key] = &[
    key(
        "port",
        Kind::Integer,
        Need::Default("15001"),
        "Listens on loopback, for redirected connections.",
    ),
    key(
        "egress",
        Kind::Text,
        Need::Default("\"deny\""),
        "What is not in the mesh: `deny`, or `plain` (passed on as it came, without protection).",
    ),
];

const INBOUND: &[Key] = &[
    key(
        "port",
        Kind::Integer,
        Need::Default("15006"),
        "Listens for redirected connections.",
    ),
    key(
        "hbone_port",
        Kind::Integer,
        Need::Default("15008"),
        "Listens for mesh tunnels.",
    ),
    key(
        "detect_timeout",
        Kind::Text,
        Need::Default("\"5s\""),
        "Time for the first bytes to show the protocol; past it the connection is refused. 100ms to 60s.",
    ),
    key(
        "public_certificate",
        Kind::Text,
        Need::Absent("TLS on `public` ports is for mesh peers"),
        "PEM file with the certificate chain shown on `public` ports to clients that name a host outside the mesh (TLS server name); with `public_key`. Both are read anew when they change; a bad pair is refused, and the one before stays.",
    ),
    key(
        "public_key",
        Kind::Text,
        Need::Absent("see `public_certificate`"),
        "PEM file with its private key, not readable for everyone.",
    ),
];

const ASSERTION: &[Key] = &[
    key(
        "port",
        Kind::Integer,
        Need::Default("15024"),
        "Serves the public keys on loopback, at `/.well-known/jwks.json`.",
    ),
    key(
        "audience",
        Kind::Text,
        Need::Absent("the name of the service"),
        "`aud` of the statement, which the application must check.",
    ),
    key(
        "ttl",
        Kind::Text,
        Need::Default("\"30s\""),
        "How long a statement is valid, 5s to 5m.",
    ),
    key(
        "request",
        Kind::Boolean,
        Need::Default("false"),
        "Whether it names method, path and host too.",
    ),
];

const TRAFFIC: &[Key] = &[
    key(
        "mark",
        Kind::Integer,
        Need::Absent("the redirect tells it by uid or gid"),
        "`SO_MARK` of every socket that the sidecar opens, 1 to 4294967295 (needs CAP_NET_ADMIN).",
    ),
    key(
        "probe",
        Kind::Boolean,
        Need::Default("true"),
        "Not ready until a connection of its own was seen to be redirected, whether the redirect tells it by mark, uid or gid. `false` states that somebody else watches the redirect; readiness then says so.",
    ),
];

const HEALTH: &[Key] = &[key(
    "listen",
    Kind::Text,
    Need::Default("\"[::]:15021\""),
    "Address and port.",
)];
const METRICS: &[Key] = &[key(
    "listen",
    Kind::Text,
    Need::Default("\"[::]:15020\""),
    "Address and port.",
)];
const ADMIN: &[Key] = &[
    key(
        "socket",
        Kind::Text,
        Need::Default("\"/run/hopguard/admin.sock\""),
        "Path of the unix socket; created 0600, and the caller's uid is checked.",
    ),
    key(
        "denials",
        Kind::Integer,
        Need::Default("2048"),
        "How many refusals `hopguard explain` can look up here, 0 to 100000: the latest, none older than an hour, in 4 MiB at most.",
    ),
];

const LOG: &[Key] = &[
    key(
        "output",
        Kind::Text,
        Need::Default("\"stdout\""),
        "`stdout`, or the path of a file (created 0600, appended to).",
    ),
    key(
        "user",
        Kind::Text,
        Need::Default("\"hash\""),
        "How users appear: `hash` (keyed, `h1:` and 16 hex digits), `plain` (issuer and subject), `none`.",
    ),
    key(
        "hash_key_file",
        Kind::Text,
        Need::Absent("a random key for each process"),
        "File with the key of the hash, 32 to 4096 bytes, not readable for everyone; the same for the whole mesh, so that hashes compare.",
    ),
    key(
        "record_inputs",
        Kind::Boolean,
        Need::Default("true"),
        "Whether denials, and decisions of policies with `@audit`, record what they were made on: of claims, headers and path only what a policy reads, the user as `user` says.",
    ),
];

const LIMITS: &[Key] = &[
    key(
        "connections",
        Kind::Integer,
        Need::Default("20000"),
        "Connections open at once, 1 to 1000000.",
    ),
    key(
        "head_bytes",
        Kind::Integer,
        Need::Default("32768"),
        "Bytes of a request head, 1024 to 1048576.",
    ),
    key(
        "headers",
        Kind::Integer,
        Need::Default("100"),
        "Headers of a request, 1 to 1000.",
    ),
    key(
        "head_timeout",
        Kind::Text,
        Need::Default("\"10s\""),
        "Time for a request head to arrive whole, 100ms to 5m.",
    ),
    key(
        "idle_timeout",
        Kind::Text,
        Need::Default("\"5m\""),
        "Idle time of a kept-alive HTTP connection, 1s to 24h.",
    ),
    key(
        "opaque_idle_timeout",
        Kind::Text,
        Need::Default("\"1h\""),
        "Idle time of an opaque connection, 1s to 7d.",
    ),
    key(
        "connect_timeout",
        Kind::Text,
        Need::Default("\"5s\""),
        "Time for a connect, 100ms to 5m.",
    ),
    key(
        "tunnel_max_age",
        Kind::Text,
        Need::Default("\"10m\""),
        "Age past which a tunnel takes no new stream, 1s to 24h.",
    ),
    key(
        "streams_per_tunnel",
        Kind::Integer,
        Need::Default("1000"),
        "Streams of one tunnel at once, 1 to 100000.",
    ),
];

const DRAIN: &[Key] = &[key(
    "timeout",
    Kind::Text,
    Need::Default("\"30s\""),
    "Time for open requests and connections to end, 0s to 1h.",
)];
