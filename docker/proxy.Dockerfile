# What devices reach: HAProxy from Debian, as a user without rights. Its rules come from edge/proxy.cfg.
ARG DEBIAN=debian:12-slim
FROM ${DEBIAN}
RUN apt-get update && apt-get install --yes --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
USER 49999:49999
WORKDIR /
ENTRYPOINT ["haproxy", "-db", "-f", "/etc/flotilla/proxy.cfg"]
