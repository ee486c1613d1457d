"""Emptying a folder that a solution has written to."""

import os
import stat


def empty(folder: int) -> None:
  """Removes everything in a folder, whatever its rights, names and depth.

  No process may still be writing there.

  Args:
    folder: its file descriptor.

  Raises:
    OSError: something cannot be removed.
  """
  number = 0
  while names := os.listdir(folder):
    for name in names:
      if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
        os.unlink(name, dir_fd=folder)
        continue
      os.chmod(name, 0o700, dir_fd=folder)
      # Its contents are moved up here: no path gets too long, no stack too
      # deep.
      inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
      try:
        for child in os.listdir(inner):
          while _is_there(f"{number}", folder):
            number += 1
          if stat.S_ISDIR(os.lstat(child, dir_fd=inner).st_mode):
            os.chmod(child, 0o700, dir_fd=inner)  # else it cannot be moved
          os.rename(child, f"{number}", src_dir_fd=inner, dst_dir_fd=folder)
      finally:
        os.close(inner)
      os.rmdir(name, dir_fd=folder)
  os.utime(folder)  # its time showed when something was last written


def _is_there(name, folder):
  try:
    os.lstat(name, dir_fd=folder)
  except FileNotFoundError:
    return False
  return True
