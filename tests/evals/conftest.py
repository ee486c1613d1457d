"""A browser for pages."""

import browser
import pytest


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
  made = browser.Browser(tmp_path_factory.mktemp("profile"))
  yield made
  made.close()
