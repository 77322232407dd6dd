# Two images from one file:
#   understudy  runtime, gateway, executor, console and the operator's command, chosen by the first argument
#   sandbox     the job runner only: no library, no credential, nothing of ours but services/sandbox
ARG NODE_IMAGE=node:24-bookworm-slim

# ---- what production needs of npm, in a layer that changes only with the lock file
FROM ${NODE_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-fund --no-audit --loglevel=error \
 && find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' -o -name '*.md' \) -delete

# ---- Node alone: whoever breaks in finds no package manager to fetch more with
FROM ${NODE_IMAGE} AS base
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn /usr/local/bin/yarnpkg /opt/yarn* \
      /usr/local/include /usr/bin/apt* /usr/bin/dpkg* /usr/lib/apt /var/lib/apt /var/cache/apt /var/cache/debconf /var/log/* /root/.npm \
 && find / -xdev -perm /6000 -type f -exec chmod a-s {} +
ENV NODE_ENV=production NODE_OPTIONS=--disable-warning=ExperimentalWarning

FROM scratch AS node
COPY --from=base / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin NODE_ENV=production NODE_OPTIONS=--disable-warning=ExperimentalWarning

# What cannot be read cannot be traced either: a job that runs as the runner's user cannot look into the runner. gVisor
# does not execute what it cannot read (and lets nobody trace a parent), so it takes the other copy.
FROM base AS sealed
RUN cp /usr/local/bin/node /usr/local/bin/node-sealed && chmod 0111 /usr/local/bin/node-sealed

FROM scratch AS sandbox
COPY --from=sealed / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin NODE_ENV=production
LABEL org.opencontainers.image.title="understudy-sandbox" \
      org.opencontainers.image.description="Runs one tool job for one session of Understudy" \
      org.opencontainers.image.licenses="UNLICENSED"
WORKDIR /app
COPY services/sandbox services/sandbox
USER 10002:10002
EXPOSE 8080
ENTRYPOINT ["/bin/sh", "-c", "if node-sealed -v >/dev/null 2>&1; then exec node-sealed --disable-sigusr1 services/sandbox/main.ts; else exec node --disable-sigusr1 services/sandbox/main.ts; fi"]

FROM node AS understudy
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="understudy" \
      org.opencontainers.image.description="LLM agents that keep running when everything around them dies" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="UNLICENSED"
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json tsconfig.json ./
COPY bin bin
COPY examples examples
COPY services services
COPY chaos chaos
# A pod that starts is work that waits: what Node makes of the sources is kept, and a third of the CPU of a start is saved. The cache is
# of this user; as another, or with another Node, services start as if there were none.
RUN mkdir -m 755 .compile-cache && chown 10001:10001 .compile-cache
USER 10001:10001
ENV NODE_COMPILE_CACHE=/app/.compile-cache
RUN node --input-type=module -e "import { glob } from 'node:fs/promises'; for await (const file of glob('services/{adapters,core,ports,runtime,gateway,executor,console}/**/*.ts')) if (!file.endsWith('main.ts') && !file.includes('/page/')) await import('/app/' + file); process.exit()"
EXPOSE 8080
ENTRYPOINT ["/app/bin/service"]
CMD ["understudy", "--help"]
