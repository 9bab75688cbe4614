-- What purging adds. Published rows are found by the platform's own index on (status, created_at); expired idempotency
-- records have none, and reading the whole table every hour would cost more than keeping one.

SET LOCAL lock_timeout = '3s';

DO $$
BEGIN
  -- Django gives its indexes names of its own: whatever begins with expires_at will do.
  IF NOT EXISTS (
    SELECT FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = 'public.core_idempotencyrecord'::regclass AND i.indpred IS NULL AND a.attname = 'expires_at'
  ) THEN
    CREATE INDEX orchestrator_idempotency_expires ON public.core_idempotencyrecord (expires_at);
  END IF;
END
$$;
