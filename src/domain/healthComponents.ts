// The platform's components: who depends on whom, which have circuit breakers, and what a person can do. From the
// source's SERVICE_DEPENDENCIES and the platform's degradation monitor; `conversation_worker` is in its graph only.
export const COMPONENT_NAMES = [
  'database',
  'kafka',
  'redis',
  'temporal',
  'somabrain',
  'storage',
  'llm',
  'audio_tts',
  'audio_stt',
  'gateway',
  'auth_service',
  'conversation_worker',
  'tool_executor',
  'voice_service',
  'upload_service',
  'multimodal',
  'backup_service',
  'task_scheduler',
] as const;
export type ComponentName = (typeof COMPONENT_NAMES)[number];

export const isComponentName = (name: unknown): name is ComponentName =>
  COMPONENT_NAMES.includes(name as ComponentName);

/** How a dependent fares without what it depends on: hard, hardly; soft, with less. */
export type Edge = 'hard' | 'soft';

export interface BreakerPlan {
  /** So many failures in a row open it. */
  failures: number;
  /** The first time open; doubled each time that a trial fails, */
  openSeconds: number;
  /** up to this. */
  maxOpenSeconds: number;
  /** So many successful trials close it. */
  trials: number;
}

interface ComponentFacts {
  dependsOn: Partial<Record<ComponentName, Edge>>;
  hasBreaker: boolean;
  /** What its failure means and what to look at first. */
  recommendation: string;
  /** What holds meanwhile, or what to do until it is back. */
  mitigation: string;
}

/** The platform's: 5 failures open a breaker, 60 s later it is tried again. */
export const DEFAULT_BREAKER: BreakerPlan = {
  failures: 5,
  openSeconds: 60,
  maxOpenSeconds: 300,
  trials: 2,
};

const part = (
  dependsOn: ComponentFacts['dependsOn'],
  recommendation: string,
  mitigation: string,
): ComponentFacts => ({ dependsOn, hasBreaker: false, recommendation, mitigation });

const guarded = (
  recommendation: string,
  mitigation: string,
  dependsOn: ComponentFacts['dependsOn'] = {},
): ComponentFacts => ({
  dependsOn,
  hasBreaker: true,
  recommendation,
  mitigation,
});

/**
 * Soft dependencies are two: without SomaBrain agents go on, and what they should remember is queued; without Redis the
 * storage chain lacks its last tier.
 */
export const COMPONENTS: Record<ComponentName, ComponentFacts> = {
  database: guarded(
    'Postgres takes no writes: look at its process, its disk and its connections (pg_stat_activity).',
    'Writers fail until it is back; nothing that was committed is lost, and the relays wait by themselves.',
  ),
  kafka: guarded(
    'Kafka does not answer: look at the brokers and at their controller.',
    'Messages wait in the outbox in their order and are delivered when it is back; nothing needs to be sent again.',
  ),
  redis: part(
    {},
    'Redis does not answer: look at its process, its memory and its persistence.',
    'Sessions and caches miss; the last tier of the upload chain is gone until it is back.',
  ),
  temporal: part(
    {},
    'Temporal does not answer: look at its frontend and at its own database.',
    'Workflows stand still where they are and go on when it is back.',
  ),
  somabrain: guarded(
    'SomaBrain does not take memories: look at its /health and at its stores.',
    'Memories wait in core_pendingmemory and are handed over when it is back.',
  ),
  storage: guarded(
    'No storage tier works: look at the S3 endpoint, at the storage directory and at Redis.',
    'Uploads are retried until a tier works again; what is stored stays readable where its tier does.',
    { redis: 'soft' },
  ),
  llm: guarded(
    'No provider of language models answers: look at their status pages, the keys and the quota.',
    'Switch agents to a provider that works, or hold conversations back.',
  ),
  audio_tts: guarded(
    'No provider of speech synthesis answers: look at their status pages, the keys and the quota.',
    'Answer in text until one is back.',
  ),
  audio_stt: guarded(
    'No provider of speech recognition answers: look at their status pages, the keys and the quota.',
    'Ask for text until one is back.',
  ),
  gateway: part(
    { database: 'hard', redis: 'hard', kafka: 'hard', temporal: 'hard' },
    'The gateway does not answer: look at its process and its log.',
    'Users cannot reach the platform; restart it, or send them to another instance.',
  ),
  auth_service: part(
    { database: 'hard', redis: 'hard' },
    'The auth service does not answer: look at its process and its log.',
    'Nobody can log in; sessions that exist go on until they expire.',
  ),
  conversation_worker: part(
    { database: 'hard', kafka: 'hard', somabrain: 'soft', redis: 'hard', temporal: 'hard', llm: 'hard' },
    'The conversation worker does not answer: look at its process and its lag on conversation.inbound.',
    'User messages wait in Kafka and are answered late.',
  ),
  tool_executor: part(
    { database: 'hard', kafka: 'hard', somabrain: 'soft', temporal: 'hard', llm: 'hard' },
    'The tool executor does not answer: look at its process and its log.',
    'Agents cannot use tools; executions that Temporal holds go on when it is back.',
  ),
  voice_service: part(
    { llm: 'hard', audio_tts: 'hard', audio_stt: 'hard' },
    'The voice service does not answer: look at its process and its log.',
    'Offer conversations in text until it is back.',
  ),
  upload_service: part(
    { database: 'hard', storage: 'hard' },
    'Uploads are impaired: look at what the service depends on.',
    'Failed uploads are queued on upload.retry.',
  ),
  multimodal: part(
    { llm: 'hard', voice_service: 'hard', upload_service: 'hard' },
    'Multimodal conversations are impaired: look at its process and at what it depends on.',
    'Offer conversations in text until it is back.',
  ),
  backup_service: part(
    { database: 'hard', storage: 'hard' },
    'Nothing is known of the backups: their catalogue in Postgres does not answer.',
    'Backups that exist stay, and after one that failed none is removed; another one can be made by hand.',
  ),
  task_scheduler: part(
    { database: 'hard', redis: 'hard', temporal: 'hard' },
    'The task scheduler is impaired: look at what it depends on.',
    'Tasks that are due run late.',
  ),
};
