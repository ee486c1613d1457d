"""Dry runs of the launchers, and where docs/launch/ shows them.

`python tests/launched.py` writes them anew into the pages.
"""

import contextlib
import importlib
import io
import pathlib
import re
import shlex
import sys
from unittest import mock

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("jobset", "sky", "slurm", "ssh", "tpu_vm", "xpk")
# Stands for the commit that is checked out.
COMMIT = "c0ffee" * 6 + "c0ff"
_BLOCKS = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def launcher_of(name):
  return importlib.import_module(f"launch.{name}").LAUNCHER


def prepared(name, argv):
  """The job and the files of a command line."""
  from launch import checks, common

  with mock.patch.object(checks, "pinned_commit", return_value=COMMIT):
    job, rendered, _ = common.prepare(launcher_of(name), argv)
  return job, rendered.files


def dry_run(name, argv):
  from launch import checks, common

  assert "--dry-run" in argv
  out = io.StringIO()
  with (
    mock.patch.object(checks, "pinned_commit", return_value=COMMIT),
    contextlib.redirect_stdout(out),
  ):
    common.main(launcher_of(name), argv)
  return out.getvalue()


def page_of(name):
  return ROOT / "docs" / "launch" / f"{name}.md"


def shown(name):
  """The command line of a page, and what the page says that it prints."""
  command, output = _BLOCKS.findall(page_of(name).read_text())[:2]
  words = shlex.split(command.replace("\\\n", ""))
  assert words[:3] == ["python", "-m", f"launch.{name}"]
  return words[3:], output


def main():
  for name in NAMES:
    argv, output = shown(name)
    text = page_of(name).read_text()
    block = f"```\n{output}```"
    assert text.count(block) == 1
    page_of(name).write_text(
      text.replace(block, f"```\n{dry_run(name, argv)}```")
    )


if __name__ == "__main__":
  sys.path.insert(0, str(ROOT))
  main()
