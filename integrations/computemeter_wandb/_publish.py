"""Keep the page and the picture of a team's trend in a W&B run of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from computemeter.sinks import describe, redact
from computemeter.sources import SourceError
from computemeter.trend.publish import Publication
from computemeter_wandb import ENTRY, WandbSink
from computemeter_wandb._destination import init
from computemeter_wandb._source import TREND, split


def publish(uri: str, what: Publication, *, warn: Callable[[str], None]) -> str:
    """Store the files in the run of the same title, and show the picture among its charts.

    For a command of the user's, in a process where nothing trains: it calls `wandb.init`.

    Args:
        uri: `wandb://entity/project`; a run that it may go on with is a training's, and left alone.
        what: the files; those of the same name are replaced.
        warn: takes the command that brings an offline run to its server.

    Returns:
        The run's page, or where its files are if W&B is offline.

    Raises:
        SourceError: W&B cannot be reached, needs a login, or does not take them.
    """
    import wandb

    entity, project, _ = split(uri)
    run = init(
        entity=entity,
        project=project,
        id=f"computemeter-{what.key}",
        resume="allow",
        name=what.title,
        notes=what.headline,
        config={ENTRY: {TREND: what.key}},
        ends=True,
    )
    try:
        for file in what.files:
            # W&B only links to a file elsewhere, and these are gone before an offline run is sent.
            kept = shutil.copy(file, run.dir)
            run.save(kept, base_path=run.dir, policy="now")
            if file.suffix == ".png":
                run.log({"trend": wandb.Image(str(file))})
        run.finish()
    except Exception as error:  # noqa: BLE001 - W&B raises what it likes
        with suppress(Exception):
            run.finish(exit_code=1)
        raise SourceError(f"{redact(uri)}: {describe(error)}") from None
    if run.offline:
        warn(f"W&B is offline; to send it: {WandbSink(run).advice}")
        return str(Path(run.dir))
    return redact(run.url)
