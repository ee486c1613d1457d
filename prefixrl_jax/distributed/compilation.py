"""Compiled programs: kept between processes, and counted."""

import contextlib
import os
import pathlib
import warnings

import jax
import jax.monitoring

# One event for every program that is requested from the compiler, whether found
# in the persistent cache or not.
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


def keep_compiled_programs() -> None:
  """Keeps compiled programs between processes, if there is a place for them."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Without a home (as for a container's user), or with one that cannot be
    # written to, every process compiles for itself.
    with contextlib.suppress(OSError, RuntimeError):
      cache = pathlib.Path.home() / ".cache" / "prefixrl_jax" / "xla"
      cache.mkdir(parents=True, exist_ok=True)
      if os.access(cache, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  # XLA cannot save calls of oneDNN (see `backends`): such programs are compiled
  # by every process, which needs no warning.
  warnings.filterwarnings(
    "ignore",
    "Error writing persistent compilation cache entry.*onednn-fusion",
  )


class CompilationCounter:
  """Counts the programs compiled since it was entered."""

  count = 0

  def _listen(self, event: str, duration_secs: float, **_kwargs) -> None:
    del duration_secs
    self.count += event == COMPILE_EVENT

  def __enter__(self) -> "CompilationCounter":
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def __exit__(self, *_) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listen)
