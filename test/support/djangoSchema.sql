-- The four tables as Django 5 makes them on PostgreSQL (`manage.py sqlmigrate core`): its names for indexes, a second
-- index with varchar_pattern_ops beside every unique CharField, and no defaults, which Django keeps in Python.

CREATE TABLE "core_outboxmessage" ("id" uuid NOT NULL PRIMARY KEY, "idempotency_key" varchar(255) NOT NULL UNIQUE, "topic" varchar(255) NOT NULL, "partition_key" varchar(255) NULL, "payload" jsonb NOT NULL, "headers" jsonb NOT NULL, "created_at" timestamp with time zone NOT NULL, "published_at" timestamp with time zone NULL, "failed_at" timestamp with time zone NULL, "attempts" integer NOT NULL, "max_attempts" integer NOT NULL, "next_retry_at" timestamp with time zone NULL, "last_error" text NULL, "status" varchar(20) NOT NULL);
CREATE TABLE "core_deadlettermessage" ("id" uuid NOT NULL PRIMARY KEY, "original_outbox_id" uuid NULL, "original_topic" varchar(255) NOT NULL, "idempotency_key" varchar(255) NOT NULL, "payload" jsonb NOT NULL, "headers" jsonb NOT NULL, "error_message" text NOT NULL, "error_type" varchar(255) NULL, "attempts" integer NOT NULL, "created_at" timestamp with time zone NOT NULL, "original_created_at" timestamp with time zone NULL, "resolved" boolean NOT NULL, "resolved_at" timestamp with time zone NULL, "resolved_by" varchar(255) NULL, "resolution_notes" text NULL);
CREATE TABLE "core_idempotencyrecord" ("id" uuid NOT NULL PRIMARY KEY, "idempotency_key" varchar(255) NOT NULL UNIQUE, "operation_type" varchar(100) NOT NULL, "result" jsonb NULL, "created_at" timestamp with time zone NOT NULL, "expires_at" timestamp with time zone NOT NULL);
CREATE TABLE "core_pendingmemory" ("id" uuid NOT NULL PRIMARY KEY, "idempotency_key" varchar(255) NOT NULL UNIQUE, "tenant_id" varchar(255) NOT NULL, "namespace" varchar(100) NOT NULL, "payload" jsonb NOT NULL, "created_at" timestamp with time zone NOT NULL, "synced" boolean NOT NULL, "synced_at" timestamp with time zone NULL, "sync_attempts" integer NOT NULL, "last_error" text NULL);
CREATE INDEX "core_outboxmessage_idempotency_key_3d1c7a52_like" ON "core_outboxmessage" ("idempotency_key" varchar_pattern_ops);
CREATE INDEX "core_outboxm_status_1a2b3c_idx" ON "core_outboxmessage" ("status", "created_at");
CREATE INDEX "core_outboxm_topic_4d5e6f_idx" ON "core_outboxmessage" ("topic", "status");
CREATE INDEX "core_outboxm_next_re_7a8b9c_idx" ON "core_outboxmessage" ("next_retry_at");
CREATE INDEX "core_deadlet_origina_0d1e2f_idx" ON "core_deadlettermessage" ("original_topic", "resolved");
CREATE INDEX "core_idempotencyrecord_idempotency_key_90ab12cd_like" ON "core_idempotencyrecord" ("idempotency_key" varchar_pattern_ops);
CREATE INDEX "core_pendingmemory_idempotency_key_5e6f7081_like" ON "core_pendingmemory" ("idempotency_key" varchar_pattern_ops);
CREATE INDEX "core_pending_synced_34cd56_idx" ON "core_pendingmemory" ("synced", "created_at");
CREATE INDEX "core_pending_tenant__78ef90_idx" ON "core_pendingmemory" ("tenant_id", "synced");
