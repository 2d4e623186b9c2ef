import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture
def unchecked_shapes():
    """Switch the shape annotations off, to see what the code itself says about wrong shapes."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
