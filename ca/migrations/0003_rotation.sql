-- Rotation. `sequence` is the bundle in which an authority was published first; `held` keeps a prepared one from signing
-- until an operator says so; no JWT-SVID that a JWT key signed ends after `until`. An authority in the state `discarded`
-- is trusted no more, and its key file is to be removed.
ALTER TABLE authority ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE authority ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE authority ADD COLUMN until INTEGER NOT NULL DEFAULT 0;

-- With which bundle, or a newer one, it was sent.
ALTER TABLE issued ADD COLUMN bundle INTEGER NOT NULL DEFAULT 0;

-- The published bundle: its sequence number never goes back, and changes with the content (a digest of it).
CREATE TABLE bundle (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    sequence INTEGER NOT NULL,
    content BLOB NOT NULL
);
