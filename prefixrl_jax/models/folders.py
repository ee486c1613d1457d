"""Where a Hugging Face model's folder is, and which files are in one."""

import re

from etils import epath

from prefixrl_jax.types import UserError, one_line

# What a model's folder has beside its weights, as far as anybody needs it.
SIDE_FILES = (
  "config.json",
  "generation_config.json",
  "tokenizer*",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template*",
  "additional_chat_templates/*",
  "vocab*",
  "merges.txt",
  "spiece.model",
  "sentencepiece.bpe.model",
)
INDEX = "model.safetensors.index.json"


def find_folder(name: str) -> epath.Path:
  """Returns a model's folder, fetched from the Hugging Face hub if need be.

  Args:
    name: a folder, or "organisation/model", or "organisation/model@revision".

  Raises:
    UserError: there is no such folder, and the hub has none or is not reached.
  """
  if epath.Path(name).is_dir():
    return epath.Path(name)
  missing = f"config.model.folder: there is no folder {name}"
  if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", name):
    raise UserError(f"{missing}.")
  import huggingface_hub  # only those who need it wait for it

  repository, _, revision = name.partition("@")
  at = f" --revision {revision}" if revision else ""
  try:
    return epath.Path(
      huggingface_hub.snapshot_download(
        repository,
        revision=revision or None,
        allow_patterns=[
          *SIDE_FILES,
          "model*.safetensors",
          INDEX,
        ],
      )
    )
  except Exception as e:  # whatever the network and the hub may cause
    reason = one_line(e)
    raise UserError(
      f"{missing}, and the Hugging Face hub did not give {name} ({reason})."
      " Where the hub can be reached run"
      f" `hf download {repository}{at} --local-dir FOLDER`"
      " (after `hf auth login` if the model is gated), bring the folder here"
      " and set --config.model.folder=FOLDER."
    ) from None
