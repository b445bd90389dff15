//! The keys of `mesh.toml`.

use super::{Key, Kind, Need, key};

pub(in crate::config) const MESH: &[Key] = &[
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
        "Workload groups: a name, and SPIFFE IDs: an exact one, or a pattern in which a segment `*` stands for any one segment, a last `**` for one or more. Policies name them as `Group::\"NAME\"`.",
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
        "app_protocol",
        Kind::Text,
        Need::Default("\"auto\""),
        "What the application behind an `http` port speaks to its sidecar. `auto`: a request goes on in the version that it came by; for one that came by HTTP/2 the application is asked once whether it speaks it with prior knowledge, else it gets HTTP/1.1. `http1`: HTTP/1.1 only, and it is not asked. `http2`: HTTP/2 only, as gRPC servers; HTTP/1.1 requests get a 505.",
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
        "The template: `{name}` is one whole segment that is not empty, seen as `context.params.name`; a last `{**}` is the rest, also an empty one.",
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
