"""What MLflow's own web page shows of a metered run, in a real Chromium."""

import pytest

mlflow = pytest.importorskip("mlflow")

import lightning.pytorch as pl  # noqa: E402 - after the check for mlflow
from lightning.pytorch.loggers import MLFlowLogger  # noqa: E402
from metered_fit import Batches, Net  # noqa: E402
from mlflow_servers import running_server  # noqa: E402
from mlflow_ui import X, Y, run_page  # noqa: E402
from small_runs import BATCH, FLOPS_PER_EXAMPLE  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from computemeter.lightning import ComputeMeter  # noqa: E402

pytestmark = pytest.mark.slow  # a training, a server and a browser

STEPS = 40


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backend = f"sqlite:///{folder}/mlflow.db"
    logger = MLFlowLogger(
        "digits", tracking_uri=backend, artifact_location=str(folder / "artifacts")
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[ComputeMeter(ledger=folder / "ledger", verbose=0)],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=2,
        logger=logger,
        max_steps=STEPS,
    )
    trainer.fit(Net(), DataLoader(Batches(), batch_size=None))
    with running_server(folder, backend) as server:
        run = server.client.get_run(logger.run_id)
        with run_page(server, run, viewport={"width": 1200, "height": 760}) as found:
            found.history = {
                key: [each.value for each in server.client.get_metric_history(logger.run_id, key)]
                for key in (X, Y)
            }
            yield found


def test_loss_against_compute_is_drawn_with_every_point(opened):
    opened.draw_loss_against_compute()
    (lines,) = opened.drawn()
    # Logged at every 2nd of 40 steps, and at the end if that is none of them.
    assert len(opened.history[X]) >= STEPS // 2
    assert opened.history[X] == sorted(opened.history[X])
    # A petaflop/s-day is 8.64e19 FLOP.
    flops = STEPS * BATCH * FLOPS_PER_EXAMPLE
    assert opened.history[X][-1] == pytest.approx(flops / 8.64e19)
    # MLflow draws a line twice, one of them as it is without smoothing.
    assert all(line == [opened.history[X], opened.history[Y]] for line in lines)
    assert lines
    assert opened.asked - {None} == {"127.0.0.1"}


def test_the_finished_figure_is_shown_among_the_artifacts(opened):
    figure = opened.open_artifact("compute/loss_against_compute.html")
    figure.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
    chart = figure.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')][0].calcdata[0]"
        ".map((point) => [point.x, point.y])"
    )
    assert [x for x, _ in chart] == pytest.approx(opened.history[X])
    assert [y for _, y in chart] == pytest.approx(opened.history[Y])
    assert opened.asked - {None} == {"127.0.0.1"}
