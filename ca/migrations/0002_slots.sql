-- Authorities of both kinds. `kind` is `x509` or `jwt`; `certificate` holds a JWT key's public key (SEC 1 point) instead.
-- `state` is `prepared` (published, does not sign yet), `active` (signs) or `retired` (trusted until what it signed has
-- ended). `since` is when it came into that state, `published` when it was first served; seconds since 1970.
ALTER TABLE authority ADD COLUMN kind TEXT NOT NULL DEFAULT 'x509';
ALTER TABLE authority ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE authority ADD COLUMN published INTEGER NOT NULL DEFAULT 0;
