# SPDX-License-Identifier: Apache-2.0
# NPCR in a container, from the wheels that `make wheel` put into dist. For a CPU:
#     docker build -t npcr --build-arg TORCH_INDEX=INDEX .    # INDEX: that of torch's builds for CPUs, on torch's site
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" npcr demo --quick
# For a GPU (kernels for it are in the wheel where `make wheel` found nvcc; NVIDIA's container toolkit lends the driver):
#     docker build -t npcr-gpu .
#     docker run --rm --user "$(id -u):$(id -g)" --gpus all -v "$PWD:/work" npcr-gpu demo --quick
FROM python:3.12-slim

# Without an index pip takes torch for CUDA on x86-64, with all that it needs, 5 GB; it runs on a CPU, too.
ARG TORCH_INDEX=
# Others, for a V100: --build-arg TORCH="torch<2.11 torchvision<0.26"
ARG TORCH="torch torchvision"

RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} $TORCH

# pip takes the wheel for this processor; from here alone, as another package may have the name elsewhere.
COPY dist/*.whl /wheels/
RUN pip download --no-deps --no-index --find-links /wheels --dest /chosen npcr \
    && pip install --no-cache-dir /chosen/*.whl \
    && rm -r /wheels /chosen \
    && npcr --version

WORKDIR /work
ENTRYPOINT ["npcr"]
