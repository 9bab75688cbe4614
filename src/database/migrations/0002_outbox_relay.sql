-- What the outbox relay adds: an order of insertion on the platform's table, and its own books in schema orchestrator.
-- Everything on core_outboxmessage is additive: a neighbour that inserts the columns it knows notices nothing.

-- created_at ties within one transaction and follows each writer's clock; an identity column gives the order of
-- insertion. Rows that were there before are numbered by created_at. Taking the table's lock here keeps writers out
-- until all of it is in place.
LOCK TABLE public.core_outboxmessage IN ACCESS EXCLUSIVE MODE;

ALTER TABLE public.core_outboxmessage ADD COLUMN relay_seq bigint;

UPDATE public.core_outboxmessage AS m
SET relay_seq = numbered.seq
FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS seq FROM public.core_outboxmessage) AS numbered
WHERE m.id = numbered.id;

ALTER TABLE public.core_outboxmessage
  ALTER COLUMN relay_seq SET NOT NULL,
  ALTER COLUMN relay_seq ADD GENERATED ALWAYS AS IDENTITY;

SELECT setval(
  pg_get_serial_sequence('public.core_outboxmessage', 'relay_seq'),
  (SELECT coalesce(max(relay_seq), 0) + 1 FROM public.core_outboxmessage),
  false
);

-- The claim looks here for keys that a parked message holds back; it is empty on a good day.
CREATE INDEX orchestrator_outbox_parked ON public.core_outboxmessage (topic, partition_key, relay_seq)
  WHERE status = 'failed';

-- One row: this deployment's identity, made once. Transactional ids and consumer groups carry it, so that two
-- deployments on one Kafka never fence one another. outbox_shards is fixed by the first worker that starts.
CREATE TABLE orchestrator.deployment (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  outbox_shards integer CHECK (outbox_shards > 0),
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO orchestrator.deployment DEFAULT VALUES;

-- The journal of each shard: the epoch that fences (only the relay that raised it last may write), the last settled
-- batch, and the one that is open, if any. Batch numbers have no gaps: settled_number + 1 is the open one.
CREATE TABLE orchestrator.outbox_journal (
  shard integer PRIMARY KEY CHECK (shard >= 0),
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  taken_at timestamptz,
  settled_number bigint NOT NULL DEFAULT 0,
  settled_batch uuid,
  settled_at timestamptz,
  delivered_total bigint NOT NULL DEFAULT 0,
  open_batch uuid,
  open_seqs bigint[],
  opened_at timestamptz,
  CHECK ((open_batch IS NULL) = (open_seqs IS NULL))
) WITH (fillfactor = 50);

-- Which shards wait for new rows. Unlogged: it is a hint that costs no fsync, and after a crash the relays' polling
-- stands in for it.
CREATE UNLOGGED TABLE orchestrator.outbox_waiting (
  shard integer PRIMARY KEY,
  waiting boolean NOT NULL
) WITH (fillfactor = 50);

-- Wakes the relays, but only while one waits: NOTIFY takes a lock that is global at commit, so a NOTIFY for each
-- insert would make all writers queue. SECURITY DEFINER, because a neighbour's role has no right to read schema
-- orchestrator; the search path is pinned for the same reason.
CREATE FUNCTION orchestrator.wake_outbox_relay() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM orchestrator.outbox_waiting WHERE waiting) THEN
    NOTIFY somaagent_outbox;
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER orchestrator_wake_outbox_relay AFTER INSERT ON public.core_outboxmessage
  FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.wake_outbox_relay();
