# docker build -t maang .                         the command, with what Databricks needs
# docker build -t maang --build-arg EXTRAS= .     the command without Databricks
# docker build -t maang-airflow --target airflow .
ARG PYTHON=python:3.12-slim-bookworm
ARG AIRFLOW=apache/airflow:3.3.2-python3.12

FROM ${PYTHON} AS uv
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
RUN python -m venv /opt/uv && /opt/uv/bin/pip install uv==0.13.9
WORKDIR /src


# The dependencies with the versions pinned in pyproject.toml, as a file. It is written after every edit of pyproject.toml, which
# takes seconds. Only if its text differs, the layers that install it are rebuilt.
FROM uv AS requirements
# A space-separated list of extras.
ARG EXTRAS=databricks
COPY pyproject.toml ./
RUN for extra in ${EXTRAS}; do set -- "$@" "--extra=${extra}"; done \
    && /opt/uv/bin/uv export --quiet --no-emit-project --no-hashes --no-annotate --no-header "$@" >/requirements.txt


FROM uv AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY maang_cli maang_cli
RUN /opt/uv/bin/uv build --wheel --out-dir /dist


FROM uv AS build
COPY --from=requirements /requirements.txt /
RUN /opt/uv/bin/uv venv /opt/maang && /opt/uv/bin/uv pip install --python /opt/maang -r /requirements.txt
COPY --from=wheel /dist /dist
RUN /opt/uv/bin/uv pip install --python /opt/maang --no-deps /dist/*.whl


# Airflow with stock_dag. The image has what the extra `airflow` installs. maang gets an environment of its own, so that neither
# decides the other's versions.
FROM ${AIRFLOW} AS airflow
USER root
RUN install -d -o airflow -g 0 /opt/maang /var/lib/maang
USER airflow
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
COPY --from=requirements /requirements.txt /opt/maang/
RUN --mount=type=bind,from=uv,source=/opt/uv/bin,target=/opt/uv/bin \
    /opt/uv/bin/uv venv /opt/maang/venv \
    && /opt/uv/bin/uv pip install --python /opt/maang/venv -r /opt/maang/requirements.txt
COPY --from=wheel /dist /opt/maang/dist
RUN --mount=type=bind,from=uv,source=/opt/uv/bin,target=/opt/uv/bin \
    /opt/uv/bin/uv pip install --python /opt/maang/venv --no-deps /opt/maang/dist/*.whl
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
