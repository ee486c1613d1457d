"""What CPU, GPU and TPU want done differently.

A CPU's choices were measured, a GPU's on one H200, and a TPU's come from what
its compiler says (docs/performance.md).
"""

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, Sequence

import jax

from prefixrl_jax.distributed import processor
from prefixrl_jax.rounding import round_up


@dataclasses.dataclass(frozen=True)
class Backend:
  """How programs are laid out and run."""

  # A cache is kept in blocks of at most this many keys, and decoding reads it
  # block by block, as far as any lane has come.
  key_block: int
  # Tokens in a block of queries and of keys, in attention over packed rows.
  # TPU: the largest whose scores stay in vector memory.
  attention_blocks: tuple[int, int]
  has_attention_kernel: bool = False
  # Likewise, the gradient of products by groups, of experts.
  has_groups_kernel: bool = False
  # A cache of no more keys is one block. (XLA:CPU copies what it reads of a
  # cache, unless it is all of it: large blocks cost more than they save.)
  whole_cache: int = 0
  # A CPU has no use for wider steps, and rows differ in their visits.
  rows_in_turn: bool = False
  # Visits of attention over packed rows in a turn of their loop. How many there
  # are is known on the device alone, and a GPU's host waits for it every turn.
  visits_a_turn: int = 1
  # What a synchronisation of the sampler with the host costs, in decode steps
  # of all lanes; the lanes that wait for it may cost as much.
  sync_cost: float = 0.25
  # The order in memory of a KVCache's axes, where it is not theirs: as the
  # decode loop wants them, which else copies all of them in and out.
  cache_order: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )
  # Likewise, of lanes where a device has one head of keys and values.
  lanes_of_one_head: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )
  # The order in memory of the axes of a sampler's experts [E, inputs, outputs]:
  # as a product by groups takes them, which else copies them in every step.
  expert_order: tuple[int, ...] | None = None
  # An array's last two axes in memory fill whole tiles of at most these.
  tile: tuple[int, int] | None = None
  # The compiler's, of large programs.
  options: Mapping[str, int | bool | str] = dataclasses.field(
    default_factory=dict, hash=False
  )

  # From this many parameters on, a sampler's matrix products are oneDNN's, each
  # a call of its own, rather than what XLA chooses. Such programs cannot be
  # kept between processes.
  onednn_from: float = math.inf

  # Of products of a model that computes in float32, where JAX's default is
  # less.
  float32_precision: str | None = None

  def cache_order_of(self, kv_heads: int) -> dict[str, tuple[int, ...]]:
    """Returns the order in memory of a KVCache's axes, where it is not theirs.

    Args:
      kv_heads: of a device.
    """
    lanes = self.lanes_of_one_head if kv_heads == 1 else {}
    return {**self.cache_order, **lanes}

  def room(
    self, shape: Sequence[int], order: Sequence[int] | None = None
  ) -> int:
    """Returns how many elements an array has room for, in its tiles.

    Args:
      shape: of a device's part.
      order: of its axes in memory; None: theirs.
    """
    if not self.tile or len(shape) < 2:
      return math.prod(shape)
    inner, outer = self.tile[1], self.tile[0]
    *others, rows, columns = (shape[i] for i in order or range(len(shape)))
    # A tile has fewer rows where there are few.
    of_rows = next((n for n in (2, 4) if rows <= n), outer)
    return (
      math.prod(others) * round_up(rows, of_rows) * round_up(columns, inner)
    )

  def bytes_of(self, x: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes of a device's part; in tiles, if its layout is set.

    Args:
      x: with a sharding, and perhaps a layout.
    """
    assert x.sharding
    shape, layout = x.sharding.shard_shape(x.shape), x.format.layout
    if layout is None:
      return math.prod(shape) * x.dtype.itemsize
    return self.room(shape, layout.major_to_minor) * x.dtype.itemsize

  def keep_float32(self, dtype: str) -> None:
    """Has what is compiled from now on multiply float32 in full precision.

    Only where the model asks for float32. A precision that the user has set
    (JAX_DEFAULT_MATMUL_PRECISION) holds.

    Args:
      dtype: of the model's activations.
    """
    is_free = jax.config.values["jax_default_matmul_precision"] is None
    if dtype == "float32" and self.float32_precision and is_free:
      jax.config.update("jax_default_matmul_precision", self.float32_precision)

  def compiler_options(self) -> dict[str, int | bool | str]:
    """Returns options for large programs; what XLA_FLAGS says holds."""
    return _unsaid(self.options)

  def sampler_options(self, num_params: int) -> dict[str, int | bool | str]:
    """Returns options for a sampler's large programs, likewise.

    Args:
      num_params: of the model.
    """
    options = self.compiler_options()
    if num_params >= self.onednn_from:
      # Of products alone: fused with more, some are no partition that oneDNN
      # can compile, and it then ends the process.
      alone = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
      options |= _unsaid(
        {
          "xla_cpu_use_onednn": True,
          "xla_cpu_experimental_onednn_fusion_type": alone,
        }
      )
    return options


def _unsaid(options):
  said = os.environ.get("XLA_FLAGS", "")
  return {name: x for name, x in options.items() if name not in said}


def onednn_pays_from(features: Collection[str]) -> float:
  """Returns how many parameters a sampler gains by oneDNN from, if ever.

  Measured on Intel with AMX, where a model of 135 million parameters gains a
  sixth to a third (an update nothing that could be told) and one of 150,000,
  whose weights stay in the cache, loses a third; and on AMD, where nothing is
  gained. Between the two lies what a core's caches hold. Other processors, and
  a XLA that cannot be asked for it, keep what XLA chooses.

  Args:
    features: of the processor, as from `processor.features`.
  """
  can = jax.__version_info__ >= (0, 10) and "amx_tile" in features
  return 4e6 if can else math.inf


BACKENDS = {
  "cpu": Backend(
    key_block=128,
    whole_cache=512,
    attention_blocks=(64, 64),
    rows_in_turn=True,
    sync_cost=0.0,
    # LLVM's: large programs run as fast on a CPU without its costlier passes,
    # since nearly all of their time is the library's, in products.
    options={"xla_backend_optimization_level": 1},
    onednn_from=onednn_pays_from(processor.features()),
  ),
  # Every turn of a loop whose length the device knows costs the host's waiting
  # and some twenty launches: few and large blocks.
  "gpu": Backend(
    key_block=4096,
    attention_blocks=(512, 512),
    visits_a_turn=4,
    sync_cost=1.0,
    float32_precision="highest",  # TF32 else
  ),
  "tpu": Backend(
    key_block=512,
    attention_blocks=(512, 512),
    has_attention_kernel=True,
    has_groups_kernel=True,
    expert_order=(0, 1, 2),
    tile=(8, 128),
    cache_order={
      "trunk_key": (2, 0, 1, 3, 4),
      "trunk_value": (2, 0, 1, 3, 4),
      "lane_key": (0, 2, 3, 5, 1, 4),
      "lane_value": (0, 2, 3, 4, 1, 5),
    },
    # Memory is in tiles of the last two axes: a tile of one head is half empty.
    lanes_of_one_head={
      "lane_key": (0, 1, 2, 3, 5, 4),
      "lane_value": (0, 1, 2, 3, 4, 5),
    },
  ),
}


def current_backend() -> Backend:
  """Returns that of the mesh that is set, whose devices may be absent."""
  return of_mesh(jax.sharding.get_abstract_mesh())


def of_mesh(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> Backend:
  """Returns that of a mesh's devices, which may be absent."""
  if isinstance(mesh, jax.sharding.AbstractMesh):
    device = mesh.abstract_device
    return BACKENDS[device.platform if device else jax.default_backend()]
  return BACKENDS[mesh.devices.flat[0].platform]
