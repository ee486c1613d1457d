"""The text of each token of a completion, to be shown."""

import itertools
from collections.abc import Collection, Iterator, Sequence

from prefixrl_jax.text.tokenizer import Tokenizer

_PART = "\ufffd"  # what a part of a character is decoded to

Ids = tuple[int, ...]


def token_pieces(
  tokenizer: Tokenizer, many: Sequence[Sequence[int]]
) -> list[list[str]]:
  """Returns the text that each token adds to the one before it.

  Of a character that several tokens make up, the first one has all. Tokens that
  are no text, such as a stop token, have "".

  Args:
    tokenizer: of the policy.
    many: ids of completions.
  """
  pairs = [
    [(*ids[max(i - 1, 0) : i], ids[i]) for i in range(len(ids))] for ids in many
  ]
  distinct = {pair for of_one in pairs for pair in of_one}
  texts = _decoded(tokenizer, distinct | {pair[:-1] for pair in distinct})
  pieces = [
    [_added(texts[pair[:-1]], texts[pair]) for pair in of_one]
    for of_one in pairs
  ]
  runs = [
    (of_one, run, tuple(ids[run]))
    for ids, of_one in zip(many, pieces)
    for run in _unclear(of_one)
  ]
  whole = _decoded(tokenizer, {ids for *_, ids in runs})
  for of_one, run, ids in runs:
    of_one[run] = [whole[ids], *[""] * (len(ids) - 1)]
  return [[piece or "" for piece in of_one] for of_one in pieces]


def _decoded(tokenizer: Tokenizer, many: Collection[Ids]) -> dict[Ids, str]:
  return dict(zip(many, tokenizer.decode([list(ids) for ids in many])))


def _added(before: str, both: str) -> str | None:
  """Returns what was added to a text; None if that is no whole character."""
  after = both.removeprefix(before)
  goes_on = before.endswith(_PART) and not after  # three bytes and more
  is_whole = both.startswith(before) and _PART not in after and not goes_on
  return after if is_whole else None


def _unclear(pieces: Sequence[str | None]) -> Iterator[slice]:
  """Yields the runs of tokens that have no text of their own."""
  start = 0
  for is_clear, run in itertools.groupby(pieces, lambda p: p is not None):
    stop = start + len([*run])
    if not is_clear:
      yield slice(start, stop)
    start = stop
