"""The original libraries, for live comparison; its tests are skipped where they are missing."""

import pytest

torch = pytest.importorskip("torch", reason="needs the oracle extra")


def _import_torchvision():
    """torchvision's wheels may not match a CPU build of torch: their C++ operators are missing.

    The models need none of them, only the registration of their shapes fails; so leave that out.
    """
    real = torch.library.register_fake

    def register(name, *args, **kwargs):
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda fn: fn
        return real(name, *args, **kwargs)

    torch.library.register_fake = register
    try:
        return pytest.importorskip("torchvision", reason="needs the oracle extra")
    finally:
        torch.library.register_fake = real


torchvision = _import_torchvision()
transformers = pytest.importorskip("transformers", reason="needs the oracle extra")
smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the oracle extra")
