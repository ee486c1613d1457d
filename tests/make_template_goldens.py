"""Small chat models' folders, and what transformers makes of their templates.

The templates are written for these tests with the constructs and formats of
the families that they are named after. To store transformers' prompts anew:

  python tests/make_template_goldens.py
"""

import datetime
import json
import pathlib
import tempfile

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

GOLDENS = pathlib.Path(__file__).with_name("template_goldens.json")
# Models trim, or do not trim, what is around a text.
TEXTS = (
  "What is 2 + 2?",
  "  two spaces before, one newline after\n",
  "\n\nnew lines first, and a tab last\t",
  "\u00a0\u2028 odd white space \u3000",
  "",
  " \n ",
  "Zwölf Boxkämpfer 漢字 😀\r\n\r\nnext\n\nlast",
  "{{ bos_token }} {% break %} </b> it's ''quoted'' \\n",
)

_LLAMA3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
  {%- else %}
    {%- set date_string = "26 Jul 2024" %}
  {%- endif %}
{%- endif %}
{%- set system = "" %}
{%- if messages[0]["role"] == "system" %}
  {%- set system = messages[0]["content"] | trim %}
  {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}
{{- "Today: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for m in messages %}
  {{- "<|start_header_id|>" + m.role + "<|end_header_id|>\\n\\n" }}
  {{- m["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

_QWEN2 = """\
{%- for m in messages %}
  {%- if loop.first and m.role != "system" %}
{{ "<|im_start|>system\\nYou help.<|im_end|>\\n" }}
  {%- endif %}
{{- "<|im_start|>" + m.role + "\\n" + m.content + "<|im_end|>" + "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}
"""

_QWEN3 = """\
{%- if tools %}{{ raise_exception("no tools here") }}{% endif %}
{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}
  {%- set index = messages | length - 1 - loop.index0 %}
  {%- if ns.searching and m.role == "user" and m.content is string
      and not m.content.startswith("<tool_response>") %}
    {%- set ns.searching = false %}
    {%- set ns.last = index %}
  {%- endif %}
{%- endfor %}
{%- for m in messages %}
  {%- if m.role == "assistant" %}
    {%- set said = m.content.split("</think>")[-1].lstrip("\\n") %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if loop.index0 > ns.last %}
      {{- "<think>\\n\\n</think>\\n\\n" }}
    {%- endif %}
    {{- said + "<|im_end|>\\n" }}
  {%- else %}
    {{- "<|im_start|>" + m.role + "\\n" + m.content + "<|im_end|>\\n" }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- "<|im_start|>assistant\\n" }}
  {%- if enable_thinking is defined and enable_thinking is false %}
    {{- "<think>\\n\\n</think>\\n\\n" }}
  {%- else %}
    {{- "<think>\\n" }}
  {%- endif %}
{%- endif %}
"""

_SMOLLM3 = """\
{# A comment. #}
{%- if enable_thinking is not defined %}
{%- set enable_thinking = true %}
{%- endif %}
{%- macro turn(role, text) %}
{{- "<|im_start|>" ~ role ~ "\\n" ~ text }}
{%- endmacro %}
{{ turn("system", "Date: " + strftime_now("%d %B %Y")) }}
{{ "Mode: " }}{{ "/think" if enable_thinking else "/no_think" }}

{% for name, kept in dict(a="<é>", b=none).items() if kept is not none %}
  {{ name }}: {{ {"kept": kept} | tojson }}
{% endfor %}
{{ "<|im_end|>" }}
{% for m in messages %}
    {% set content = m.content if m.content is string else "" %}
    {% if m.role == "user" %}
{{ turn("user", content) + "<|im_end|>" }}
    {% elif m.role == "assistant" %}
        {% generation %}
        {%- set said = content.lstrip("\\n") %}
{{ turn("assistant", said) + "<|im_end|>" }}
        {% endgeneration %}
    {% else %}
        {% continue %}
    {% endif %}
    {% if loop.index > 100 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ "<|im_start|>assistant" }}
{% endif %}
"""

_GEMMA = """\
{{ bos_token }}
{%- if messages[0]["role"] == "system" %}
  {{- raise_exception("no system turn") }}
{%- endif %}
{%- for m in messages %}
  {%- if (m["role"] == "user") != (loop.index0 % 2 == 0) %}
    {{- raise_exception("turns must alternate") }}
  {%- endif %}
  {%- set role = "model" if m["role"] == "assistant" else m["role"] %}
  {{- "<start_of_turn>" + role + "\\n" }}
  {%- if m["content"] is string %}
    {{- m["content"] | trim }}
  {%- elif m["content"] is iterable %}
    {%- for item in m["content"] %}
      {{- item["text"] | trim if item["type"] == "text" }}
    {%- endfor %}
  {%- endif %}
  {{- "<end_of_turn>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<start_of_turn>model\\n" }}{% endif %}
"""

_OLMO2 = (
  "{{ bos_token }}{% for m in messages %}"
  "{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '\n' }}"
  "{% elif not loop.last %}"
  "{{ '<|assistant|>\n' + m['content'] + eos_token + '\n' }}"
  "{% else %}{{ '<|assistant|>\n' + m['content'] + eos_token }}{% endif %}"
  "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}"
  "{% endif %}{% endfor %}"
)

_MISTRAL = """\
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for m in messages | rejectattr("role", "equalto", "tool") | list %}
  {%- if m.role == "user" %}
    {{- "[INST] " + m.content + "[/INST]" }}
  {%- else %}
    {{- " " + m.content | trim + eos_token }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
{%- endfor %}
"""

_MISTRAL_TEKKEN = (
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
  "[INST]{{ m.content }}[/INST]{% else %}{{ m.content + eos_token }}{% endif %}"
  "{% endfor %}"
)

# Template, special tokens, added tokens that no flag marks.
FAMILIES = {
  "llama3": (
    _LLAMA3,
    "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|>",
    "",
  ),
  "qwen2": (_QWEN2, "<|endoftext|> <|im_end|> <|im_start|>", ""),
  "qwen3": (
    _QWEN3,
    "<|endoftext|> <|im_end|> <|im_start|>",
    "<think> </think> <tool_response>",
  ),
  "smollm3": (
    _SMOLLM3,
    "<|begin_of_text|> <|im_end|> <|im_start|>",
    "<think> </think>",
  ),
  "gemma": (
    _GEMMA,
    "<bos> <eos> <start_of_turn> <end_of_turn>",
    "\n\n \n\n\n <table>",
  ),
  "olmo2": (_OLMO2, "<|endoftext|> <|endoftext|>", ""),
  "mistral": (_MISTRAL, "<s> </s> [INST] [/INST]", ""),
  "mistral_tekken": (_MISTRAL_TEKKEN, "<s> </s> [INST] [/INST]", ""),
}
_CORPUS = [
  "What is the number of new lines that were first before the white space?",
  "user\nmodel\nassistant\nsystem\n\nToday: 26 Jul 2024\n\nYou help.\n \n  ",
  "two spaces before, one newline after the text. two and two are four.",
]


def make_folder(family: str, folder: pathlib.Path) -> None:
  """Writes tokenizer.json and the configs of a small model.

  Args:
    family: in FAMILIES.
    folder: exists.
  """
  template, special, unmarked = FAMILIES[family]
  names = list(dict.fromkeys(special.split()))
  if family in ("gemma", "mistral", "mistral_tekken"):
    t = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if family == "gemma":
      t.normalizer = normalizers.Replace(" ", "\u2581")
      t.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    else:
      t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Sequence(
      [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
      ]
    )
    alphabet, first = [], ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
  else:
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet, first = sorted(pre_tokenizers.ByteLevel.alphabet()), []
  t.train_from_iterator(
    _CORPUS,
    trainers.BpeTrainer(
      vocab_size=420,
      initial_alphabet=alphabet,
      special_tokens=first,
      show_progress=False,
    ),
  )
  # The trainer flags the bytes as special, which no model does.
  content = json.loads(t.to_str())
  content["added_tokens"] = []
  t = tokenizers.Tokenizer.from_str(json.dumps(content))
  t.add_special_tokens(names)
  t.add_tokens(
    [tokenizers.AddedToken(s, normalized=False) for s in unmarked.split(" ")]
    if unmarked
    else []
  )
  t.save(str(folder / "tokenizer.json"))
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": special.split()[0],
    "eos_token": special.split()[1],
    "clean_up_tokenization_spaces": False,
  }
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  (folder / "chat_template.jinja").write_text(template)


def reference_prompts(folder: pathlib.Path) -> list[dict]:
  """Returns transformers' prompts for TEXTS, as text and as ids."""
  # Not at the top: tests that do not compare with it need not have it.
  import transformers
  from transformers.utils import chat_template_utils

  class FixedDay(datetime.datetime):
    @classmethod
    def now(cls):
      return cls(2024, 7, 26)

  usual = chat_template_utils.datetime
  chat_template_utils.datetime = FixedDay
  try:
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    prompts = []
    for text in TEXTS:
      chat = [{"role": "user", "content": text}]
      settings = {"add_generation_prompt": True, "return_dict": False}
      shown, ids = (
        theirs.apply_chat_template(chat, tokenize=t, **settings)
        for t in (False, True)
      )
      prompts.append({"prompt": shown, "ids": ids})
    return prompts
  finally:
    chat_template_utils.datetime = usual


def main() -> None:
  """Stores the prompts of every family."""
  lines = []
  for family in FAMILIES:
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      make_folder(family, folder)
      prompts = ",\n  ".join(map(json.dumps, reference_prompts(folder)))
    lines.append(f'"{family}": [\n  {prompts}\n]')
  GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
  main()
