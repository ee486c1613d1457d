"""The report's page in a browser, from the disk: layout, tables, figures."""

import dataclasses
import json

import browser
import pytest
from reported import ARMS, SAMPLE, fake_run, write

pytestmark = pytest.mark.skipif(
  browser.find_browser() is None,
  reason="there is no Chromium (apt-get install chromium)",
)

# Of every line of text that is shown: where it is, what it says, and whether it
# may go beyond the page, since what it is in can be scrolled.
_LINES = """(() => {
  const lines = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, title, .hidden")) continue;
    if (!parent.checkVisibility()) continue;  // in what is closed
    const range = document.createRange();
    range.selectNodeContents(node);
    const scrolled = parent.closest(".scroll, pre") !== null;
    for (const box of range.getClientRects()) {
      if (box.width > 1 && box.height > 1) lines.push({
        left: box.left + scrollX, right: box.right + scrollX,
        top: box.top + scrollY, bottom: box.bottom + scrollY,
        text: node.data.trim().slice(0, 40), scrolled,
      });
    }
  }
  return lines;
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  runs = [
    fake_run(arm, seed, is_old=False) for arm in ARMS for seed in range(3)
  ]
  runs[6:6] = [
    dataclasses.replace(run, arm="a_long_name_without_a_place_to_break_it")
    for run in runs[3:6]
  ]
  long = SAMPLE | {"completion": "unbroken" * 100}
  write(folder, runs=runs, samples=[SAMPLE, long])
  return folder / "index.html"


@pytest.fixture
def opened(chromium, page):
  chromium.emulate()
  chromium.resize(1440)
  chromium.open(page)
  yield chromium
  assert chromium.errors == []


def _overlaps(lines):
  """Pairs of lines of text that share more than an edge."""
  lines = sorted(lines, key=lambda line: line["top"])
  found = []
  for i, a in enumerate(lines):
    for b in lines[i + 1 :]:
      if b["top"] >= a["bottom"]:
        break
      width = min(a["right"], b["right"]) - max(a["left"], b["left"])
      height = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
      smaller = min(a["bottom"] - a["top"], b["bottom"] - b["top"])
      if width > 1 and height > smaller / 3:
        found.append((a["text"], b["text"]))
  return found


def _beyond(chromium, lines):
  """Lines of text that only scrolling the whole page would show."""
  width = chromium.run("document.documentElement.clientWidth")
  assert chromium.run("document.documentElement.scrollWidth") <= width
  return [
    line["text"]
    for line in lines
    if not line["scrolled"] and not 0 <= line["left"] < line["right"] <= width
  ]


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_overlaps_or_leaves_the_page(opened, width):
  opened.resize(width)
  opened.run(
    "document.querySelectorAll('details').forEach((d) => d.open = true)"
  )
  lines = opened.run(_LINES)
  texts = {line["text"] for line in lines}
  assert {"PrefixRL report", "Accuracy without prefix", "SFT + RL"} <= texts
  assert _overlaps(lines) == []
  assert _beyond(opened, lines) == []
  # Text of figures stays as large as small print: 10 points of 3/4 the size.
  scales = opened.run(
    "[...document.querySelectorAll('figure svg')].map((s) =>"
    " s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
  )
  assert len(scales) == 6
  assert min(scales) > 0.99


def test_an_overlap_would_be_found(opened):
  opened.run("document.querySelector('nav').style.marginTop = '-4rem'")
  assert _overlaps(opened.run(_LINES)) != []


def test_print_is_light_and_shows_whole_tables(opened):
  opened.emulate("print", "dark")
  opened.resize(703)  # A4 less its margins
  lines = opened.run(_LINES)
  assert _overlaps(lines) == []
  width = opened.run("document.documentElement.clientWidth")
  assert max(line["right"] for line in lines) <= width  # nothing to be scrolled
  texts = {line["text"] for line in lines}
  assert "PrefixRL report" in texts
  assert "Print or save as PDF" not in texts
  assert not [text for text in texts if text.startswith("Point at a line")]
  colour = "getComputedStyle(document.body).backgroundColor"
  assert opened.run(colour) == "rgb(255, 255, 255)"


def _luminance(colour):
  numbers = [float(x) for x in colour[4:-1].split(",")]
  linear = [
    x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
    for x in (number / 255 for number in numbers)
  ]
  return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_modes(opened, scheme):
  opened.emulate(scheme=scheme)
  ground = opened.run("getComputedStyle(document.body).backgroundColor")
  assert (_luminance(ground) > 0.5) == (scheme == "light")
  colours = opened.run(
    "[...new Set([...document.querySelectorAll('figure text')].map("
    "(e) => getComputedStyle(e).fill)"
    ".concat([...document.querySelectorAll('p, td, th, a, small')].map("
    "(e) => getComputedStyle(e).color)))]"
  )
  assert len(colours) > 2
  for colour in colours:
    low, high = sorted((_luminance(ground), _luminance(colour)))
    assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def _column(chromium, table, column):
  return chromium.run(
    f"[...document.querySelectorAll('table')][{table}].tBodies[0].rows.length"
    f" && [...[...document.querySelectorAll('table')][{table}].tBodies[0].rows]"
    f".map((row) => row.cells[{column}].dataset.value"
    f" ?? row.cells[{column}].textContent.trim())"
  )


def _focus_header(chromium, column):
  chromium.run(
    f"document.querySelectorAll('table')[0].tHead.rows[0].cells[{column}]"
    ".querySelector('button').focus()"
  )


def test_a_table_is_sorted_from_the_keyboard(opened):
  accuracies = _column(opened, 0, 2)
  assert len(accuracies) == 10  # five arms, two kinds of problems
  by_size = sorted(accuracies, key=float)
  assert by_size != accuracies
  sort_of = (
    "document.querySelectorAll('table')[0].tHead.rows[0].cells[2]"
    ".getAttribute('aria-sort')"
  )
  _focus_header(opened, 2)
  opened.press("Enter")
  assert _column(opened, 0, 2) == by_size[::-1]
  assert opened.run(sort_of) == "descending"
  said = "document.getElementById('said').textContent"
  assert opened.run(said) == "Rows are sorted by pass@1, descending."
  assert _column(opened, 0, 0)[0] == "PrefixRL"
  opened.press("Enter")
  assert _column(opened, 0, 2) == by_size
  opened.press("Enter")
  assert _column(opened, 0, 2) == accuracies
  assert opened.run(sort_of) is None


def test_what_is_undefined_is_sorted_last_both_ways(opened):
  _focus_header(opened, 4)  # the gain, which the base model has not
  for _ in range(2):
    opened.press("Enter")
    gains = _column(opened, 0, 4)
    assert gains[-2:] == ["", ""]
    assert "" not in gains[:-2]
  _focus_header(opened, 0)
  opened.press("Enter")
  arms = _column(opened, 0, 0)
  assert arms == sorted(arms, key=str.lower)


def test_every_header_and_panel_is_reached_by_tab(opened):
  """What can be used has a place in the order of the focus."""
  there = opened.run(
    "[document.querySelectorAll('th[data-sort]').length,"
    " document.querySelectorAll('th[data-sort] button').length,"
    " document.querySelectorAll('.scroll').length,"
    " document.querySelectorAll('.scroll[tabindex=\"0\"][role=region]').length,"
    " document.querySelectorAll('.panel').length,"
    " document.querySelectorAll('.panel[tabindex=\"0\"][aria-label]').length]"
  )
  assert there[0] == there[1] > 10
  assert there[2] == there[3] == 10  # four tables, six figures
  assert there[4] == there[5] == 13


def _said(chromium):
  return chromium.run("document.querySelector('figure output').textContent")


def test_arrow_keys_read_a_figure(opened):
  assert _said(opened).startswith("Point at a line")
  opened.run("document.querySelector('.panel').focus()")
  opened.press("ArrowRight")  # the end of the first line
  last = _said(opened)
  assert last.startswith("RL at 1.5e12: ")
  opened.press("ArrowLeft")
  assert _said(opened).startswith("RL at 1.4e12: ")
  opened.press("End")
  assert _said(opened) == last
  opened.press("ArrowDown")
  assert _said(opened).startswith("a_long_name")
  opened.press("ArrowDown")
  assert _said(opened).startswith("SFT + RL at 1.5e12: ")
  opened.press("ArrowDown")
  opened.press("ArrowDown")
  assert _said(opened) == last  # round
  opened.press("ArrowUp")
  assert _said(opened).startswith("PrefixRL at 1.5e12: ")
  opened.press("Home")
  assert _said(opened).startswith("PrefixRL at 3.6e11: ")
  assert opened.run("document.querySelectorAll('.read').length") == 1


def test_pointing_at_a_line_reads_it(opened):
  text = opened.run(
    "(() => { const point = document.querySelectorAll('.point')[3];"
    " point.scrollIntoView({block: 'center'});"
    " const box = point.getBoundingClientRect();"
    " const there = document.elementFromPoint(box.x + box.width / 2,"
    " box.y + box.height / 2);"
    " there.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));"
    " return there.querySelector('title').textContent; })()"
  )
  assert text == _said(opened)
  assert json.dumps(text).count(" at ") == 1
