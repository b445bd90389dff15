//! Every key of `mesh.toml` and `sidecar.toml`: its kind, what its absence means, and what it is for. The check of a
//! file's shape and the reference in `docs/` are both read from here, so that neither can drift.

/// One key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    pub(super) doc: &'static str,
}

/// What a value is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Texts,
    Integer,
    Boolean,
    Table(&'static [Key]),
    /// An array of tables.
    Tables(&'static [Key]),
    /// A table whose keys the operator chooses, each with a list of texts.
    NamedTexts,
    /// A table whose keys the operator chooses, each with a table.
    NamedTables(&'static [Key]),
}

/// What the absence of a key means.
#[derive(Clone, Copy)]
pub(super) enum Need {
    Required,
    Default(&'static str),
    Absent(&'static str),
}

const fn key(name: &'static str, kind: Kind, need: Need, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        need,
        doc,
    }
}

pub(super) const MESH: &[Key] = &[
    key(
        "trust_domain",
        Kind::Text,
        Need::Required,
        "The SPIFFE trust domain of the mesh, in lower case, without `spiffe://`.",
    ),
    key(
        "service",
        Kind::Tables(SERVICE),
        Need::Absent("no service is known"),
        "The services, one table each.",
    ),
    key(
        "groups",
        Kind::NamedTexts,
        Need::Absent("no group"),
        "Workload groups: a name, and patterns of SPIFFE IDs: an exact ID, or one that ends in `/*` (one segment) or `/**` (any rest). Policies name them as `Group::\"NAME\"`.",
    ),
    key(
        "issuer",
        Kind::Tables(ISSUER),
        Need::Absent("no user token is accepted"),
        "The issuers of user tokens, one table each.",
    ),
    key(
        "headers",
        Kind::NamedTables(HEADER),
        Need::Absent("policies see no header"),
        "The request headers that policies see, by the name under which they see them: `context.headers.NAME`, a set of texts.",
    ),
];

const SERVICE: &[Key] = &[
    key(
        "name",
        Kind::Text,
        Need::Required,
        "`namespace/name`, in lower case. Policies name it as `Service::\"namespace/name\"`.",
    ),
    key(
        "hosts",
        Kind::Texts,
        Need::Absent("no name"),
        "DNS names, which the sidecars resolve as the machine does (`/etc/hosts` included); also the names that an HTTP `Host` may carry.",
    ),
    key(
        "addresses",
        Kind::Texts,
        Need::Absent("no fixed address"),
        "Fixed IP addresses. A service with ports needs `hosts`, `addresses` or both.",
    ),
    key(
        "spiffe_ids",
        Kind::Texts,
        Need::Required,
        "The identities of which the service must prove one. IDs of another trust domain are allowed (federation).",
    ),
    key(
        "port",
        Kind::Tables(PORT),
        Need::Absent("a service that only calls others"),
        "The ports on which the service can be called, one table each.",
    ),
    key(
        "route",
        Kind::Tables(ROUTE),
        Need::Absent("policies name HTTP methods and paths only"),
        "Declared routes, one table each. Each becomes an action of its own, with typed path parameters.",
    ),
];

const PORT: &[Key] = &[
    key(
        "port",
        Kind::Integer,
        Need::Required,
        "The number, 1 to 65535; not one of the sidecar's own ports.",
    ),
    key(
        "protocol",
        Kind::Text,
        Need::Default("\"http\""),
        "`http`: decided request by request, and anything else is refused; `opaque`: any TCP, decided connection by connection.",
    ),
    key(
        "mode",
        Kind::Text,
        Need::Default("\"strict\""),
        "`strict`: mesh mTLS only; `permissive`: plaintext too, as the principal `Plaintext`; `public`: plaintext and server TLS too, for clients without a workload identity. The policy must still allow.",
    ),
];

const ROUTE: &[Key] = &[
    key(
        "name",
        Kind::Text,
        Need::Required,
        "Policies name it as `Action::\"namespace/name#ROUTE\"`.",
    ),
    key(
        "methods",
        Kind::Texts,
        Need::Required,
        "`GET`, `HEAD`, `OPTIONS`, `POST`, `PUT`, `PATCH`, `DELETE`.",
    ),
    key(
        "path",
        Kind::Text,
        Need::Required,
        "The template: `{name}` is one whole segment, seen as `context.params.name`; a last `{**}` is the rest, also an empty one.",
    ),
];

const ISSUER: &[Key] = &[
    key(
        "alias",
        Kind::Text,
        Need::Required,
        "The name by which policies, records and metrics call the issuer: `User::\"ALIAS|SUB\"`, `Role::\"ALIAS|ROLE\"`.",
    ),
    key(
        "issuer",
        Kind::Text,
        Need::Required,
        "The issuer's URL, exactly as its tokens carry it in `iss`; OpenID discovery is read below it.",
    ),
    key(
        "audiences",
        Kind::Texts,
        Need::Required,
        "A token must be for one of these (`aud`).",
    ),
    key(
        "algorithms",
        Kind::Texts,
        Need::Default("RS256 to RS512, PS256 to PS512, ES256 to ES512, EdDSA"),
        "The signature algorithms accepted. `none` and `HS*` never are.",
    ),
    key(
        "jwks_uri",
        Kind::Text,
        Need::Absent("found by discovery"),
        "Where the keys are; discovery is then skipped.",
    ),
    key(
        "ca_file",
        Kind::Text,
        Need::Absent("the public roots of the machine"),
        "PEM file with the roots for this issuer alone.",
    ),
    key(
        "allow_http_loopback",
        Kind::Boolean,
        Need::Default("false"),
        "Lets plain http be used, for loopback addresses only.",
    ),
    key(
        "leeway",
        Kind::Text,
        Need::Default("\"5s\""),
        "Clock difference forgiven in `exp`, `nbf` and `iat`; at most 60s.",
    ),
    key(
        "roles",
        Kind::Texts,
        Need::Absent("no role"),
        "Paths of the claims whose text or list of texts become roles; a dot steps into an object.",
    ),
    key(
        "role_names",
        Kind::Texts,
        Need::Absent("policies may name no role of this issuer"),
        "The roles that policies may name.",
    ),
    key(
        "claims",
        Kind::NamedTables(CLAIM),
        Need::Absent("policies see no further claim"),
        "The claims that policies see, by the name under which they see them: `context.user.claims.NAME`.",
    ),
];

const CLAIM: &[Key] = &[
    key(
        "path",
        Kind::Text,
        Need::Required,
        "The claim's path in the token; a dot steps into an object.",
    ),
    key(
        "type",
        Kind::Text,
        Need::Required,
        "`string`, `strings` (a set; one text counts as a set of one), `long` or `bool`. A token whose claim is of another type is refused.",
    ),
];

const HEADER: &[Key] = &[
    key(
        "name",
        Kind::Text,
        Need::Required,
        "The header's name on the wire. Headers that carry identity or framing cannot be named: they are never trusted.",
    ),
    key(
        "list",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: values are split at commas; `false`: a request that sends the header twice gets 400.",
    ),
];

pub(super) const SIDECAR: &[Key] = &[
    key(
        "service",
        Kind::Text,
        Need::Required,
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
        "The folder of `*.cedar` files, loaded whole; sub-folders too.",
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
        Need::Absent("no server TLS on `public` ports"),
        "PEM file with the certificate chain shown on `public` ports; with `public_key`.",
    ),
    key(
        "public_key",
        Kind::Text,
        Need::Absent("see `public_certificate`"),
        "PEM file with its private key, not readable for everyone.",
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
        Need::Default("true when `mark` is set, else false"),
        "Not ready until a connection of its own was seen to be redirected; needs `mark`.",
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
const ADMIN: &[Key] = &[key(
    "socket",
    Kind::Text,
    Need::Default("\"/run/hopguard/admin.sock\""),
    "Path of the unix socket; created 0600, and the caller's uid is checked.",
)];

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
