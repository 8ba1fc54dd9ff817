"""For all tests: what a tracker keeps beside its database stays out of the checkout."""

from pathlib import Path

import pytest

# What several tests share makes assertions too: a failed one shows its values there as well.
pytest.register_assert_rewrite(*(path.stem for path in Path(__file__).parent.glob("*.py")))


@pytest.fixture(autouse=True, scope="session")
def artifacts_elsewhere(tmp_path_factory):
    """Have MLflow put files of runs into a temporary folder where a store names none."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("artifacts")
        patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(folder))
        yield
