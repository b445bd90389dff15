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
        "`strict`: mesh mTLS only; `permissive`: plaintext too, as the principal `Plaintext`; `public`: plaintext too, and server TLS by the sidecar's `public_certificate`, for clients without a workload identity; TLS that names the mesh or no host at all is for mesh peers, with their SVID. The policy must still allow.",
    ),
    key(
        "token_from",
        Kind::Table(TOKEN_FROM),
        Need::Absent("`Authorization` alone"),
        "Where a user's token may stand beside `Authorization`. One in two places is a 401.",
    ),
    key(
        "forward_token",
        Kind::Boolean,
        Need::Default("true"),
        "`false`: the application does not get the token, nor the `DPoP` header, wherever they stood.",
    ),
    key(
        "public_url",
        Kind::Text,
        Need::Absent("no DPoP"),
        "The URL by which clients know the port, which their DPoP proofs name in `htu`: `\"https://shop.example\"`.",
    ),
    BIND,
    BIND_CLAIM,
    REQUIRE_CNF,
    DPOP,
    key(
        "dpop_nonce",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: a DPoP proof must carry a nonce of this sidecar, which a 401 hands out.",
    ),
];

const TOKEN_FROM: &[Key] = &[
    key(
        "cookie",
        Kind::Text,
        Need::Absent("no cookie"),
        "The name of a cookie that is a token.",
    ),
    key(
        "query",
        Kind::Text,
        Need::Absent("no parameter"),
        "The name of a query parameter that is a token. It is in no record of the sidecar, but may be in others' (RFC 6750 5.3).",
    ),
];

const BIND: Key = key(
    "bind",
    Kind::Text,
    Need::Default("\"none\""),
    "`caller`: a token counts only when it names the SPIFFE ID of the mTLS peer, in `azp`, `client_id` or `act.sub`; else 401.",
);
const BIND_CLAIM: Key = key(
    "bind_claim",
    Kind::Path,
    Need::Absent("`act.sub` if that is a SPIFFE ID, else `azp` or `client_id`"),
    "With `bind = \"caller\"`: the path of the one claim that must name the peer.",
);
const REQUIRE_CNF: Key = key(
    "require_cnf",
    Kind::Boolean,
    Need::Default("false"),
    "`true`: only tokens that are bound to the peer's certificate by `cnf.x5t#S256` (RFC 8705) are taken. One that is bound so is never taken from another.",
);
const DPOP: Key = key(
    "dpop",
    Kind::Text,
    Need::Default("\"off\""),
    "`accept`: tokens with a DPoP proof (RFC 9449) are taken too; `require`: no others. Needs `public_url` on the port.",
);

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
    key(
        "encoded_slash",
        Kind::Text,
        Need::Default("\"refuse\""),
        "`data`: a `%2F` in a path is part of its segment and separates nothing, for policies as for the application, which gets it as it came. `refuse`: 400.",
    ),
    key(
        "merge_slashes",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: policies take several slashes in a row as one; the application gets them as they came, and must take them as one too. `false`: 400.",
    ),
    key(
        "allow_semicolon",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: a path may hold a `;`. What follows it up to the next `/` is text for some applications, and cut off by others: the request passes only if both paths are of this route and both are allowed. `false`: 400.",
    ),
    key(
        "encoded_percent",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: a path may hold what a second decoding would change (`%2541`), which is data. `false`: 400.",
    ),
    // A route adds to what its port demands of tokens.
    BIND,
    BIND_CLAIM,
    REQUIRE_CNF,
    DPOP,
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
        Need::Absent("required, except for `jwt-svid`, which has none"),
        "The issuer's URL, exactly as its tokens carry it in `iss`; OpenID discovery is read below it.",
    ),
    key(
        "kind",
        Kind::Text,
        Need::Default("\"provider\""),
        "`provider`: tokens of an OAuth or OpenID provider; `jwt-svid`: JWT-SVIDs of a trust domain, checked with its JWT bundle from the Workload API (the user is then the SPIFFE ID in `sub`).",
    ),
    key(
        "trust_domain",
        Kind::Text,
        Need::Absent("that of the mesh"),
        "For `jwt-svid` only: whose JWT-SVIDs.",
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
        Kind::Paths,
        Need::Absent("no role"),
        "Paths of the claims whose text or list of texts become roles; a dot steps into an object, except in a URL, which is one name. A list of names steps too, and takes names with dots as they are: `[\"resource_access\", \"shop.web\", \"roles\"]`, `[\"com.example.roles\"]`.",
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
    key(
        "introspection",
        Kind::Table(INTROSPECTION),
        Need::Absent("tokens that are no JWT are refused"),
        "How the issuer is asked what a token means that is no JWT (RFC 7662).",
    ),
];

const INTROSPECTION: &[Key] = &[
    key(
        "endpoint",
        Kind::Text,
        Need::Absent("found by discovery"),
        "The introspection endpoint.",
    ),
    key(
        "client_id",
        Kind::Text,
        Need::Required,
        "As which client the sidecar asks.",
    ),
    key(
        "client_secret_file",
        Kind::Text,
        Need::Required,
        "File with the client's secret, not readable for everyone; read for each question, so that a new secret needs no reload.",
    ),
    key(
        "auth",
        Kind::Text,
        Need::Default("\"basic\""),
        "`basic`: the secret in `Authorization`; `post`: in the form.",
    ),
    key(
        "cache",
        Kind::Text,
        Need::Default("\"30s\""),
        "The longest that an answer is believed, 1s to 1h: a token that is revoked may pass for so long.",
    ),
    key(
        "token_prefix",
        Kind::Text,
        Need::Absent("its tokens are those that no other issuer's prefix fits; one issuer at most"),
        "How its opaque tokens begin, such as `ory_at_`. A JWT is never sent to an issuer that it does not name.",
    ),
    key(
        "audience_required",
        Kind::Boolean,
        Need::Default("true"),
        "`false`: an answer without `aud` is taken too, which leaves it to the issuer for whom the token is. An `aud` that is there must fit.",
    ),
    key(
        "every_token",
        Kind::Boolean,
        Need::Default("false"),
        "`true`: JWTs that name this issuer are asked for too, so that a revocation is seen within `cache`; its keys are not needed then.",
    ),
];

const CLAIM: &[Key] = &[
    key(
        "path",
        Kind::Path,
        Need::Required,
        "The claim's path in the token; a dot steps into an object, except in a URL, and so does a list of names.",
    ),
    key(
        "type",
        Kind::Text,
        Need::Required,
        "`string`, `strings` (a set; one text counts as a set of one), `long` or `bool`. A claim of another type is as if it were absent.",
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
