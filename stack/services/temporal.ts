import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { Connection } from '@temporalio/client';
import { host } from '../ports.ts';
import { goProgram, run } from '../programs.ts';
import type { Service } from './service.ts';

/** The path of the Temporal CLI, which also holds the development server; built once if the machine has none. */
export function temporalCli(): Promise<string> {
  return goProgram({
    title: 'Temporal',
    name: 'temporal',
    variable: 'SA01_TEMPORAL_CLI',
    module: 'github.com/temporalio/cli/cmd/temporal',
    version: '1.5.1',
    duration: 'up to five minutes',
  });
}

export const temporal: Service = {
  title: 'Temporal',
  ports: (ports) => [ports.temporal, ports.temporalUi],
  async obtain() {
    const home = await temporalCli();
    const printed = await run(home, ['--version']);
    return { home, version: /Server (\d[\d.]*)/.exec(printed)?.[1] ?? printed.trim() };
  },
  async prepare({ directory, ports, program }) {
    const data = path.join(directory, 'data');
    await mkdir(data, { recursive: true });
    const args = ['server', 'start-dev', '--ip', host, '--port', String(ports.temporal)];
    args.push('--ui-ip', host, '--ui-port', String(ports.temporalUi));
    args.push('--db-filename', path.join(data, 'temporal.db'), '--log-level', 'warn');
    // The server would ask its makers for news.
    args.push('--dynamic-config-value', 'frontend.enableServerVersionCheck=false');
    // A home of its own keeps the user's temporal.toml and environments out.
    return { command: program.home, args, env: { HOME: directory }, cwd: directory };
  },
  async ready(ports) {
    const connection = await Connection.connect({
      address: `${host}:${ports.temporal}`,
      connectTimeout: 2000,
    });
    try {
      await connection.withDeadline(Date.now() + 2000, async () => {
        await connection.workflowService.getSystemInfo({});
        await connection.workflowService.describeNamespace({ namespace: 'default' });
      });
    } finally {
      await connection.close();
    }
    const ui = await fetch(`http://${host}:${ports.temporalUi}/`, { signal: AbortSignal.timeout(2000) });
    if (!ui.ok) throw new Error(`the UI answers ${ui.status}`);
  },
  env: (ports) => ({ SA01_TEMPORAL_HOST: `${host}:${ports.temporal}` }),
  stopSignal: 'SIGTERM',
  stopWithinMs: 5000,
};
