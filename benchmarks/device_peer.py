"""What transformers takes for the work of `device_speed`, on the same card."""

import dataclasses
import itertools
import statistics
import time

from benchmarks import shapes
from benchmarks.device_work import Recorder, decodings, updates


def _torch(small: bool):
  """Returns torch and the device, ready to be timed."""
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  assert small or device == "cuda", "torch sees no GPU"
  return torch, device


def _synchronise(torch, device) -> float:
  if device == "cuda":
    torch.cuda.synchronize()
  return time.perf_counter()


def _peak(torch, device) -> float | None:
  return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def _model(torch, device, config, dtype):
  """Returns a model with random weights, made where it runs."""
  model_class, theirs = shapes.transformers_config(config)
  with torch.device(device):
    return model_class(theirs).to(dtype)


def decode(record: Recorder, small: bool) -> None:
  """`generate` in bfloat16: every completion has a prompt of its own."""
  torch, device = _torch(small)
  for name, config, work in decodings(small):
    model = _model(torch, device, config, torch.bfloat16).eval()
    work = dataclasses.replace(work, long=work.peer_long)
    calls = itertools.count()

    def timed(tokens: int, model=model, work=work, config=config, calls=calls):
      prompts = torch.from_numpy(work.trunks(config, next(calls))).long()
      prompts = prompts.to(device)
      started = _synchronise(torch, device)
      with torch.inference_mode():
        found = model.generate(
          prompts,
          attention_mask=torch.ones_like(prompts),
          do_sample=True,
          top_k=0,
          num_return_sequences=work.lanes,
          min_new_tokens=tokens,
          max_new_tokens=tokens,
          pad_token_id=0,
        )
      took = _synchronise(torch, device) - started
      assert found.shape[1] == work.trunk_length + tokens
      return took

    timed(2)
    short, long = (
      min(timed(n) for _ in range(2)) for n in (work.short, work.long)
    )
    record(
      name=name,
      by="transformers",
      dtype="bfloat16",
      **work.figures(short, long),
      peak_gib=_peak(torch, device),
    )
    del model
  record(torch=torch.__version__, transformers=_version())


def _version() -> str:
  import transformers

  return transformers.__version__


def update(record: Recorder, small: bool) -> None:
  """A step on every lane as a sequence of its own, float32 autocast to bf16."""
  torch, device = _torch(small)
  for name, config, work in updates(small):
    model = _model(torch, device, config, torch.float32).train()
    is_cuda = device == "cuda"
    optimizer = torch.optim.AdamW(
      model.parameters(), 1e-6, (0.9, 0.95), fused=is_cuda
    )
    (tree,) = work.trees(config)
    tokens = torch.stack(
      [
        torch.cat([torch.from_numpy(x) for x in (tree.trunk, lane.tokens)])
        for lane in tree.lanes
      ]
    )
    tokens = tokens.long().to(device)
    advantages = torch.stack(
      [torch.from_numpy(x.advantages) for x in tree.lanes]
    ).to(device)

    def step(
      model=model, optimizer=optimizer, tokens=tokens, advantages=advantages
    ):
      started, n = _synchronise(torch, device), advantages.shape[1]
      # A sequence at a time: all of their logits would not fit everywhere.
      for row, weight in zip(tokens[:, None], advantages[:, None]):
        with torch.autocast(device, torch.bfloat16):
          scores = model(row, logits_to_keep=n + 1).logits[:, :-1]
        scores = torch.log_softmax(scores.float(), -1)
        picked = scores.gather(-1, row[:, -n:, None])[..., 0]
        (-(weight * picked).sum() / advantages.numel()).backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      optimizer.zero_grad()
      return _synchronise(torch, device) - started

    step()
    record(
      name=name,
      by="transformers",
      dtype="float32, autocast to bfloat16",
      seconds=statistics.median(step() for _ in range(3)),
      sequence_tokens=tokens.numel(),
      peak_gib=_peak(torch, device),
    )
    del model, optimizer, step
