"""Tasks with an alphabet of their own, for small models that are made here.

Each is a module with SYMBOLS, PAD and STOP, the SIZES that problems have, in
UNITS, `make_problems`, and `Phase` and `make_document` to pretrain on;
`write_traces` where there are rules for it.
"""

from typing import Any

from prefixrl_jax.embedded import checksum, countdown_steps

TASKS: dict[str, Any] = {
  "checksum": checksum,
  "countdown_steps": countdown_steps,
}
