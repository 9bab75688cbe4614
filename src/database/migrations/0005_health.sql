-- What the health cycle writes down: what became otherwise with a component, and which components are not worth trying.

-- The key is {component}:{event}:{epoch milliseconds of at}: a transition that is written twice is there once.
CREATE TABLE orchestrator.health_transition (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  key text NOT NULL UNIQUE,
  component text NOT NULL,
  event text NOT NULL,
  from_level text NOT NULL,
  to_level text NOT NULL,
  at timestamptz NOT NULL,
  -- The failed components that explain it.
  suppressed_by text[] NOT NULL DEFAULT '{}',
  error text,
  CONSTRAINT health_transition_levels CHECK (
    ARRAY[from_level, to_level] <@ ARRAY['none', 'minor', 'moderate', 'severe', 'critical']
  )
);

-- People look at the latest ones, and the purge walks from the oldest on.
CREATE INDEX health_transition_at ON orchestrator.health_transition (at);

-- While open_until is ahead, only trials of the component are worth making; null: its breaker is not open. A gate ends
-- by itself, so nobody depends on the health cycle being alive.
CREATE TABLE orchestrator.health_gate (
  component text PRIMARY KEY,
  open_until timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now()
);
