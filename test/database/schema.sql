CREATE TABLE orchestrator.backup (
  id text NOT NULL,
  idempotency_key character varying(255) NOT NULL,
  type text NOT NULL,
  source text NOT NULL,
  destination text NOT NULL,
  metadata jsonb NOT NULL,
  state text NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  started_at timestamp with time zone NOT NULL,
  ended_at timestamp with time zone,
  restored_at timestamp with time zone,
  removed_at timestamp with time zone,
  address jsonb,
  size bigint,
  plain_size bigint,
  sha256 text,
  manifest jsonb,
  error text,
  hold text,
  CONSTRAINT backup_check CHECK (((state <> ALL (ARRAY['verified'::text, 'removing'::text])) OR ((ended_at IS NOT NULL) AND (address IS NOT NULL) AND (manifest IS NOT NULL)))),
  CONSTRAINT backup_idempotency_key_key UNIQUE (idempotency_key),
  CONSTRAINT backup_pkey PRIMARY KEY (id),
  CONSTRAINT backup_state_check CHECK ((state = ANY (ARRAY['running'::text, 'verified'::text, 'failed'::text, 'cancelled'::text, 'removing'::text, 'removed'::text])))
);

CREATE TABLE orchestrator.deployment (
  singleton boolean NOT NULL DEFAULT true,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  outbox_shards integer,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT deployment_outbox_shards_check CHECK ((outbox_shards > 0)),
  CONSTRAINT deployment_pkey PRIMARY KEY (singleton),
  CONSTRAINT deployment_singleton_check CHECK (singleton)
);

CREATE TABLE orchestrator.health_gate (
  component text NOT NULL,
  open_until timestamp with time zone,
  updated_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT health_gate_pkey PRIMARY KEY (component)
);

CREATE TABLE orchestrator.health_transition (
  id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  key text NOT NULL,
  component text NOT NULL,
  event text NOT NULL,
  from_level text NOT NULL,
  to_level text NOT NULL,
  at timestamp with time zone NOT NULL,
  suppressed_by text[] NOT NULL DEFAULT '{}'::text[],
  error text,
  CONSTRAINT health_transition_key_key UNIQUE (key),
  CONSTRAINT health_transition_levels CHECK ((ARRAY[from_level, to_level] <@ ARRAY['none'::text, 'minor'::text, 'moderate'::text, 'severe'::text, 'critical'::text])),
  CONSTRAINT health_transition_pkey PRIMARY KEY (id)
);

CREATE TABLE orchestrator.memory_sync (
  singleton boolean NOT NULL DEFAULT true,
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  taken_at timestamp with time zone,
  waiting boolean NOT NULL DEFAULT false,
  synced_total bigint NOT NULL DEFAULT 0,
  dead_total bigint NOT NULL DEFAULT 0,
  hurried_at timestamp with time zone,
  CONSTRAINT memory_sync_pkey PRIMARY KEY (singleton),
  CONSTRAINT memory_sync_singleton_check CHECK (singleton)
) WITH (fillfactor=50);

CREATE TABLE orchestrator.migration (
  id integer NOT NULL DEFAULT nextval('orchestrator.migration_id_seq'::regclass),
  name character varying(255) NOT NULL,
  run_on timestamp without time zone NOT NULL,
  CONSTRAINT migration_pkey PRIMARY KEY (id)
);

CREATE TABLE orchestrator.outbox_delivery (
  message_id uuid NOT NULL,
  started_at timestamp with time zone,
  CONSTRAINT outbox_delivery_pkey PRIMARY KEY (message_id)
);

CREATE TABLE orchestrator.outbox_journal (
  shard integer NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  taken_at timestamp with time zone,
  settled_number bigint NOT NULL DEFAULT 0,
  settled_batch uuid,
  settled_at timestamp with time zone,
  delivered_total bigint NOT NULL DEFAULT 0,
  open_batch uuid,
  open_seqs bigint[],
  opened_at timestamp with time zone,
  CONSTRAINT outbox_journal_check CHECK (((open_batch IS NULL) = (open_seqs IS NULL))),
  CONSTRAINT outbox_journal_pkey PRIMARY KEY (shard),
  CONSTRAINT outbox_journal_shard_check CHECK ((shard >= 0))
) WITH (fillfactor=50);

CREATE TABLE orchestrator.restore_drill (
  id text NOT NULL,
  backup text,
  type text,
  source text,
  destination text,
  started_at timestamp with time zone NOT NULL,
  ended_at timestamp with time zone NOT NULL,
  passed boolean NOT NULL,
  evidence jsonb,
  error text,
  CONSTRAINT restore_drill_pkey PRIMARY KEY (id)
);

CREATE TABLE orchestrator.upload (
  idempotency_key character varying(255) NOT NULL,
  filename text NOT NULL,
  content_type text,
  metadata jsonb NOT NULL,
  size bigint NOT NULL,
  sha256 text,
  data bytea,
  data_ref text,
  state text NOT NULL DEFAULT 'waiting'::text,
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  tier text,
  location text,
  durability text,
  touched_tiers text[] NOT NULL DEFAULT '{}'::text[],
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  updated_at timestamp with time zone NOT NULL DEFAULT now(),
  stored_at timestamp with time zone,
  promoted_at timestamp with time zone,
  CONSTRAINT upload_bytes CHECK (((tier IS NOT NULL) OR (data IS NOT NULL) OR (data_ref IS NOT NULL))),
  CONSTRAINT upload_copy CHECK (((state = ANY (ARRAY['stored'::text, 'promoting'::text, 'promoted'::text])) = ((tier IS NOT NULL) AND (location IS NOT NULL) AND (sha256 IS NOT NULL) AND (stored_at IS NOT NULL)))),
  CONSTRAINT upload_pkey PRIMARY KEY (idempotency_key),
  CONSTRAINT upload_size_check CHECK ((size >= 0)),
  CONSTRAINT upload_states CHECK ((state = ANY (ARRAY['waiting'::text, 'stored'::text, 'promoting'::text, 'promoted'::text, 'failed'::text, 'cancelled'::text])))
);

CREATE TABLE public.core_deadlettermessage (
  id uuid NOT NULL,
  original_outbox_id uuid,
  original_topic character varying(255) NOT NULL,
  idempotency_key character varying(255) NOT NULL,
  payload jsonb NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}'::jsonb,
  error_message text NOT NULL,
  error_type character varying(255),
  attempts integer NOT NULL,
  created_at timestamp with time zone NOT NULL,
  original_created_at timestamp with time zone,
  resolved boolean NOT NULL DEFAULT false,
  resolved_at timestamp with time zone,
  resolved_by character varying(255),
  resolution_notes text,
  partition_key character varying(255),
  original_seq bigint,
  replay_id uuid,
  CONSTRAINT core_deadlettermessage_pkey PRIMARY KEY (id)
);

CREATE TABLE public.core_idempotencyrecord (
  id uuid NOT NULL,
  idempotency_key character varying(255) NOT NULL,
  operation_type character varying(100) NOT NULL,
  result jsonb,
  created_at timestamp with time zone NOT NULL,
  expires_at timestamp with time zone NOT NULL,
  payload_hash text,
  holder uuid,
  completed_at timestamp with time zone,
  own_expires_at timestamp with time zone,
  CONSTRAINT core_idempotencyrecord_idempotency_key_key UNIQUE (idempotency_key),
  CONSTRAINT core_idempotencyrecord_pkey PRIMARY KEY (id)
);

CREATE TABLE public.core_outboxmessage (
  id uuid NOT NULL,
  idempotency_key character varying(255) NOT NULL,
  topic character varying(255) NOT NULL,
  partition_key character varying(255),
  payload jsonb NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}'::jsonb,
  created_at timestamp with time zone NOT NULL,
  published_at timestamp with time zone,
  failed_at timestamp with time zone,
  attempts integer NOT NULL DEFAULT 0,
  max_attempts integer NOT NULL DEFAULT 5,
  next_retry_at timestamp with time zone,
  last_error text,
  status character varying(20) NOT NULL DEFAULT 'pending'::character varying,
  relay_seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  CONSTRAINT core_outboxmessage_idempotency_key_key UNIQUE (idempotency_key),
  CONSTRAINT core_outboxmessage_pkey PRIMARY KEY (id)
);

CREATE TABLE public.core_pendingmemory (
  id uuid NOT NULL,
  idempotency_key character varying(255) NOT NULL,
  tenant_id character varying(255) NOT NULL,
  namespace character varying(100) NOT NULL DEFAULT 'wm'::character varying,
  payload jsonb NOT NULL,
  created_at timestamp with time zone NOT NULL,
  synced boolean NOT NULL DEFAULT false,
  synced_at timestamp with time zone,
  sync_attempts integer NOT NULL DEFAULT 0,
  last_error text,
  sync_seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  next_attempt_at timestamp with time zone,
  dead_at timestamp with time zone,
  CONSTRAINT core_pendingmemory_idempotency_key_key UNIQUE (idempotency_key),
  CONSTRAINT core_pendingmemory_pkey PRIMARY KEY (id)
);

CREATE UNLOGGED TABLE orchestrator.outbox_waiting (
  shard integer NOT NULL,
  waiting boolean NOT NULL,
  CONSTRAINT outbox_waiting_pkey PRIMARY KEY (shard)
) WITH (fillfactor=50);

CREATE INDEX core_deadlettermessage_original_topic_resolved ON public.core_deadlettermessage USING btree (original_topic, resolved);
CREATE INDEX core_outboxmessage_next_retry_at ON public.core_outboxmessage USING btree (next_retry_at);
CREATE INDEX core_outboxmessage_status_created_at ON public.core_outboxmessage USING btree (status, created_at);
CREATE INDEX core_outboxmessage_topic_status ON public.core_outboxmessage USING btree (topic, status);
CREATE INDEX core_pendingmemory_synced_created_at ON public.core_pendingmemory USING btree (synced, created_at);
CREATE INDEX core_pendingmemory_tenant_id_synced ON public.core_pendingmemory USING btree (tenant_id, synced);
CREATE INDEX health_transition_at ON orchestrator.health_transition USING btree (at);
CREATE INDEX orchestrator_backup_source ON orchestrator.backup USING btree (type, source, destination, started_at DESC);
CREATE INDEX orchestrator_deadletter_replay ON public.core_deadlettermessage USING btree (replay_id) WHERE ((replay_id IS NOT NULL) AND (NOT resolved));
CREATE INDEX orchestrator_idempotency_expires ON public.core_idempotencyrecord USING btree (expires_at);
CREATE INDEX orchestrator_memory_pending ON public.core_pendingmemory USING btree (tenant_id, sync_seq) WHERE ((NOT synced) AND (dead_at IS NULL));
CREATE INDEX orchestrator_outbox_parked ON public.core_outboxmessage USING btree (topic, partition_key, relay_seq) WHERE ((status)::text = 'failed'::text);
CREATE INDEX orchestrator_outbox_pending_2 ON public.core_outboxmessage USING btree (abs((hashtextextended((COALESCE(partition_key, ((id)::text)::character varying))::text, (0)::bigint) % (2)::bigint)), relay_seq) WHERE ((status)::text = 'pending'::text);
CREATE INDEX orchestrator_restore_drill_source ON orchestrator.restore_drill USING btree (type, source, ended_at DESC);
CREATE INDEX upload_cancelled ON orchestrator.upload USING btree (updated_at) WHERE (state = 'cancelled'::text);
CREATE INDEX upload_data_ref ON orchestrator.upload USING hash (data_ref) WHERE (data_ref IS NOT NULL);
CREATE INDEX upload_filename ON orchestrator.upload USING hash (filename);
CREATE INDEX upload_leftovers ON orchestrator.upload USING btree (idempotency_key) WHERE (((state = ANY (ARRAY['stored'::text, 'promoted'::text])) AND (cardinality(touched_tiers) > 1)) OR ((state = 'cancelled'::text) AND (touched_tiers <> '{}'::text[])));
CREATE INDEX upload_open ON orchestrator.upload USING btree (updated_at, state) WHERE (state = ANY (ARRAY['waiting'::text, 'promoting'::text]));
CREATE INDEX upload_path ON orchestrator.upload USING btree (state) WHERE (data_ref !~ '^(spool:|s3://|https?://)'::text);
CREATE INDEX upload_sha256 ON orchestrator.upload USING btree (sha256);

CREATE OR REPLACE FUNCTION orchestrator.wake_memory_sync()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
  IF EXISTS (SELECT FROM orchestrator.memory_sync WHERE waiting) THEN
    NOTIFY somaagent_memory;
  END IF;
  RETURN NULL;
END
$function$;
CREATE OR REPLACE FUNCTION orchestrator.wake_outbox_relay()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
  IF EXISTS (SELECT FROM orchestrator.outbox_waiting WHERE waiting) THEN
    NOTIFY somaagent_outbox;
  END IF;
  RETURN NULL;
END
$function$;

CREATE TRIGGER orchestrator_wake_memory_sync AFTER INSERT ON public.core_pendingmemory FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.wake_memory_sync();
CREATE TRIGGER orchestrator_wake_outbox_relay AFTER INSERT ON public.core_outboxmessage FOR EACH STATEMENT EXECUTE FUNCTION orchestrator.wake_outbox_relay();

-- also: sequence orchestrator.health_transition_id_seq
-- also: sequence orchestrator.migration_id_seq
-- also: sequence public.core_outboxmessage_relay_seq_seq
-- also: sequence public.core_pendingmemory_sync_seq_seq
