-- One trust domain a database; a second one is refused at start.
CREATE TABLE trust_domain (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    name TEXT NOT NULL
);

-- The authorities that ever signed; `key` names the keeper's key, `state` is `active` or `retired`.
CREATE TABLE authority (
    id TEXT PRIMARY KEY,
    certificate BLOB NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    not_after INTEGER NOT NULL
);

-- What is still valid of what was issued. Times are seconds since 1970.
CREATE TABLE issued (
    serial TEXT PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    authority TEXT NOT NULL,
    not_after INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX issued_not_after ON issued (not_after);
