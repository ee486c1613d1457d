"""Workdirs in a bucket, gs://BUCKET/FOLDER, which is no file system.

An object appears when it has been written, whole: nothing is renamed into
place. None can be appended to: what grows does so in a local folder, and is
copied. There are no folders, and no locks but objects.
"""

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator

import fsspec
from etils import epath

from prefixrl_jax.types import UserError, one_line

_SCHEME = "gs://"
# Others write there too: TensorStore for this process, and other processes.
fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
# Seconds between two copies of what grows.
_COPY_EVERY = 60.0


def is_remote(path: os.PathLike | str) -> bool:
  """Whether it is in no local file system."""
  return "://" in os.fspath(path)


def check(workdir: os.PathLike | str) -> None:
  """Refuses a remote workdir that can be none; asks nobody.

  Raises:
    UserError: the address is none, or a package is missing.
  """
  address = os.fspath(workdir)
  bucket = address.removeprefix(_SCHEME).partition("/")[0]
  if not address.startswith(_SCHEME) or not bucket:
    raise UserError(
      f"--workdir={address}: a workdir is a local folder or, in a bucket of"
      " Google Cloud Storage, gs://BUCKET/FOLDER."
    )
  if "gs" not in fsspec.registry and not importlib.util.find_spec("gcsfs"):
    raise UserError(
      f"--workdir={address} needs a package that is missing: pip install"
      " 'prefixrl_jax[gcs]'."
    )


def reach(workdir: epath.Path) -> None:
  """Refuses a remote workdir that cannot be read; of a local one does nothing.

  What a client of a bucket has begun does not survive a fork: a process of a
  cluster calls it when it has a supervisor.

  Raises:
    UserError: it cannot be read; says why.
  """
  if is_remote(workdir):
    with (
      said_in_a_line(f"--workdir={workdir}", "read"),
      contextlib.suppress(FileNotFoundError),
    ):
      workdir.stat()  # exists() is False whatever was wrong


@contextlib.contextmanager
def said_in_a_line(
  path: os.PathLike | str, what: str = "written"
) -> Iterator[None]:
  """Turns an error of a file system into one line.

  Args:
    path: what could not be read or written.
    what: happened to it.

  Raises:
    UserError: in place of the error, whatever the client of a bucket raises.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as e:
    if not isinstance(e, OSError) and not is_remote(path):
      raise
    why = getattr(e, "strerror", None) or " ".join(str(e).split())
    raise UserError(
      f"{os.fspath(path)} cannot be {what} ({why or one_line(e)}); nothing that"
      " was there is lost. Re-run the same command once that is fixed."
    ) from None


def create(path: epath.Path, text: str) -> bool:
  """Creates an object; returns False if there already is one."""
  system, name = fsspec.core.url_to_fs(os.fspath(path))
  try:
    system.pipe_file(name, text.encode(), mode="create")
  except FileExistsError:
    return False
  return True


def move(folder: epath.Path, to: epath.Path) -> None:
  """Gives all objects of a folder other names, where they are.

  Args:
    folder: of objects.
    to: a folder in the same bucket, of which there is none.
  """
  # Not epath's rename, which wants the folder around it to be there.
  system, name = fsspec.core.url_to_fs(os.fspath(folder))
  system.mv(name, fsspec.core.url_to_fs(os.fspath(to))[1], recursive=True)


@contextlib.contextmanager
def whole_folder(path: epath.Path) -> Iterator[epath.Path]:
  """Yields a local folder to fill; it is copied if nothing was raised."""
  with tempfile.TemporaryDirectory() as name:
    local = epath.Path(name)
    yield local
    with said_in_a_line(path):
      there = {*_files(path)} if path.exists() else set()
      made = {path / file.relative_to(local): file for file in _files(local)}
      for target, file in made.items():
        target.write_bytes(file.read_bytes())
      for target in there - {*made}:
        target.unlink()


class Growing:
  """A folder with files that grow.

  Attributes:
    local: where they do: a remote folder's are copied from there.
  """

  def __init__(self, folder: epath.Path):
    """Makes the local folder.

    Args:
      folder: where the files belong; a local one is used as it is.
    """
    self._folder, self._temporary = folder, None
    self.local = folder
    if is_remote(folder):
      self._temporary = tempfile.TemporaryDirectory()
      self.local = epath.Path(self._temporary.name)
    self.local.mkdir(parents=True, exist_ok=True)
    self._copied: dict[epath.Path, int] = {}  # how much of each
    self._copied_at = time.monotonic()

  def copy(self, if_due: bool = False) -> None:
    """Copies what has grown.

    Args:
      if_due: only if that was not done within the last minute.

    Raises:
      UserError: it cannot be written.
    """
    now = time.monotonic()
    if self._temporary is None or (
      if_due and now < self._copied_at + _COPY_EVERY
    ):
      return
    self._copied_at = now
    for file in _files(self.local):
      if file.stat().length != self._copied.get(file):
        data = file.read_bytes()
        target = self._folder / file.relative_to(self.local)
        with said_in_a_line(target):
          target.write_bytes(data)
        self._copied[file] = len(data)

  def close(self) -> None:
    """Copies, and removes what was local."""
    self.copy()
    if self._temporary is not None:
      self._temporary.cleanup()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path
