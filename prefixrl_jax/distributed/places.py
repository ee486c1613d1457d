"""Which process of which cluster this is, from flags or from what started it.

A process alone is in no cluster, and nothing is asked or imported for it.
"""

import dataclasses
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from prefixrl_jax.types import UserError

# Where process 0 listens, unless that is said or follows from a job's number.
PORT = 8476
_SLURM_PORTS = 61440, 4096  # the first, how many
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
_FLAGS = "--coordinator=HOST:PORT, --num_processes and --process_id"


@dataclasses.dataclass(frozen=True)
class Place:
  """A process's place in a cluster.

  Attributes:
    coordinator: HOST:PORT where process 0 listens.
    size: processes there are, at least 2.
    index: of this one, from 0.
    devices: numbers of the machine's devices that are this process's; None:
      all of them.
  """

  coordinator: str
  size: int
  index: int
  devices: tuple[int, ...] | None = None


def find(
  coordinator: str = "",
  size: int = 0,
  index: int = -1,
  *,
  has_tpu: Callable[[], bool] = lambda: False,
  environment: Mapping[str, str] = os.environ,
) -> Place | None:
  """Returns this process's place; None if it is alone.

  Args:
    coordinator: HOST:PORT; empty: of JAX_COORDINATOR_ADDRESS, or of what
      started the process.
    size: of the cluster; 0: of JAX_NUM_PROCESSES, or likewise.
    index: of this process; -1: of JAX_PROCESS_ID, or likewise.
    has_tpu: whether this machine may have a TPU, whose metadata is then asked.
    environment: variables.

  Raises:
    UserError: something is missing, or makes no sense.
  """
  env = environment
  said = [name for name in _SAID if env.get(name)]
  coordinator = coordinator or env.get("JAX_COORDINATOR_ADDRESS", "")
  size = size or _number(env, "JAX_NUM_PROCESSES", 0)
  if index < 0:
    index = _number(env, "JAX_PROCESS_ID", -1)
  asked = bool(coordinator or size or index >= 0)
  devices = None
  if not (coordinator and size and index >= 0):
    found = _started_by(env, has_tpu)
    if found is None and not asked:
      return None
    if found is not None:
      coordinator = coordinator or found.coordinator
      size = size or found.size
      index = index if index >= 0 else found.index
      devices = found.devices
    elif index < 0:
      index = _number(env, "JOB_COMPLETION_INDEX", -1)
  if size == 1 and index in (-1, 0):
    return None
  if not (coordinator and size and index >= 0):
    raise UserError(
      f"a process of a cluster needs {_FLAGS}; there are"
      f" coordinator {coordinator or 'unknown'}, num_processes"
      f" {size or 'unknown'}, process_id {index if index >= 0 else 'unknown'}"
      + (f" (with {', '.join(said)})." if said else ".")
    )
  if ":" not in coordinator:
    coordinator = f"{coordinator}:{env.get('JAX_COORDINATOR_PORT', PORT)}"
  port = re.fullmatch(r".+:(\d{1,5})", coordinator)
  if not port or not 0 < int(port[1]) < 1 << 16:
    raise UserError(
      f"--coordinator={coordinator}: it must be HOST:PORT, a port from 1 to"
      " 65535."
    )
  if size < 1 or index >= size:
    raise UserError(
      f"--process_id={index}: with --num_processes={size} it must be one of 0"
      f" to {size - 1}."
    )
  return Place(coordinator, size, index, devices)


_SAID = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _started_by(
  env: Mapping[str, str], has_tpu: Callable[[], bool]
) -> Place | None:
  """Returns the place that what started the process has told it."""
  return (
    _of_slurm(env)
    or _of_open_mpi(env)
    or _of_tpu(env, has_tpu)
    or _of_skypilot(env)
  )


def _of_slurm(env: Mapping[str, str]) -> Place | None:
  """Of a task of srun."""
  if not all(
    env.get(name)
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")
  ):
    return None
  size = _number(env, "SLURM_STEP_NUM_TASKS", 0)
  size = size or _number(env, "SLURM_NTASKS", 1)
  if size == 1:
    return None
  # "node001", "node001,host2", "node[001-015,020],host2"
  first = re.match(r"([^,[]+)(?:\[(\d+))?", env["SLURM_STEP_NODELIST"])
  assert first
  start, count = _SLURM_PORTS
  port = env.get("JAX_COORDINATOR_PORT")
  port = port or str(start + _number(env, "SLURM_JOB_ID", 0) % count)
  nodes = _number(env, "SLURM_STEP_NUM_NODES", 1)
  # Tasks that share a node share its devices, one each.
  devices = (_number(env, "SLURM_LOCALID", 0),) if size > nodes else None
  return Place(
    f"{first[1]}{first[2] or ''}:{port}",
    size,
    _number(env, "SLURM_PROCID", -1),
    devices,
  )


def _of_open_mpi(env: Mapping[str, str]) -> Place | None:
  """Of a rank of mpirun; the first rank is taken to be on mpirun's machine."""
  size = _number(env, "OMPI_COMM_WORLD_SIZE", 1)
  if size == 1:
    return None
  head = re.search(
    r"tcp://\[?([^,;:\]]+)", env.get("OMPI_MCA_orte_hnp_uri", "")
  )
  on_machine = _number(env, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
  local = _number(env, "OMPI_COMM_WORLD_LOCAL_RANK", 0)
  return Place(
    head[1] if head else "",
    size,
    _number(env, "OMPI_COMM_WORLD_RANK", -1),
    (local,) if on_machine > 1 else None,
  )


def _of_tpu(
  env: Mapping[str, str], has_tpu: Callable[[], bool]
) -> Place | None:
  """Of a host of a TPU slice, or of several slices.

  Kubernetes says so in variables, which JobSet and xpk leave as they are; a TPU
  VM's metadata have it.
  """
  hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
  worker = env.get("TPU_WORKER_ID")
  slices = dict(env)
  if not hosts and env.get("TPU_SKIP_MDS_QUERY") is None and has_tpu():
    endpoints = _metadata(env, "worker-network-endpoints")
    # "name:id:address", or an address alone
    hosts = ",".join(x.split(":")[-1] for x in endpoints.split(",") if x)
    worker = _metadata(env, "agent-worker-number")
    for line in _metadata(env, "tpu-env").splitlines():
      name, _, value = line.partition(":")
      slices.setdefault(name.strip(), value.strip().strip("'"))
  if not hosts or worker is None:
    return None
  names = [host.split(":")[0] for host in hosts.split(",")]
  num_slices = _number(slices, "MEGASCALE_NUM_SLICES", 1)
  if len(names) * num_slices == 1:
    return None
  first = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or names[0]
  own = _number({"TPU_WORKER_ID": worker}, "TPU_WORKER_ID", -1)
  return Place(
    first.split(":")[0],
    len(names) * num_slices,
    own + len(names) * _number(slices, "MEGASCALE_SLICE_ID", 0),
  )


def _of_skypilot(env: Mapping[str, str]) -> Place | None:
  """Of a node of SkyPilot's, which all have the addresses of all."""
  size = _number(env, "SKYPILOT_NUM_NODES", 1)
  addresses = env.get("SKYPILOT_NODE_IPS", "").split()
  if size == 1 or not addresses:
    return None
  return Place(addresses[0], size, _number(env, "SKYPILOT_NODE_RANK", -1))


def _metadata(env: Mapping[str, str], name: str) -> str:
  """Returns an attribute of a Google virtual machine; empty: there is none."""
  server = env.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    _METADATA.format(server, name), headers={"Metadata-Flavor": "Google"}
  )
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode().strip()
  except (urllib.error.URLError, OSError, ValueError):
    return ""


def _number(env: Mapping[str, str], name: str, default: int) -> int:
  text = env.get(name, "").strip()
  if not text:
    return default
  if not re.fullmatch(r"\d+", text):
    raise UserError(f"the variable {name}={text} is not a number.")
  return int(text)
