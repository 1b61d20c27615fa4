"""Settings of the suite in its three modes."""

import os
import sys
from functools import partialmethod
from inspect import signature

import matplotlib as mpl
import matplotlib.pyplot
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numba.core.dispatcher import Dispatcher
from typer.testing import CliRunner

mpl.use("Agg")

if "mix_stderr" in signature(CliRunner.__init__).parameters:  # before click 8.2
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"

settings.register_profile("compiled", max_examples=100, deadline=None)
settings.register_profile(
    "interpreted",
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("bounds checked", max_examples=30, deadline=None)  # of the same cases
BOUNDS_CHECKED = os.environ.get("NUMBA_BOUNDSCHECK") == "1"
profile = "bounds checked" if BOUNDS_CHECKED else "compiled"
settings.load_profile("interpreted" if INTERPRETED else profile)


SLOW_EXAMPLES = {
    f"balloonlab.model.{name}"
    for name in ("accounting.trace_messages", "cost.fit", "prediction.predict")
}
"""Examples of docstrings that take a minute in plain Python."""


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "once: does not depend on how kernels run; one mode is enough"
    )
    config.addinivalue_line(
        "markers", "libraries: leans on what others make; runs with their oldest versions, too"
    )
    config.addinivalue_line("markers", "notebook: runs notebooks, beside all others")
    config.addinivalue_line(
        "markers", "slow_interpreted: left out without the JIT, for its size or its pace"
    )


def pytest_collection_modifyitems(items):
    if not INTERPRETED:
        return
    large = pytest.mark.skip(reason="too large or too slow for plain Python (NUMBA_DISABLE_JIT=1)")
    compiled = pytest.mark.skip(reason="the driver calls one's own pair of kernels compiled only")
    for item in items:
        if "slow_interpreted" in item.keywords:
            item.add_marker(large)
        elif item.name == "balloonlab.wire.register":
            item.add_marker(compiled)
        elif item.name in SLOW_EXAMPLES:
            item.add_marker(large)


@pytest.fixture(autouse=True)
def no_figure_is_left():
    """Matplotlib warns of more than twenty, which is an error, in whichever test opens the last."""
    yield
    mpl.pyplot.close("all")


@pytest.fixture(autouse=True, scope="session")
def no_kernel_returns_a_part_of_an_array():
    """Without counts of references numba refuses to return one, but not within a tuple.

    Python would get the whole array instead of the part.
    """
    yield
    modules = [module for name, module in sys.modules.items() if name.startswith("balloonlab.")]
    kernels = {each for module in modules for each in vars(module).values() if is_kernel(each)}
    returning = {
        kernel.py_func.__name__
        for kernel in kernels
        for overload in kernel.overloads.values()
        if "array(" in str(overload.signature.return_type)
    }
    assert not returning


def is_kernel(value):
    return isinstance(value, Dispatcher) and value.py_func.__module__.startswith("balloonlab.")


@pytest.fixture
def rng():
    return np.random.default_rng(20161130)
