"""The mutants that mutants.py tries: none is stale. (It takes long itself.)"""

import pathlib

import mutants
import pytest

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("file", sorted({m.file for m in mutants.MUTANTS}))
def test_each_changes_one_place(file):
  text = (_ROOT / "prefixrl_jax" / file).read_text()
  for mutant in mutants.MUTANTS:
    if mutant.file == file:
      assert mutant.apply(text) != text, mutant.name


def test_the_tests_that_shall_notice_are_there():
  for name in {test for mutant in mutants.MUTANTS for test in mutant.tests}:
    file, _, function = name.partition("::")
    path = _ROOT / "tests" / file
    assert path.exists(), name
    assert not function or f"def {function.partition('[')[0]}(" in (
      path.read_text()
    ), name
