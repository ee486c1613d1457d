"""The sources of this package as TensorFlow Datasets, without TensorFlow.

  python -m prefixrl_jax.problems.tfds_builder --task=gsm8k --data_dir=FOLDER

writes a source's rows from the hub as array_record files; with
TFDS_DATA_DIR=FOLDER (a bucket, say) config.problems.task = "gsm8k" reads them
with random access and without the hub. One builder has all sources, including
those that tfds itself has, whose builders need TensorFlow.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import app, flags
from etils import epath

from prefixrl_jax.problems.origins import JSON, download
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.storage.rows import Row, find_files, read_rows
from prefixrl_jax.types import UserError

_TASK = flags.DEFINE_enum(
  "task", None, [n for n, s in SOURCES.items() if s.hub], "Which source."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where to write it.")
_FILE = flags.DEFINE_multi_string(
  "file", [], "SPLIT=FILE in place of the hub's; once for each split."
)


class PrefixrlProblems(tfds.core.GeneratorBasedBuilder):
  """One config per source; an example is a row, its columns as text.

  A value that is not text is stored as JSON after a mark.
  """

  code_path = None  # there are no files of its own beside the code
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS: ClassVar[list] = [
    tfds.core.BuilderConfig(name=name, description=source.hub)
    for name, source in SOURCES.items()
    if source.hub
  ]

  def __init__(self, *, files: Mapping[str, str] | None = None, **kwargs: Any):
    """Takes files, split -> local file, used instead of the hub's."""
    self._files = files
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    source = SOURCES[self.builder_config.name]
    names = {
      column.partition(".")[0]
      for columns in source.columns.values()
      for column in columns.split(",")
      if column
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Rows of {source.hub}.",
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in sorted(names)}
      ),
      homepage=f"https://huggingface.co/datasets/{source.hub}",
      license=source.license or None,
      disable_shuffling=True,  # a problem's index is its place
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the hub's own client caches what it has fetched
    task = self.builder_config.name
    if self._files:
      return {
        split: self._generate_examples(find_files(file, "--file"))
        for split, file in self._files.items()
      }
    return {
      split: self._generate_examples(
        download(task, SOURCES[task], split, "file")[0]
      )
      for split in SOURCES[task].splits
    }

  def _generate_examples(
    self, files: list[epath.Path]
  ) -> Iterator[tuple[int, dict[str, str]]]:
    number = 0
    for file in files:
      for row in read_rows(file):
        yield number, self._example(row)
        number += 1

  def _example(self, row: Row) -> dict[str, str]:
    return {name: _text(row.fields.get(name)) for name in self.info.features}


def _text(value: Any) -> str:
  if isinstance(value, str) and not value.startswith(JSON):
    return value
  return JSON + json.dumps(value)


def _main(argv) -> None:
  del argv
  try:
    builder = PrefixrlProblems(
      config=_TASK.value,
      data_dir=_DATA_DIR.value,
      file_format="array_record",
      files=dict(item.split("=", 1) for item in _FILE.value),
    )
    builder.download_and_prepare()
  except UserError as e:
    raise SystemExit(f"error: {e}") from None


if __name__ == "__main__":
  flags.mark_flags_as_required(["task", "data_dir"])
  app.run(_main)
