import { createHash, createHmac } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { host, type Ports } from '../ports.ts';
import { goProgram, onPath } from '../programs.ts';
import type { Service } from './service.ts';

const version = '1.8.0';
const region = 'us-east-1';
const bucket = 'somaagent';
const accessKey = 'somaagent';
const secretKey = 'somaagent-secret';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const hmac = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();

/** Creates the bucket by a request signed as AWS wants it (version 4): it proves the keys as well as the server. */
async function createBucket(ports: Ports): Promise<Response> {
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, '');
  const scope = [time.slice(0, 8), region, 's3', 'aws4_request'];
  const headers = { host: `${host}:${ports.s3}`, 'x-amz-content-sha256': sha256(''), 'x-amz-date': time };
  const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
  const signed = Object.keys(headers).join(';');
  const request = ['PUT', `/${bucket}`, '', lines.join(''), signed, sha256('')].join('\n');
  const toSign = ['AWS4-HMAC-SHA256', time, scope.join('/'), sha256(request)].join('\n');
  const key = scope.reduce<string | Buffer>(hmac, `AWS4${secretKey}`);
  const credential = `Credential=${accessKey}/${scope.join('/')}`;
  const signature = `Signature=${hmac(key, toSign).toString('hex')}`;
  return fetch(`http://${host}:${ports.s3}/${bucket}`, {
    method: 'PUT',
    headers: {
      ...headers,
      authorization: `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${signed}, ${signature}`,
    },
    signal: AbortSignal.timeout(2000),
  });
}

export const s3: Service = {
  title: 'S3 (versitygw)',
  ports: (ports) => [ports.s3],
  async obtain() {
    const home = await goProgram({
      title: 'S3 (versitygw)',
      name: 'versitygw',
      variable: 'SA01_VERSITYGW',
      module: 'github.com/versity/versitygw/cmd/versitygw',
      version,
      duration: 'about three minutes',
    });
    const own = process.env.SA01_VERSITYGW || onPath('versitygw');
    // A binary built by `go install` does not know its own version.
    return { home, version: own ? 'own binary' : version };
  },
  async prepare({ directory, ports, program }) {
    const data = path.join(directory, 'data');
    await mkdir(data, { recursive: true });
    return {
      command: program.home,
      args: ['--port', `${host}:${ports.s3}`, '--region', region, '--quiet', '--keep-alive', 'posix', data],
      env: { ROOT_ACCESS_KEY: accessKey, ROOT_SECRET_KEY: secretKey },
      cwd: directory,
    };
  },
  async ready(ports) {
    const response = await createBucket(ports);
    const text = await response.text();
    // 409: the bucket is there and ours.
    if (!response.ok && response.status !== 409) throw new Error(`S3 answers ${response.status} ${text}`);
  },
  env: (ports) => ({
    SA01_S3_ENDPOINT: `http://${host}:${ports.s3}`,
    SA01_S3_BUCKET: bucket,
    AWS_ACCESS_KEY_ID: accessKey,
    AWS_SECRET_ACCESS_KEY: secretKey,
  }),
  stopSignal: 'SIGTERM',
  stopWithinMs: 3000,
};
