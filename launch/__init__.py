"""From a command line to a machine that runs it.

One module a launcher, on `common`: `python -m launch.slurm --config=...
--slice=h100:8 --workdir=... --dry-run` prints what would run.
"""
