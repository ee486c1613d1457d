"""Messages between the processes of a cluster: JSON objects in frames."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct(">I")
_LONGEST = 1 << 28  # bytes; what says more is no process of ours


def send(connection: socket.socket, message: dict[str, Any]) -> None:
  """Sends a message, whole."""
  data = json.dumps(message).encode()
  connection.sendall(_LENGTH.pack(len(data)) + data)


class Reader:
  """Takes a stream of bytes apart into messages."""

  def __init__(self) -> None:
    """Starts before the first byte."""
    self._bytes = bytearray()

  def feed(self, data: bytes) -> list[dict[str, Any]]:
    """Returns the messages that are whole now.

    Args:
      data: the next bytes.

    Raises:
      ValueError: they are no messages.
    """
    self._bytes += data
    messages = []
    while len(self._bytes) >= _LENGTH.size:
      (length,) = _LENGTH.unpack_from(self._bytes)
      if length > _LONGEST:
        raise ValueError(f"a message of {length} bytes")
      end = _LENGTH.size + length
      if len(self._bytes) < end:
        break
      message = json.loads(self._bytes[_LENGTH.size : end])
      if not isinstance(message, dict):
        raise ValueError("a message that is no object")
      messages.append(message)
      del self._bytes[:end]
    return messages

  def receive(self, connection: socket.socket) -> list[dict[str, Any]] | None:
    """Returns what has come that is whole; None: nothing more will.

    Args:
      connection: with something to read, or closed at the other end.
    """
    try:
      data = connection.recv(1 << 20)
      return self.feed(data) if data else None
    except (OSError, ValueError):
      return None
