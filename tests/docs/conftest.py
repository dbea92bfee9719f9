"""A headless browser, and the built site on a local address; skipped where there is neither."""

import functools
import http.server
import os
import pathlib
import shutil
import threading

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: .[docs]")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        # Without a sandbox of its own, as root in a container has none to give.
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def site():
    """The folder of the built pages."""
    folder = os.environ.get("EQUIPOISE_SITE")
    if not folder:
        pytest.skip("EQUIPOISE_SITE does not name a folder of built documentation")
    found = pathlib.Path(folder).resolve()
    assert (found / "index.html").exists(), f"{found} holds no index.html"
    return found


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Where the pages are served, ending in a slash."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
