# The project for TPUs (launch.jobset, launch.xpk), from a commit:
#   git archive HEAD | docker build -f launch/docker/tpu.Dockerfile -t IMAGE -
FROM python:3.11-slim-bookworm
# bubblewrap isolates the programs that models write.
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /project
COPY . .
ARG EXTRAS=tpu
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
# Not through a shell: SIGTERM reaches the program.
ENTRYPOINT ["python", "-m", "prefixrl_jax.main"]
