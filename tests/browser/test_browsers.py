"""Which browser the tests take, and what they say when there is none."""

import browsers
import pytest


def test_the_first_that_starts_is_taken(playwright, monkeypatch):
    here = list(browsers.candidates())
    broken = ("broken", {"executable_path": "no-such-browser"})
    monkeypatch.setattr(browsers, "candidates", lambda: iter([broken, *here]))
    name, browser = browsers.launch(playwright)
    browser.close()
    assert name != "broken"


def test_where_there_is_none_it_says_what_to_install(playwright, monkeypatch):
    monkeypatch.setattr(browsers, "candidates", lambda: iter([("broken", {"executable_path": "no-such-browser"})]))
    with pytest.raises(browsers.NoBrowser, match="apt-get install chromium") as refused:
        browsers.launch(playwright)
    assert "--no-browser" in str(refused.value) and "broken: " in str(refused.value)
