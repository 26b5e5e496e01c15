"""The chat box as a person finds it on a page: by the names that a screen reader says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from jupyter_client import BlockingKernelClient
from playwright.sync_api import Locator, Page, expect

expect.set_options(timeout=20_000)  # for all that should come true soon; never a measure of speed


class Guard:
    """Lets a page load from one server only, and remembers what else it asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.home, self.refused = page, urlsplit(url).netloc, []
        page.context.route(lambda address: not self._at_home(address), lambda route: route.abort())
        page.context.on("request", self._note)
        page.context.on("requestfailed", self._forgive)
        page.on("websocket", self._note)

    def _at_home(self, address: str) -> bool:
        return urlsplit(address).netloc == self.home or address.startswith(("data:", "blob:", "about:"))

    def _note(self, request) -> None:
        if not self._at_home(request.url):
            self.refused.append(request.url)

    def _forgive(self, request) -> None:
        if (
            request.failure == "csp" and request.url in self.refused
        ):  # the server's own policy kept the browser from asking
            self.refused.remove(request.url)

    def check(self) -> None:
        refused, self.refused = self.refused, []
        assert refused == [], "the page wanted to load something from elsewhere"
        assert self.page.evaluate("window.__xss") is None, "injected code ran"


class Box:
    """One chat box, on a page or in a part of it."""

    def __init__(self, root: Page | Locator) -> None:
        self.root = root
        self.log = root.get_by_role("log", name="Conversation")
        self.message = root.get_by_role("textbox", name="Message", exact=True)
        self.status = root.get_by_role("status")

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name, exact=True)

    def say(self, text: str) -> None:
        self.message.fill(text)
        self.message.press("Enter")

    def wait(self) -> None:
        """Until no answer is being written."""
        expect(self.button("Send")).to_be_visible()

    def ask(self, text: str) -> None:
        before = self.answers.count()
        self.say(text)
        expect(self.answers).to_have_count(before + 1)
        self.wait()

    @property
    def answers(self) -> Locator:
        return self.log.locator(".assistant .body")

    @property
    def questions(self) -> Locator:
        return self.log.locator(".user .body")


class ChatPage(Box):
    """A notebook in JupyterLab whose second cell shows a chat box."""

    def __init__(self, page: Page, guard: Guard, server) -> None:
        super().__init__(page)
        self.page, self.guard, self.server = page, guard, server
        self.idle = page.get_by_role("button", name="Python 3 (ipykernel) | Idle")

    def require_accessible(self) -> None:
        found = Axe().run(self.page, ".ovchat-box")
        assert found.response["passes"] and not found.violations_count, found.generate_report()

    def open(self, name: str) -> None:
        with self._kernel():
            self.page.goto(f"{self.server.url}/doc/tree/{name}?token={self.server.token}")

    @contextmanager
    def _kernel(self) -> Iterator[None]:
        """Wait until the page that the block loads has a kernel; what is run before that is lost.

        The notebook's own indicator says "idle" too early, the status bar does not.
        """
        with self.page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=60_000):
            yield
        expect(self.idle).to_be_visible(timeout=60_000)

    def reload(self) -> None:
        """Save the notebook and load its page anew, with the kernel that it has."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and "/contents/" in answer.url):
            self.page.get_by_role("button", name="Save and create checkpoint").click()
        with self._kernel():
            self.page.reload()

    def menu(self, bar: str, name: str) -> None:
        self.page.get_by_role("menuitem", name=bar, exact=True).click()
        self.page.locator(".lm-Menu").get_by_text(name, exact=True).click()
        expect(self.page.locator(".lm-Menu")).to_have_count(0)  # an open menu hides what the next test clicks

    def theme(self, name: str) -> None:
        """Set the theme by JupyterLab's command; its submenu may stay open over the page on a busy machine."""
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", name)

    def new_box(self, code: str) -> None:
        """Run the second cell, with this code, and wait for its chat box; no other is left."""
        self.run_cell(2, "")
        self.page.evaluate("document.querySelectorAll('textarea').forEach(old => old.dataset.old = true)")
        self.run_cell(1, code)
        self.page.wait_for_selector("textarea[aria-label=Message]:not([data-old])", timeout=60_000)
        expect(self.idle).to_be_visible()

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def run_cell(self, number: int, code: str) -> None:
        """Replace the code of a cell and run it, as a person does."""
        self.cell(number).locator(".cm-content").fill(code)
        self.page.keyboard.press("Control+Enter")

    def kernel(self, expression: str):
        """The value of a Python expression in the notebook's kernel: what the page should show."""
        page = urlsplit(self.page.url).path  # an earlier test's notebook may be open on the same server
        (session,) = [each for each in self.server.api("GET", "api/sessions") if page.endswith(each["path"])]
        client = BlockingKernelClient(
            connection_file=str(self.server.runtime / f"kernel-{session['kernel']['id']}.json")
        )
        client.load_connection_file()
        client.start_channels()
        try:
            reply = client.execute_interactive(
                "", user_expressions={"value": expression}, store_history=False, timeout=60
            )
        finally:
            client.stop_channels()
        value = reply["content"]["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return ast.literal_eval(value["data"]["text/plain"])
