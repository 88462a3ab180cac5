"""A ComfyUI that all tests over HTTP share."""

from collections.abc import Iterator

import pytest

from tests.comfy.server import Server, started


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the pack, the nodes for tests and a tiny Wan."""
    with started(tmp_path_factory.mktemp("comfyui")) as running:
        yield running
