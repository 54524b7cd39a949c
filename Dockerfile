# Trueline's images, one target each. No build needs a GPU.
#
#   client         the package that other systems use, and its `trueline` command; no torch
#   orchestrator   drives runs; no torch
#   service-cpu    every service, for machines without a GPU
#   service-gpu    every service, for NVIDIA GPUs
#
#   docker build --target service-cpu --tag trueline-service-cpu:0.1.0 .
#
# Torch comes from the package index that pip is configured with. TORCH_INDEX adds another, as in the Makefile; a
# service-cpu build that would get the CUDA torch (several GB) is refused and says so. An index that needs
# credentials is given as a secret, which no layer keeps: --secret id=pip,src=pip.conf
#
# Every image runs as user 10001 on a read-only root: it writes to /tmp, and to the artifacts where they are mounted.

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# What pyproject.toml declares, a file for each part. The layers behind depend on these and on nothing else of it.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python3 -c "import pathlib, tomllib; \
project = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']; \
parts = {'client': [], 'orchestrator': ['orchestrator', 'postgres', 'kubernetes'], 'services': ['services']}; \
[pathlib.Path(part + '.txt').write_text('\n'.join(sum((project['optional-dependencies'][extra] \
for extra in extras), project['dependencies'])) + '\n') for part, extras in parts.items()]"

FROM ${PYTHON_IMAGE} AS python
# Caches lie in /tmp, and the user has a name though /etc/passwd knows none: torch asks for both.
# Idle threads that spin would take the cores of the other services (OMP_WAIT_POLICY).
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/app/protos \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=trueline \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    OMP_WAIT_POLICY=PASSIVE
WORKDIR /app

# The pip that installs stays behind: the images have none.
FROM python AS installer
RUN python3 -m venv /installer && python3 -m venv --without-pip /venv
COPY constraints.txt /requirements/

FROM installer AS client-packages
COPY --from=requirements /requirements/client.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /installer/bin/pip --python /venv/bin/python install --no-cache-dir \
    --constraint /requirements/constraints.txt --requirement /requirements/client.txt

FROM installer AS orchestrator-packages
COPY --from=requirements /requirements/orchestrator.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /installer/bin/pip --python /venv/bin/python install --no-cache-dir \
    --constraint /requirements/constraints.txt --requirement /requirements/orchestrator.txt

FROM installer AS service-packages
ARG TORCH_INDEX=
COPY --from=requirements /requirements/services.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /installer/bin/pip --python /venv/bin/python install --no-cache-dir \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
    --constraint /requirements/constraints.txt --requirement /requirements/services.txt

FROM service-packages AS service-cpu-packages
RUN python3 -c "import sys, torch; cuda = torch.version.cuda; sys.exit( \
f'torch {torch.__version__} carries CUDA {cuda}: build with --build-arg TORCH_INDEX=..., an index of CPU builds' \
if cuda else 0)"

FROM service-packages AS service-gpu-packages
RUN python3 -c "import sys, torch; sys.exit(0 if torch.version.cuda else \
f'torch {torch.__version__} carries no CUDA: build without TORCH_INDEX, or with an index of CUDA builds')"

FROM python AS client
COPY --from=client-packages /venv /venv
COPY protos ./protos
USER 10001:10001
ENTRYPOINT ["python", "-m", "trueline"]
CMD ["--help"]

FROM python AS orchestrator
COPY --from=orchestrator-packages /venv /venv
COPY protos ./protos
COPY orchestrator ./orchestrator
COPY recipes ./recipes
USER 10001:10001
ENTRYPOINT ["python", "-m", "orchestrator"]
CMD ["--help"]

# Which service it is says the first word: docker run trueline-service-cpu:0.1.0 services.reward --rule ...
FROM python AS service-cpu
COPY --from=service-cpu-packages /venv /venv
COPY protos ./protos
COPY worlds ./worlds
COPY services ./services
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["services.policy", "--help"]

FROM python AS service-gpu
# The container runtime brings the driver's libraries of these kinds; which GPUs it gives, the device plugin says.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=service-gpu-packages /venv /venv
COPY protos ./protos
COPY worlds ./worlds
COPY services ./services
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["services.policy", "--help"]
