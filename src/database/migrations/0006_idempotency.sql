-- What claiming an idempotency key adds. All of it is nullable: it costs no rewrite, and a neighbour's INSERT may leave
-- it out. While a key is claimed, its expires_at is the end of the hold: to a neighbour the record exists until then,
-- and no purge takes it.

SET LOCAL lock_timeout = '3s';

ALTER TABLE public.core_idempotencyrecord
  -- The sha256 of what was asked for under this key, in hexadecimal.
  ADD COLUMN payload_hash text,
  ADD COLUMN holder uuid,
  -- Null while the holder is at work.
  ADD COLUMN completed_at timestamptz,
  -- The expires_at that was written with the columns above. Where expires_at is another by now, a neighbour has written
  -- the record since, and they say nothing any more.
  ADD COLUMN own_expires_at timestamptz;
