# The bridge as a container: nothing but Python and the installed package, as an unprivileged user.
# Packages are locked by hash; what the tag of the base image stands for is not, see "Dependencies" in tests/README.md.
FROM python:3.13-slim AS build
WORKDIR /src
COPY .docker .docker
# Every package is the very file that was locked, or the build ends. The second environment only builds.
RUN python -m venv /opt/venv && python -m venv /opt/build \
 && for what in venv build; do \
      case $what in venv) lock=requirements ;; build) lock=build-requirements ;; esac; \
      /opt/$what/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r .docker/$lock.txt; \
    done
COPY pyproject.toml README.md LICENSE ./
COPY bridge bridge
COPY schemas schemas
RUN /opt/build/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -w /wheels . \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /wheels/*.whl \
 && /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/venv/sbom.cdx.json /opt/venv/bin/python

FROM python:3.13-slim
LABEL org.opencontainers.image.title="pbx-account-bridge" \
      org.opencontainers.image.description="Publishes every account change of innovaphone PBXs to RabbitMQ"
# A fixed number, so that volumes and secrets can be given to it.
RUN groupadd --system --gid 10001 bridge \
 && useradd --system --uid 10001 --gid bridge --home-dir /var/lib/account-bridge --create-home bridge \
 && chmod 0700 /var/lib/account-bridge
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BRIDGE_STORE_URL=sqlite:////var/lib/account-bridge/bridge.db XDG_RUNTIME_DIR=/var/lib/account-bridge
USER 10001:10001
WORKDIR /var/lib/account-bridge
VOLUME /var/lib/account-bridge
STOPSIGNAL SIGTERM
# Alive, not ready: a PBX or broker that is away is no reason to restart the bridge, which waits for it.
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --start-interval=2s \
    CMD ["account-bridge", "status", "--live", "--quiet"]
ENTRYPOINT ["account-bridge"]
CMD ["run"]
