"""The Hugging Face hub, where exported policies can be pushed."""

import re

from etils import epath

from prefixrl_jax.types import UserError, one_line

# As the hub wants names; it allows no ".git" at the end either.
_PART = r"\w(?:[\w.-]*\w)?"
_REPOSITORY = re.compile(
  rf"(?!.*(?:--|\.\.))(?=.{{3,96}}$){_PART}/{_PART}(?<!\.git)", re.ASCII
)


def is_repository(name: str) -> bool:
  """Whether a name can be a repository's: ORGANISATION/NAME."""
  return bool(_REPOSITORY.fullmatch(name))


def check(repository: str) -> None:
  """Finds out what prevents a push, as far as that is known here.

  Args:
    repository: ORGANISATION/NAME.

  Raises:
    UserError: there is no token, or the hub is not to be asked.
  """
  # Only those who need it wait for it.
  from huggingface_hub import constants, get_token

  hub = f"config.export.hub = {repository}"
  if constants.HF_HUB_OFFLINE:
    raise UserError(
      f"{hub}, but HF_HUB_OFFLINE is set, so nothing can be pushed; unset it,"
      " or leave out config.export.hub."
    )
  if not get_token():
    raise UserError(
      f"{hub}, but there is no token that may write there: set HF_TOKEN or run"
      " `hf auth login`."
    )


def push(repository: str, folder: epath.Path) -> str:
  """Pushes a folder as one commit; a new repository is private.

  Args:
    repository: ORGANISATION/NAME.
    folder: an export, which stays.

  Returns: The commit's address.

  Raises:
    UserError: the hub is not reached, or does not take it.
  """
  import huggingface_hub

  api = huggingface_hub.HfApi()
  try:
    api.create_repo(repository, private=True, exist_ok=True)
    commit = api.upload_folder(
      repo_id=repository,
      folder_path=str(folder),
      commit_message="Exported by prefixrl_jax",
      # Of an earlier export with other files.
      delete_patterns=["*.safetensors", "*.safetensors.index.json"],
    )
  except Exception as e:  # whatever the network and the hub may cause
    raise UserError(
      f"the policy is exported, in {folder}, but the Hugging Face hub did not"
      f" take it ({one_line(e)}). `hf upload {repository} {folder}` pushes it,"
      " and so does the same command again."
    ) from None
  return str(commit)
