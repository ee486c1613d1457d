"""Plain data and messages: what passes between sandboxes and their host.

A message is JSON with four bytes of length before it. The types that JSON
lacks are objects with one key, the type's name.
"""

import json
import os
import struct

_MAX_INT = 2**63
_FLAT = {bool, float, str, type(None)}
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
# Types are passed by name: tests have arguments such as `int`.
_TYPES: dict[str, type] = {
  "bool": bool,
  "bytes": bytes,
  "complex": complex,
  "dict": dict,
  "float": float,
  "int": int,
  "list": list,
  "set": set,
  "str": str,
  "tuple": tuple,
}


def encode(value, refer=None):
  """Turns plain data into JSON values.

  Args:
    value: None, bool, int, float, complex, str, bytes, and lists, tuples,
      sets and dicts of them. Subclasses become what they are based on.
    refer: makes a reference number of anything else; None: refused.

  Raises:
    TypeError: a value is not plain data.
  """
  inner = lambda v: encode(v, refer)
  if value is None or value is True or value is False:
    return value
  if isinstance(value, int):
    value = int(value)
    return value if abs(value) < _MAX_INT else {"int": hex(value)}
  if isinstance(value, float):
    return float(value)
  if isinstance(value, str):
    return str.__str__(value)
  if isinstance(value, list):
    flat = set(map(type, value)) <= _FLAT  # many are long, and fast this way
    return list(value) if flat else [inner(v) for v in value]
  if isinstance(value, dict):
    return {"dict": [[inner(k), inner(v)] for k, v in value.items()]}
  for name, kind in _SEQUENCES.items():
    if isinstance(value, kind):
      return {name: [inner(v) for v in value]}
  if isinstance(value, (bytes, bytearray)):
    return {"bytes": bytes(value).hex()}
  if isinstance(value, complex):
    return {"complex": [value.real, value.imag]}
  if isinstance(value, type) and _TYPES.get(value.__name__) is value:
    return {"type": value.__name__}
  if refer is None:
    raise TypeError(f"{type(value).__name__} is not plain data")
  return {"reference": refer(value)}


def decode(value, resolve=None):
  """Inverts `encode`; `resolve` maps a reference number to an object.

  Raises:
    ValueError: it is not what `encode` returned.
  """
  inner = lambda v: decode(v, resolve)
  if isinstance(value, list):
    return [inner(v) for v in value]
  if not isinstance(value, dict):
    return value
  ((kind, content),) = value.items()
  if kind == "int":
    return int(content, 16)
  if kind == "dict":
    return {inner(k): inner(v) for k, v in content}
  if kind in _SEQUENCES:
    return _SEQUENCES[kind](inner(v) for v in content)
  if kind == "bytes":
    return bytes.fromhex(content)
  if kind == "complex":
    return complex(*content)
  if kind == "type":
    return _TYPES[content]
  if kind == "reference" and resolve:
    return resolve(content)
  raise ValueError(f"{kind!r} is not plain data")


def frame(message) -> bytes:
  """Returns a message's bytes: its length, and JSON."""
  data = json.dumps(message, separators=(",", ":")).encode()
  return struct.pack(">I", len(data)) + data


def send(fd: int, message) -> None:
  """Writes a message."""
  data = memoryview(frame(message))
  while data:
    data = data[os.write(fd, data) :]


def receive(fd: int):
  """Returns a message; ends the process if there will be no more."""

  def read(count):
    parts = []
    while count:
      part = os.read(fd, min(count, 1 << 20))
      if not part:
        raise SystemExit(0)
      parts.append(part)
      count -= len(part)
    return b"".join(parts)

  (length,) = struct.unpack(">I", read(4))
  return json.loads(read(length))
