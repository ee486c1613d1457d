"""The card of an exported policy, by hand."""

import yaml

from prefixrl_jax.evals.model_card import Card, write_card
from prefixrl_jax.types import EvalResult


def test_adapters_name_the_repository_they_belong_to():
  text = write_card(
    Card(
      base="org/Model-1B",
      base_on_hub=True,
      base_of_adapters="org/Model-1B",
      arm="mine",  # of the user's own
      seed=3,
      step=20,
      facts={"steps": "20"},
      temperature=0.7,
      before=[EvalResult("a", "heldout", 0.0, 4, 1)],
      after=[
        EvalResult("a", "heldout", 0.0, 4, 2),
        EvalResult("b", "aime2024", 0.0, 4, 4),
      ],
    )
  )
  header = yaml.safe_load(text.split("---\n")[1])
  assert header["base_model"] == "org/Model-1B"
  assert header["library_name"] == "peft"
  assert "# mine from Model-1B\n" in text
  assert "LoRA adapters for `org/Model-1B`" in text
  assert "adapter_config.json" not in text  # nothing is to be replaced
  assert "| steps | 20 |" in text
  assert "at temperature 0.7," in text
  # One problem: resampled, it is itself.
  heldout = "| held-out | 1 | 4 | 25.0 (25.0 to 25.0) | 50.0 (50.0 to 50.0) |"
  of_set = "| aime2024 | 1 | 4 | not evaluated | 100.0 (100.0 to 100.0) |"
  assert f"{heldout}\n{of_set}\n" in text
