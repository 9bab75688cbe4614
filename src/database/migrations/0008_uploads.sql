-- The durable owner of every upload, and its receipt: one row from the moment that somebody asked for it, found by file
-- name or by hash. The workflow upload/{idempotency_key} does the waiting and trying; what it has to know is here.
CREATE TABLE orchestrator.upload (
  idempotency_key varchar(255) PRIMARY KEY,
  filename text NOT NULL,
  content_type text,
  metadata jsonb NOT NULL,
  size bigint NOT NULL CHECK (size >= 0),
  -- In hex; null until the bytes behind data_ref were read for the first time.
  sha256 text,
  -- The bytes themselves, where a message brought them; dropped once a tier better than Redis has them.
  data bytea,
  -- Where they are otherwise.
  data_ref text,
  state text NOT NULL DEFAULT 'waiting',
  -- How often every tier gave a definite no, and the try that succeeded.
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  tier text,
  location text,
  durability text,
  -- Tiers that may hold bytes of it: one is named here before anything is written to it.
  touched_tiers text[] NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  stored_at timestamptz,
  promoted_at timestamptz,
  CONSTRAINT upload_states CHECK (
    state IN ('waiting', 'stored', 'promoting', 'promoted', 'failed', 'cancelled')
  ),
  CONSTRAINT upload_bytes CHECK (tier IS NOT NULL OR data IS NOT NULL OR data_ref IS NOT NULL),
  -- What is called stored has a copy, a place and a hash.
  CONSTRAINT upload_copy CHECK (
    (state IN ('stored', 'promoting', 'promoted'))
      = (tier IS NOT NULL AND location IS NOT NULL AND sha256 IS NOT NULL AND stored_at IS NOT NULL)
  )
);

-- Files seldom get smaller by it.
ALTER TABLE orchestrator.upload ALTER COLUMN data SET STORAGE EXTERNAL;

-- By hash: names and references may be longer than what a B-tree can hold.
CREATE INDEX upload_filename ON orchestrator.upload USING hash (filename);
CREATE INDEX upload_sha256 ON orchestrator.upload (sha256);
-- Those that are not where they belong yet.
CREATE INDEX upload_open ON orchestrator.upload (updated_at, state) WHERE state IN ('waiting', 'promoting');
-- Who still needs a file of the spool.
CREATE INDEX upload_data_ref ON orchestrator.upload USING hash (data_ref) WHERE data_ref IS NOT NULL;
-- For the janitor (src/database/uploadSweep.ts, src/database/maintenance.ts): references that may be paths, written in
-- many ways; copies that nobody needs any more; what was cancelled long ago.
CREATE INDEX upload_path ON orchestrator.upload (state) WHERE data_ref !~ '^(spool:|s3://|https?://)';
CREATE INDEX upload_leftovers ON orchestrator.upload (idempotency_key)
  WHERE state IN ('stored', 'promoted') AND cardinality(touched_tiers) > 1 OR state = 'cancelled' AND touched_tiers <> '{}';
CREATE INDEX upload_cancelled ON orchestrator.upload (updated_at) WHERE state = 'cancelled';
