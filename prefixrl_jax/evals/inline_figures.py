"""Figures as part of a page: SVG with the page's colours and names of its own.

An image would keep its white ground in dark mode, and its points could be
neither pointed at nor stepped to.
"""

import html
import re

# Greys of drawing.py, and of its text, as variables of page.css.
_VARIABLES = {
  "#ffffff": "--ground",
  "#000000": "--text",
  "#333333": "--text",
  "#555555": "--quiet",
  "#777777": "--quiet",
  "#888888": "--quiet",
  "#e6e6e6": "--line",
  "#f2f2f2": "--card",
}


def page_colour(colour: str) -> str:
  """Returns a colour as CSS: a grey as the page's variable, others as is."""
  variable = _VARIABLES.get(colour)
  return f"var({variable})" if variable else colour


def inline_figure(svg: str, name: str, description: str) -> str:
  """Returns a figure's SVG as an element of an HTML page.

  Args:
    svg: a file that drawing.py has written.
    name: what its ids begin with, since a page has several figures.
    description: read aloud in place of it.

  Raises:
    ValueError: it is none.
  """
  found = re.search(
    r'<svg [^>]*viewBox="(0 0 ([\d.]+) [\d.]+)"[^>]*>(.*)</svg>', svg, re.DOTALL
  )
  if not found:
    raise ValueError(f"{name} is not as matplotlib writes SVG")
  box, width, body = found.groups()
  body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
  body = re.sub(r"<style.*?</style>\s*", "", body, flags=re.DOTALL)
  body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
  body = re.sub(
    r"\b(fill|stroke): (#[0-9a-f]{6})",
    lambda m: f"{m[1]}: {page_colour(m[2])}",
    body,
  )
  return (
    f'<svg viewBox="{box}" style="--points: {width}" role="group"'
    f' aria-label="{html.escape(description)}">{body}</svg>'
  )
