import { createHash } from 'node:crypto';
import { ownDatabase } from './backupSettings.ts';
import type { Config } from './config.ts';
import { canonicalJson } from './domain/canonicalJson.ts';
import type { ComponentPlan, HealthPlan } from './domain/health.ts';
import {
  type BreakerPlan,
  COMPONENT_NAMES,
  COMPONENTS,
  type ComponentName,
  DEFAULT_BREAKER,
} from './domain/healthComponents.ts';
import { type ComponentOverrides, type HealthConfigFile, readHealthConfigFile } from './healthConfigFile.ts';
import {
  DEFAULT_ERROR_RATES,
  DEFAULT_INTERVAL_SECONDS,
  DEFAULT_LIMIT_SECONDS,
  DEFAULT_RULES,
  DEFAULT_SLOW_SECONDS,
  DERIVED,
  LIMIT_SECONDS,
} from './healthDefaults.ts';
import type { ComponentProbing, HealthModel, ProbeTarget } from './probes/target.ts';

/**
 * What is checked, how, and by which rules: the defaults, the addresses of the configuration, and what the file of
 * SA01_HEALTH_CONFIG says otherwise. The plan names no address and no secret.
 * @throws ConfigError with all that is wrong with the file, one sentence each
 */
export function readHealthModel(config: Config): HealthModel {
  const file = config.healthConfig ? readHealthConfigFile(config.healthConfig) : {};
  const probing: HealthModel['probing'] = {};
  const components = {} as HealthPlan['components'];
  for (const name of COMPONENT_NAMES) {
    const overrides = file.components?.[name] ?? {};
    const found = overrides.monitored === false ? undefined : probingOf(name, config, overrides);
    if (found) probing[name] = found;
    components[name] = planOf(name, found, overrides);
  }
  return { plan: versioned({ ...timing(file), components }), probing };
}

const timing = ({ intervalSeconds, rules }: HealthConfigFile) => ({
  intervalSeconds: intervalSeconds ?? DEFAULT_INTERVAL_SECONDS,
  rules: { ...DEFAULT_RULES, ...rules },
});

function planOf(
  name: ComponentName,
  probing: ComponentProbing | undefined,
  { monitored, dependsOn, slowSeconds, errorRates, breaker }: ComponentOverrides,
): ComponentPlan {
  const unprobed = DERIVED.includes(name) && monitored !== false ? 'derived' : 'unmonitored';
  const plan: ComponentPlan = {
    monitoring: probing ? 'probed' : unprobed,
    dependsOn: dependsOn ?? dependenciesOf(name, probing),
    slowSeconds: slowSeconds ?? DEFAULT_SLOW_SECONDS,
    errorRates: errorRates ?? DEFAULT_ERROR_RATES,
  };
  const guard = breakerOf(name, breaker);
  return guard ? { ...plan, breaker: guard } : plan;
}

/** Where Redis is the only storage tier, storage cannot do without it. */
function dependenciesOf(
  name: ComponentName,
  probing: ComponentProbing | undefined,
): ComponentPlan['dependsOn'] {
  const isOnlyRedis =
    name === 'storage' && probing && 'members' in probing && Object.keys(probing.members).join() === 'redis';
  return isOnlyRedis ? { redis: 'hard' } : COMPONENTS[name].dependsOn;
}

/** A breaker that the file describes is there, also where the platform has none. */
function breakerOf(name: ComponentName, breaker: ComponentOverrides['breaker']): BreakerPlan | undefined {
  if (breaker === false || (!breaker && !COMPONENTS[name].hasBreaker)) return undefined;
  return { ...DEFAULT_BREAKER, ...breaker };
}

function probingOf(
  name: ComponentName,
  config: Config,
  { url, members, limitSeconds = LIMIT_SECONDS[name] ?? DEFAULT_LIMIT_SECONDS }: ComponentOverrides,
): ComponentProbing | undefined {
  const probing = (target: ProbeTarget) => ({ target, limitSeconds });
  const group = (targets: Record<string, ProbeTarget>) => ({
    members: Object.fromEntries(Object.entries(targets).map(([member, target]) => [member, probing(target)])),
  });
  if (url) return probing({ kind: 'http', url });
  if (members) {
    const targets = Object.entries(members).map(
      ([member, { url }]) => [member, { kind: 'http', url }] as const,
    );
    return group(Object.fromEntries(targets));
  }
  switch (name) {
    case 'database':
      return probing({ kind: 'postgres', url: config.databaseUrl });
    case 'kafka':
    case 'temporal':
      return probing({ kind: name });
    case 'redis':
      return probing({ kind: 'redis', url: config.redisUrl });
    case 'somabrain':
      return probing({ kind: 'somabrain', url: config.somabrainUrl });
    case 'storage':
      return group(storageTiers(config));
    case 'backup_service':
      return config.backupDestination ? probing(backups(config)) : undefined;
    default:
      return undefined;
  }
}

/** The tiers that are configured, in the order in which uploads try them. */
function storageTiers({ s3, storageDir, redisUrl }: Config): Record<string, ProbeTarget> {
  return {
    ...(s3 && { s3: { kind: 's3', ...s3 } }),
    ...(storageDir && { filesystem: { kind: 'filesystem', root: storageDir } }),
    redis: { kind: 'redisStore', url: redisUrl },
  };
}

/** Of the own database, which is what the Schedule backs up. */
const backups = (config: Config): ProbeTarget => ({
  kind: 'backups',
  url: config.databaseUrl,
  source: ownDatabase(config),
  maxAgeHours: config.backups.maxAgeHours,
});

/** The version is made of all the rest, so it differs exactly where anything else does. */
function versioned(plan: Omit<HealthPlan, 'version'>): HealthPlan {
  const hash = createHash('sha256').update(canonicalJson(plan)).digest('hex');
  return { version: hash.slice(0, 16), ...plan };
}
