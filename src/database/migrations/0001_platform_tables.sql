-- The platform's four tables, as its Django migrations make them. Where Django came first nothing happens here; where
-- it did not, names, types and nullability are the same, and the defaults that Django keeps in Python are given to the
-- database as well, so that plain SQL may leave those columns out.

CREATE TABLE IF NOT EXISTS public.core_outboxmessage (
  id uuid PRIMARY KEY,
  idempotency_key varchar(255) NOT NULL UNIQUE,
  topic varchar(255) NOT NULL,
  partition_key varchar(255),
  payload jsonb NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL,
  published_at timestamptz,
  failed_at timestamptz,
  attempts integer NOT NULL DEFAULT 0,
  max_attempts integer NOT NULL DEFAULT 5,
  next_retry_at timestamptz,
  last_error text,
  status varchar(20) NOT NULL DEFAULT 'pending'
);

CREATE TABLE IF NOT EXISTS public.core_deadlettermessage (
  id uuid PRIMARY KEY,
  original_outbox_id uuid,
  original_topic varchar(255) NOT NULL,
  idempotency_key varchar(255) NOT NULL,
  payload jsonb NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}',
  error_message text NOT NULL,
  error_type varchar(255),
  attempts integer NOT NULL,
  created_at timestamptz NOT NULL,
  original_created_at timestamptz,
  resolved boolean NOT NULL DEFAULT false,
  resolved_at timestamptz,
  resolved_by varchar(255),
  resolution_notes text
);

CREATE TABLE IF NOT EXISTS public.core_idempotencyrecord (
  id uuid PRIMARY KEY,
  idempotency_key varchar(255) NOT NULL UNIQUE,
  operation_type varchar(100) NOT NULL,
  result jsonb,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS public.core_pendingmemory (
  id uuid PRIMARY KEY,
  idempotency_key varchar(255) NOT NULL UNIQUE,
  tenant_id varchar(255) NOT NULL,
  namespace varchar(100) NOT NULL DEFAULT 'wm',
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  synced boolean NOT NULL DEFAULT false,
  synced_at timestamptz,
  sync_attempts integer NOT NULL DEFAULT 0,
  last_error text
);

-- Django gives its indexes names of its own, so "if not exists" would not recognise them: an index is made only where
-- none covers the same columns.
DO $$
DECLARE
  wanted record;
BEGIN
  FOR wanted IN
    SELECT * FROM (VALUES
      ('core_outboxmessage', 'core_outboxmessage_status_created_at', '{status,created_at}'::text[]),
      ('core_outboxmessage', 'core_outboxmessage_topic_status', '{topic,status}'),
      ('core_outboxmessage', 'core_outboxmessage_next_retry_at', '{next_retry_at}'),
      ('core_deadlettermessage', 'core_deadlettermessage_original_topic_resolved', '{original_topic,resolved}'),
      ('core_pendingmemory', 'core_pendingmemory_synced_created_at', '{synced,created_at}'),
      ('core_pendingmemory', 'core_pendingmemory_tenant_id_synced', '{tenant_id,synced}')
    ) AS indexes (table_name, index_name, columns)
  LOOP
    IF NOT EXISTS (
      SELECT FROM pg_index AS i
      WHERE i.indrelid = format('public.%I', wanted.table_name)::regclass
        AND i.indpred IS NULL
        AND wanted.columns = ARRAY(
          SELECT a.attname::text
          FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
          JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          ORDER BY k.position
        )
    ) THEN
      EXECUTE format('CREATE INDEX %I ON public.%I (%s)',
        wanted.index_name, wanted.table_name, array_to_string(wanted.columns, ', '));
    END IF;
  END LOOP;
END
$$;
