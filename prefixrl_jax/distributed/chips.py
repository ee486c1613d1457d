"""What accelerators can do, as their vendors say: the one table of it.

TPU: Google Cloud, "TPU v5e", "TPU v5p" and "TPU v6e" (compute, memory,
interconnect and data center network of a chip); the memory that a program may
take is what libtpu's compiler refuses programs by. GPU: NVIDIA, data sheets of
A100 80GB SXM, H100 SXM and H200 SXM, dense products.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of accelerator.

  Attributes:
    kind: JAX's name for it.
    flops: of bfloat16 products, a second.
    memory: bytes that a program may take.
    bandwidth: of that memory, bytes a second.
    interconnect: bytes a second that reach a chip in a ring of chips: on a TPU
      over the two links of one axis of its torus, on a GPU over NVLink.
    network: bytes a second that reach a TPU's chip from other slices.
  """

  kind: str
  flops: float
  memory: float
  bandwidth: float
  interconnect: float
  network: float = 0.0


_GIB = 2.0**30

CHIPS = {
  "v5e": Chip("TPU v5 lite", 197e12, 15.75 * _GIB, 819e9, 100e9, 3.125e9),
  "v5p": Chip("TPU v5", 459e12, 95.74 * _GIB, 2765e9, 200e9, 6.25e9),
  "v6e": Chip("TPU v6 lite", 918e12, 31.25 * _GIB, 1638e9, 200e9, 12.5e9),
  "a100": Chip("NVIDIA A100-SXM4-80GB", 312e12, 80e9, 2039e9, 300e9),
  "h100": Chip("NVIDIA H100 80GB HBM3", 989e12, 80e9, 3350e9, 450e9),
  "h200": Chip("NVIDIA H200", 989e12, 141e9, 4800e9, 450e9),
}


def of_kind(kind: str) -> Chip | None:
  """Returns the chip that JAX calls by this name; None: it is not known."""
  return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
