-- Identities whose revocation was lifted, and when, seconds since 1970: their tokens from before stay refused. Forgotten when
-- no such token can be alive any more.
CREATE TABLE lifted_identity (
    spiffe_id TEXT PRIMARY KEY,
    lifted INTEGER NOT NULL
) WITHOUT ROWID;
