# docker build -t maang .                         the command, with what Databricks needs
# docker build -t maang --build-arg EXTRAS= .     the command without Databricks
# docker build -t maang-airflow --target airflow .
ARG PYTHON=python:3.12-slim-bookworm
ARG AIRFLOW=apache/airflow:3.3.2-python3.12

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/maang \
    UV_PYTHON_DOWNLOADS=never
RUN python -m venv /opt/uv && /opt/uv/bin/pip install uv==0.13.9
WORKDIR /src
# A space-separated list of extras.
ARG EXTRAS=databricks
# The dependencies, with the versions pinned in pyproject.toml. This layer is rebuilt only if that file changes.
COPY pyproject.toml ./
RUN for extra in ${EXTRAS}; do set -- "$@" "--extra=${extra}"; done; /opt/uv/bin/uv sync --no-install-project "$@"
COPY README.md LICENSE ./
COPY maang_cli maang_cli
RUN for extra in ${EXTRAS}; do set -- "$@" "--extra=${extra}"; done; /opt/uv/bin/uv sync --no-editable "$@"


# Airflow with stock_dag. The image has what the extra `airflow` installs. maang gets an environment of its own, so that neither
# decides the other's versions.
FROM ${AIRFLOW} AS airflow
USER root
RUN install -d -o airflow -g 0 /opt/maang /var/lib/maang
USER airflow
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/maang/venv \
    UV_PYTHON_DOWNLOADS=never
ARG EXTRAS=databricks
COPY --from=build --chown=airflow:0 /src /opt/maang/src
RUN for extra in ${EXTRAS}; do set -- "$@" "--extra=${extra}"; done \
    && python -m venv /opt/maang/uv \
    && /opt/maang/uv/bin/pip install --no-cache-dir uv==0.13.9 \
    && /opt/maang/uv/bin/uv sync --project /opt/maang/src --frozen --no-editable "$@" \
    && rm -r /opt/maang/uv
COPY --chown=airflow:0 dags /opt/airflow/dags
ENV MAANG_COMMAND=/opt/maang/venv/bin/maang \
    MAANG_HOME=/var/lib/maang
VOLUME /var/lib/maang


FROM ${PYTHON} AS maang
# The folder is created here with its owner, because a named volume inherits both.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/maang maang \
    && install -d -o maang -g maang /var/lib/maang
COPY --from=build /opt/maang /opt/maang
ENV PATH=/opt/maang/bin:${PATH} \
    MAANG_HOME=/var/lib/maang \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /var/lib/maang
VOLUME /var/lib/maang
# A command ends by itself, so its health need not be checked.
HEALTHCHECK NONE
ENTRYPOINT ["maang"]
CMD ["--help"]
