"""Rows from the hub, from tfds, and by rule; none of them needs a network."""

import subprocess
import sys

import huggingface_hub
import pandas as pd
import pytest

from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.problems.origins import from_tfds
from prefixrl_jax.types import UserError

# -- the hub -------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub whose snapshots are a folder; yields it, and what was asked."""
  folder = tmp_path / "snapshots" / "0123456789abcdef"
  asked = []

  def snapshot_download(name, *, repo_type, allow_patterns):
    asked.append((name, repo_type, allow_patterns))
    return str(folder)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  folder.mkdir(parents=True)
  return folder, asked


def test_splits_of_the_hub(section, hub):
  folder, asked = hub
  (folder / "main").mkdir()
  for split, texts in (("train", "ab"), ("test", "cb")):
    pd.DataFrame(
      {"question": list(texts), "answer": ["#### 1", "#### 2"]}
    ).to_parquet(folder / f"main/{split}-00000-of-00001.parquet")
  config = section("gsm8k", num_train=1, num_heldout=2)
  train, heldout = load_parts(config, seed=0)
  assert [p.id for p in train.problems] == ["gsm8k/train/0"]
  assert [p.id for p in heldout.problems] == ["gsm8k/test/0", "gsm8k/test/1"]
  assert train.origin == "openai/gsm8k@0123456789ab"
  assert asked == [
    ("openai/gsm8k", "dataset", ["main/test-*.parquet"]),
    ("openai/gsm8k", "dataset", ["main/train-*.parquet"]),
  ]
  config.num_train = 2
  with pytest.raises(
    UserError, match=r"num_train asks for 2 .*are 1\. .* 1 in an evaluation set"
  ):
    load_parts(config, seed=0)


def test_files_of_one_split_are_numbered_through(section, hub):
  folder, _ = hub
  for subject in ("algebra", "geometry"):
    (folder / subject).mkdir()
    pd.DataFrame(
      {
        "problem": [f"{subject} {i}" for i in range(2)],
        "level": ["Level 5", "Level 1"],
        "solution": ["$\\boxed{1}$"] * 2,
      }
    ).to_parquet(folder / subject / "train-00000-of-00001.parquet")
  config = section("math", split="train", level="1", num_heldout=0)
  config.heldout.split = "train"
  train, _ = load_parts(config, seed=0)
  assert [(p.id, p.index) for p in train.problems] == [
    ("math/train/1", 1),
    ("math/train/3", 3),
  ]


def test_a_hub_without_the_file_or_the_split(section, hub):
  with pytest.raises(UserError, match=r"split test of gsm8k \(it has no such"):
    load_parts(section("gsm8k"), seed=0)
  with pytest.raises(
    UserError, match=r"math500 has no split 'x'; there are test"
  ):
    load_parts(section("math500", split="x"), seed=0)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {},
      r"main/test-\*\.parquet here and set --config\.problems\.heldout\.file",
    ),
    (
      {"heldout__task": "countdown"},
      r"main/train-\*\.parquet here and set --config\.problems\.file",
    ),
  ],
)
def test_offline_it_says_which_file_to_bring(
  section, monkeypatch, fields, message
):
  def unreachable(*_, **__):
    raise ConnectionError("Name or service\nnot known")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  with pytest.raises(UserError, match=message) as e:
    load_parts(section("gsm8k", **fields), seed=0)
  assert "(ConnectionError: Name or service not known)" in str(e.value)
  assert "hf download openai/gsm8k --repo-type dataset" in str(e.value)


# -- tfds ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfds():
  return pytest.importorskip("tensorflow_datasets")


def test_prepared_rows_are_those_of_the_files(
  tfds, section, lines, tmp_path, monkeypatch
):
  """The builder writes array_record, and both readings are equal."""
  from prefixrl_jax.problems.tfds_builder import PrefixrlProblems

  row = lambda i: {
    "task_id": 600 + i,
    "text": "json: quoted" if i == 2 else f"t{i}",
    "test_list": [f"assert f({i}) == 1"],
    "test_setup_code": "",
    "ignored": 1,
  }
  file = lines("mbpp.jsonl", *map(row, range(1, 5)))
  builder = PrefixrlProblems(
    config="mbpp",
    data_dir=str(tmp_path / "tfds"),
    file_format="array_record",
    files={"train": file},
  )
  builder.download_and_prepare()
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  prepared = section("mbpp", heldout__split="train")
  theirs = load_parts(prepared, seed=0)
  assert {p.origin for p in theirs} == {"tfds prefixrl_problems/mbpp"}
  ours = load_parts(section("mbpp", file=file, heldout__split="train"), seed=0)
  content = lambda parts: [
    (p.prompt, p.metadata, p.index) for part in parts for p in part.problems
  ]
  assert content(theirs) == content(ours)
  assert len(content(ours)) == 3


def test_mocked_tfds_data_of_our_builder(tfds, section, monkeypatch, tmp_path):
  from prefixrl_jax.problems import tfds_builder  # noqa: F401 - registers it

  # Where it would lie if it had been prepared.
  (tmp_path / "prefixrl_problems/gsm8k").mkdir(parents=True)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with tfds.testing.mock_data(num_examples=5):
    train, heldout = load_parts(section("gsm8k"), seed=0)
  # Its splits are alike: nothing of the test split is trained on.
  assert train.dropped["in an evaluation set"] == 1
  assert (len(train.problems), len(heldout.problems)) == (2, 1)
  assert all(p.prompt and p.answer for p in train.problems)
  assert train.origin == "tfds prefixrl_problems/gsm8k"


def test_any_data_set_of_tfds(tfds, section, monkeypatch):
  rows = [
    {"q": b"1+1?", "a": b"2"},
    {"q": b"", "a": b"3"},
    {"q": b"?", "a": b"4"},
  ]
  asked = []

  def data_source(name, *, split, data_dir):
    asked.append((name, split, data_dir))
    return rows

  monkeypatch.setattr(tfds, "data_source", data_source)
  config = section(
    "tfds",
    name="sums",
    split="test[:3]",
    problem_field="q",
    answer_field="a",
    num_train=1,
  )
  train, heldout = load_parts(config, seed=0)
  assert [(p.id, p.prompt, p.answer) for p in train.problems] == [
    ("sums/0", "1+1? Go.", "2")
  ]
  assert heldout.skipped == {"no problem": 1}
  assert asked == [("sums", "test[:3]", None)]


def test_tfds_says_how_to_go_on(tfds):
  with pytest.raises(UserError, match=r"tfds build nothing_like_this"):
    from_tfds("nothing_like_this", "train")


def test_tfds_is_used_without_tensorflow():
  code = (
    "import sys, prefixrl_jax.problems.tfds_builder as b;"
    "b.PrefixrlProblems(config='gsm8k', data_dir='/tmp');"
    "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
