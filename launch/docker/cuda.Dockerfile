# The project for NVIDIA GPUs (--image of launch.slurm and launch.sky). CUDA comes
# with JAX's wheels, the driver from the host:
#   git archive HEAD | docker build -f launch/docker/cuda.Dockerfile -t IMAGE -
FROM python:3.11-slim-bookworm
# bubblewrap isolates the programs that models write.
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /project
COPY . .
ARG EXTRAS=cuda12
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Not through a shell: SIGTERM reaches the program.
ENTRYPOINT ["python", "-m", "prefixrl_jax.main"]
