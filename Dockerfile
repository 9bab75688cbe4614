# The worker: compiled JavaScript, the workflow bundle made at build time, and the production dependencies.
# Debian, because the Temporal SDK's native part needs glibc (no Alpine). The version is the one package.json pins.
FROM node:24.21.0-bookworm-slim AS build
WORKDIR /app
# Dependencies first: they change less often than the sources. run.mjs remembers what it installed.
COPY package.json package-lock.json ./
COPY scripts/run.mjs scripts/
RUN node scripts/run.mjs --version
COPY . .
RUN npm run build

FROM node:24.21.0-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund

FROM node:24.21.0-bookworm-slim
# The slim image brings no certificate authorities, and Temporal Cloud, S3 and brokers with TLS need them. pg_dump has to be
# of the server's major version: an older one refuses the server, and what a newer one writes does not restore into it.
# Debian's own is older, so it comes from PostgreSQL's apt repository, which Debian's postgresql-common knows with its key.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
  && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
  && apt-get install --yes --no-install-recommends postgresql-client-16 \
  && rm -rf /var/lib/apt/lists/* \
  && install -d -o node -g node /var/lib/somaagent /var/backups/somaagent
ENV NODE_ENV=production SA01_PG_BIN_DIR=/usr/lib/postgresql/16/bin
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json ./
COPY --from=build /app/dist dist
USER node
EXPOSE 9464
# As `npm start`: with these the worker stays below 300 MB, and a mount that hangs leaves it threads for other files.
ENV MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072 UV_THREADPOOL_SIZE=16
CMD ["node", "--disable-warning=TimeoutNegativeWarning", "--max-semi-space-size=6", "--heap-growing-percent=50", "dist/worker.js"]
