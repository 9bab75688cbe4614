import { createHash, createHmac } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';

interface SignedRequest {
  method: string;
  /** Path and query. */
  url: string;
  headers: IncomingHttpHeaders;
}

const AUTHORIZATION = /^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=/;

const hmac = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();

/** The request's headers without `name`, signed anew (AWS's version 4), as if its client had not sent that one. */
export function withoutHeader(request: SignedRequest, name: string, secret: string): IncomingHttpHeaders {
  const { [name]: stripped, ...headers } = request.headers;
  const [, credential, signed] = AUTHORIZATION.exec(request.headers.authorization ?? '') ?? [];
  if (stripped === undefined || !credential || !signed) return request.headers;
  const names = signed.split(';').filter((one) => one !== name);
  const [path, query = ''] = request.url.split('?');
  const parameters = query.split('&').map((one) => (one === '' || one.includes('=') ? one : `${one}=`));
  const canonical = [
    request.method,
    path,
    parameters.sort().join('&'),
    ...names.map((one) => `${one}:${headers[one]}`),
    '',
    names.join(';'),
    headers['x-amz-content-sha256'],
  ].join('\n');
  const scope = credential.split('/').slice(1);
  const digest = createHash('sha256').update(canonical).digest('hex');
  const toSign = ['AWS4-HMAC-SHA256', headers['x-amz-date'], scope.join('/'), digest].join('\n');
  const key = scope.reduce<string | Buffer>(hmac, `AWS4${secret}`);
  const signature = hmac(key, toSign).toString('hex');
  headers.authorization = `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${names.join(';')}, Signature=${signature}`;
  return headers;
}
