# Two stages: the first builds, the second only runs. docs/deploy.md says how to use it.
# One patch version of one Debian; `make pin` writes its digest behind it, and `make image` asks for that.
ARG PYTHON=python:3.11.15-slim-trixie

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build

# The environment has no pip of its own: nothing in the final image can install anything.
# With the optional extras (OpenID sign-in, traces, Sentry): --build-arg REQUIREMENTS=requirements-extras.lock
ARG REQUIREMENTS=requirements.lock
COPY requirements.lock requirements-extras.lock ./
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: \
        -r "${REQUIREMENTS:-requirements.lock}"

COPY requirements-dev.lock pyproject.toml README.md ./
# The tools that make the wheel stay here; their versions and hashes are those of the development lock file.
RUN python -m venv /opt/tools \
    && awk '/^[a-z]/ {keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} keep' \
        requirements-dev.lock > tools.lock \
    && /opt/tools/bin/pip install --require-hashes --only-binary :all: -r tools.lock
COPY src ./src
COPY migrations ./migrations
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl


FROM ${PYTHON}
RUN pip uninstall --yes --quiet setuptools wheel pip \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin payment-service
COPY --from=build /opt/venv /opt/venv
# HOME: the database driver looks there for client certificates, and may not read the home of root.
ENV PATH=/opt/venv/bin:$PATH HOME=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8015
WORKDIR /app
USER 10001
EXPOSE 8015
# For `serve`. A worker has no port: run it with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["payment-service"]
CMD ["serve"]
