-- The catalogue of backups, and what restore drills found. The manifests at the destinations are the truth: verified rows
-- can be written again from them alone.
CREATE TABLE orchestrator.backup (
  id text PRIMARY KEY,
  -- The same task twice is one backup.
  idempotency_key varchar(255) NOT NULL UNIQUE,
  type text NOT NULL,
  source text NOT NULL,
  -- file:///… or s3://bucket/prefix, without credentials.
  destination text NOT NULL,
  metadata jsonb NOT NULL,
  -- removing: retention has decided, and it counts no more; removed: nothing of it is left.
  state text NOT NULL CHECK (state IN ('running', 'verified', 'failed', 'cancelled', 'removing', 'removed')),
  -- Each try writes to a place of its own, and only the newest may become the backup.
  attempts integer NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL,
  -- Verified, failed or cancelled since then.
  ended_at timestamptz,
  -- When a drill last restored it.
  restored_at timestamptz,
  removed_at timestamptz,
  -- Below the destination: {type, source, id}.
  address jsonb,
  -- As it lies there, and as it was read; in bytes.
  size bigint,
  plain_size bigint,
  sha256 text,
  manifest jsonb,
  error text,
  -- Why a person wants it kept.
  hold text,
  CHECK (state NOT IN ('verified', 'removing') OR (ended_at IS NOT NULL AND address IS NOT NULL AND manifest IS NOT NULL))
);

CREATE INDEX orchestrator_backup_source ON orchestrator.backup (type, source, destination, started_at DESC);

CREATE TABLE orchestrator.restore_drill (
  id text PRIMARY KEY,
  -- Null: there was none to restore. Not a reference: the catalogue may be written anew, evidence stays.
  backup text,
  type text,
  source text,
  destination text,
  started_at timestamptz NOT NULL,
  ended_at timestamptz NOT NULL,
  passed boolean NOT NULL,
  -- What was compared and what differed.
  evidence jsonb,
  error text
);

CREATE INDEX orchestrator_restore_drill_source ON orchestrator.restore_drill (type, source, ended_at DESC);
