# One file, three images: --target backend (no torch), worker, dashboard. docker-compose.yml builds all of them.
# TORCH_INDEX chooses a build of torch (CPU or CUDA), see docs/configuration.md; BASE_IMAGE needs Python 3.11 or newer.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS source
WORKDIR /source
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY backend backend
COPY worker worker
COPY dashboard dashboard

FROM source AS build-backend
RUN pip install -q -c constraints.txt '.[backend,postgres]'

FROM source AS build-dashboard
RUN pip install -q -c constraints.txt '.[dashboard]' \
 && cd / && python -c 'from dashboard.assets import ensure_whole_plotly; ensure_whole_plotly()'

FROM source AS build-worker
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN pip install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
RUN pip install -q -c constraints.txt '.[worker,postgres]'

# What all three share when they run: an unprivileged user who owns the two volumes, and nothing to build with.
FROM ${BASE_IMAGE} AS run
RUN useradd --uid 10001 --create-home routeprint \
 && mkdir /data /models && chown routeprint:routeprint /data /models
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 ROUTEPRINT_HOME=/data ROUTEPRINT_MODELS_DIR=/models
WORKDIR /data
USER routeprint

FROM run AS backend
COPY --from=build-backend /venv /venv
ENV ROUTEPRINT_HOST=0.0.0.0
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8321/health', timeout=4)"]
# The token is made first: the backend does not listen for other machines before there is one.
CMD ["sh", "-c", "routeprint token >/dev/null && exec routeprint backend"]

FROM run AS worker
COPY --from=build-worker /venv /venv
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s \
  CMD ["sh", "-c", "routeprint doctor --worker \"$(hostname)\" >/dev/null"]
CMD ["python", "-m", "worker"]

FROM run AS dashboard
COPY --from=build-dashboard /venv /venv
ENV ROUTEPRINT_DASHBOARD_HOST=0.0.0.0
EXPOSE 8322
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8322/_stcore/health', timeout=4)"]
CMD ["sh", "-c", "ROUTEPRINT_TOKEN=\"${ROUTEPRINT_TOKEN:-$(cat /data/token)}\" exec python -m dashboard"]
