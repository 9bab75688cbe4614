-- What delivery workflows, dead letters and their replay add. Everything on the platform's table is a nullable column,
-- which costs no rewrite and which a neighbour's INSERT may leave out.

SET LOCAL lock_timeout = '3s';

-- A letter keeps what a replay needs: the key and the place in the order of its key. replay_id is the outbox row by
-- which it is being sent again.
ALTER TABLE public.core_deadlettermessage
  ADD COLUMN partition_key varchar(255),
  ADD COLUMN original_seq bigint,
  ADD COLUMN replay_id uuid;

CREATE INDEX orchestrator_deadletter_replay ON public.core_deadlettermessage (replay_id)
  WHERE replay_id IS NOT NULL AND NOT resolved;

-- Parked messages that have an outboxDelivery workflow; the others are tried again by next_retry_at alone.
CREATE TABLE orchestrator.outbox_delivery (
  message_id uuid PRIMARY KEY,
  -- Null until the workflow is started.
  started_at timestamptz
);
