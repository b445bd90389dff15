-- Identities that get no SVID until that is taken back. Times are seconds since 1970.
CREATE TABLE revoked_identity (
    spiffe_id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL
) WITHOUT ROWID;

-- Certificates that were taken back and have not expired: what the revocation lists say.
CREATE TABLE revoked_serial (
    serial TEXT PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    authority TEXT NOT NULL,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) WITHOUT ROWID;

-- The newest revocation list of each authority; its number never goes back.
CREATE TABLE revocation_list (
    authority TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    made INTEGER NOT NULL,
    list BLOB NOT NULL
) WITHOUT ROWID;
