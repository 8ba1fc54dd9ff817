"""One counter per framework; each is imported only where its framework is in use."""

from importlib.util import find_spec


def require_torch(what: str) -> None:
    """Say what to install, before an import of PyTorch fails in words that help nobody.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise ModuleNotFoundError(
            f"{what} needs PyTorch: pip install 'computemeter[torch]'", name="torch"
        )
