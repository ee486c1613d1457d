"""JAX over all processes of a cluster, whose devices then form one mesh."""

import threading

import jax
import jax.monitoring
from absl import flags

from prefixrl_jax.distributed import cluster, compilation
from prefixrl_jax.distributed.cluster import Member
from prefixrl_jax.distributed.places import Place
from prefixrl_jax.types import UserError

# The supervisors watch; JAX's own service, which would abort with a page of
# text, is to notice later than they do.
_LATER = 10


def join(
  member: Member, place: Place, join_seconds: float, heartbeat: float
) -> None:
  """Waits for all processes, and has JAX know of them.

  Args:
    member: this process.
    place: of it.
    join_seconds: until JAX's service must have answered.
    heartbeat: seconds without a sign of life after which a process is given up.

  Raises:
    UserError: processes have different numbers of devices.
  """
  member.wait_for_all()
  # The answer to SIGTERM is agreed by ourselves (`train`), at any step.
  jax.config.update("jax_enable_preemption_service", False)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    member.jax_address,
    place.size,
    place.index,
    local_device_ids=place.devices,
    cluster_detection_method="deactivate",
    initialization_timeout=max(int(join_seconds), 1),
    heartbeat_timeout_seconds=int(_LATER * heartbeat) + 1,
    shutdown_timeout_seconds=30,
  )
  cluster.join(member)
  _keep_orbax_off_devices()
  _meet_after_compiling()
  counts = cluster.gather("devices", jax.local_device_count())
  if len({*counts}) > 1 or jax.process_count() != place.size:
    said = ", ".join(
      f"{cluster.name_of(i)} has {count}" for i, count in enumerate(counts)
    )
    raise UserError(
      f"all processes need the same number of devices: {said}; JAX sees"
      f" {jax.process_count()} processes."
    )


def _keep_orbax_off_devices() -> None:
  """Has Orbax's barriers be messages, not collectives.

  Its threads would otherwise start collectives among those of the main thread,
  in another order on each process, and all would wait for ever.
  """
  import orbax.checkpoint  # noqa: F401 - defines the flag

  flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True


def _meet_after_compiling() -> None:
  """Has processes wait for one another after each program that is compiled.

  They compile the same ones in the same order. Whoever is through first, as
  with the program on its disk, would otherwise wait within the program's first
  collective, which gives up: gloo's after 30 seconds.
  """

  def listen(event: str, duration_secs: float, **about) -> None:
    del duration_secs
    in_main = threading.current_thread() is threading.main_thread()
    if event == compilation.COMPILE_EVENT and in_main:
      cluster.gather(f"compiled {about.get('fun_name', '')}", None)

  jax.monitoring.register_event_duration_secs_listener(listen)
