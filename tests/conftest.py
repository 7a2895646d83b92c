"""Fixtures that several test files share."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from compressor.data import DataSet, load_data

pytest_plugins = "pytester"  # for tests of our own plugin; pytest takes it from the root conftest only


@pytest.fixture(autouse=True)
def _one_thread():
    """Results must not depend on how many cores happen to be free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_our_own(tmp_path_factory):
    """What tests measure must not reach the user's cache, nor what is in there the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits() -> Callable[..., DataSet]:
    """Make a small data set of real images: scikit-learn's digits at 8×8 or larger."""

    def make(limit: int = 256, image_size: int = 8, seed: int = 0) -> DataSet:
        config = SimpleNamespace(
            name="digits",
            path=None,
            download=False,
            image_size=image_size,
            channels=None,
            validation=0.125,
            limit=limit,
            memory_gib=1.0,
        )
        return load_data(config, seed=seed)

    return make
