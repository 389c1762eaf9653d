# A PostgreSQL from Debian's packages that reads the same variables as the hub's image, for test machines that cannot
# reach the hub:  podman build --build-arg BASE_IMAGE=... -t NAME -f tests/compose/postgres.Dockerfile tests/compose ; POSTGRES_IMAGE=NAME
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
RUN mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql \
 && mkdir -p /var/lib/postgresql/data && chown postgres:postgres /var/lib/postgresql/data
ENV PGDATA=/var/lib/postgresql/data
COPY --chmod=755 postgres-entrypoint.sh /entrypoint.sh
USER postgres
ENTRYPOINT ["/entrypoint.sh"]
