"""Fixtures of all tests: one thread, so that forked children can use torch; signals; a server; restored registries."""

import functools
import http.server
import os
import signal
import sys
import threading

import pytest
import torch

from mdistiller_dfpt import AUGMENTATIONS, DATASETS, DISTILLERS, MODELS, OPTIMIZERS, SCHEDULES, TEACHERS
from mdistiller_dfpt.config.added_keys import _DEFAULTS
from mdistiller_dfpt.config.keys import KEYS
from mdistiller_dfpt.config.sections import _NODES, ADDED
from mdistiller_dfpt.interop import plugins
from mdistiller_dfpt.trusted_files import VARIABLE


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
    # Autograd begins without threads of its own, as it does not once torch.compile was used
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True, scope="session")
def _signals():
    """Signals end a process, also where a shell started the tests in the background, or by nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _trust(tmp_path_factory):
    """Files that tests write may name code; the list of trusted folders is not that of whoever runs the tests."""
    os.environ |= {VARIABLE: os.sep, "XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture
def server(tmp_path_factory):
    """A folder and the address at which a local server serves its files; `agents` lists the user agents."""
    folder = tmp_path_factory.mktemp("host")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


REGISTRIES = (
    DISTILLERS,
    TEACHERS,
    MODELS,
    DATASETS,
    AUGMENTATIONS,
    OPTIMIZERS,
    SCHEDULES,
    _NODES,
    KEYS,
    ADDED,
    _DEFAULTS,
    plugins._loaded,
)


@pytest.fixture
def registries(monkeypatch):
    """Removes everything that a test registers or imports as a plugin."""
    monkeypatch.setattr(plugins, "_published", [])
    before = [(r, dict(r)) for r in REGISTRIES]
    modules = set(sys.modules)
    yield
    for registry, contents in before:
        registry.clear()
        registry.update(contents)
    for name in set(sys.modules) - modules:
        if name.startswith(("mdistiller.", "plugin_", "a_package")) or name == "mdistiller":
            del sys.modules[name]
