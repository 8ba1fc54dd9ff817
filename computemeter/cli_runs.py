"""The command line over runs: options and help of `report`, `runs`, `push` and `trend`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from computemeter.cli_output import Json, print_result, warn

Since = Annotated[
    str | None,
    typer.Option(metavar="DAY", help="Runs from a day on (2026-01-31), or of the last 90d."),
]
User = Annotated[str | None, typer.Option(help="One user's runs.")]
Project = Annotated[str | None, typer.Option(help="One project's runs.")]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY[=VALUE]",
        help="Runs with this tag (any value if none is given); may be repeated.",
    ),
]


def report_command(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="A receipt, a checkpoint or folder with one, or a ledger; with --source a run id.",
        ),
    ] = None,
    *,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE", help="Where the run with this id is: what `computemeter runs` takes."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml",
            help="A model of several runs, base models and figures given by hand.",
        ),
    ] = None,
    planned_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEPS", help="Training steps that are to be in the weights."),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Of a tracker read only what changed, as `trend` does."
        ),
    ] = True,
    filer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who files it, for the head of the document.")
    ] = None,
    form: Annotated[
        Literal["md", "json"], typer.Option("--format", help="Markdown, or JSON for programs.")
    ] = "md",
    card: Annotated[
        bool, typer.Option("--card", help="Only a block of Markdown for a model card.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As --format json; with --card the receipt itself.")
    ] = False,
) -> None:
    """Print the compute of a run or a model: by both methods, with errors, bases and thresholds.

    A run is read from its compute_receipt.json and its ledgers. A model's file is described in
    docs/disclosure.md. What is printed is a draft, not legal advice.
    """
    from computemeter.commands.report import model_card, report

    if card and (run is None or source or model or planned_steps or filer or form != "md"):
        raise typer.BadParameter("--card wants a receipt, checkpoint or ledger, and only --json")
    if card:
        print_result(lambda: model_card(run or "", as_json=as_json))
        return
    chosen: Literal["md", "json"] = "json" if as_json else form
    print_result(
        lambda: report(
            run,
            sources=source or (),
            model=model,
            planned_steps=planned_steps,
            cache=cache,
            filer=filer,
            form=chosen,
        )
    )


def runs_command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            show_default="./compute_ledger",
            help="A ledger, a receipt, a folder of ledgers or offline W&B runs, or a URI: "
            "sqlite:///FILE, postgresql://..., mysql://..., https://HOST (MLflow), "
            "wandb://ENTITY/PROJECT.",
        ),
    ] = None,
    *,
    since: Since = None,
    user: User = None,
    project: Project = None,
    tag: Tags = None,
    as_json: Json = False,
) -> None:
    """Print every metered run once, whatever sources tell of it, and what all of them spent.

    "run compute" is the work in a run's final weights, "spent" all it burned, also what a crash
    threw away; both methods and their ratio are over all that was spent.
    """
    from computemeter.commands.runs import Wishes, runs

    wishes = Wishes(since=since, user=user, project=project, tags=tag or ())
    print_result(lambda: runs(sources or (), wishes, as_json=as_json, warn=warn))


def push_command(
    ledgers: Annotated[
        list[str], typer.Argument(metavar="LEDGER", help="A ledger, or a folder of them.")
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="URI", help="sqlite:///FILE, https://HOST (MLflow), wandb://ENTITY/PROJECT, ..."
        ),
    ],
    run_id: Annotated[
        str | None,
        typer.Option(help="The tracker's run; else the ledger's own, or one that is made for it."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the tracker.")
    ] = 600,
) -> None:
    """Send every value of the ledgers, under its own step and time, and the tags of the run.

    It may be repeated: what the tracker has is not stored again. A user name and a password for
    the tracker go into the URI, or into the environment as it wants them.
    """
    from computemeter.commands.push import push

    print_result(
        lambda: push(ledgers, to=to, run_id=run_id, timeout=timeout, say=typer.echo, warn=warn)
    )


def trend_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Ledgers, receipts, CSV files, folders of ledgers or offline W&B runs, and URIs: "
            "sqlite:///FILE, postgresql://..., https://HOST (MLflow), wandb://ENTITY/PROJECT.",
        ),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default="trend.html",
            help="A page (.html) that works with no network, or a picture (.png, .svg).",
        ),
    ] = None,
    since: Since = None,
    user: User = None,
    project: Project = None,
    tag: Tags = None,
    frontier: Annotated[
        str,
        typer.Option(
            help="Which runs are fitted: all, records, top-3 (or another number), "
            "largest-per-month, -quarter or -year.",
        ),
    ] = "largest-per-month",
    include_estimated: Annotated[
        bool,
        typer.Option("--include-estimated", help="Fit also runs that no meter watched."),
    ] = False,
    assume_device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="What unmetered runs ran on that do not say it: 4xA100."
        ),
    ] = None,
    appendix: Annotated[
        bool,
        typer.Option(
            "--appendix", help="Begin with the published results and eras of AI and compute, 2018."
        ),
    ] = False,
    thresholds: Annotated[
        bool, typer.Option("--thresholds", help="Begin with the lines of 1e23, 1e25, 1e26 FLOP.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Published models, a CSV file in the form of Epoch AI's."
        ),
    ] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            show_default="the largest",
            help="Name or id of a run whose loss is drawn against its compute; may be repeated.",
        ),
    ] = None,
    title: Annotated[
        str, typer.Option(help="Of the page or picture.")
    ] = "Compute per training run",
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the runs as a table, too.")
    ] = None,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Bring page and picture to MLflow or W&B, into a run of their own; "
            "repeating it replaces them.",
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            show_default="the first source that is a tracker",
            help="Where to publish: https://HOST or sqlite:///FILE (MLflow), "
            "wandb://ENTITY/PROJECT.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples behind the interval.")] = 0,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Read again only what changed.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Collect runs, fit how fast compute per run grows, and draw it.

    The fit is on the largest run of each month unless --frontier says otherwise; runs that claim
    more than their devices could do are in no fit. Unmetered runs are drawn hollow, by GPU time.
    """
    from computemeter.commands.trend import Wishes, trend

    wishes = Wishes(
        output=output,
        csv=csv,
        as_json=as_json,
        since=since,
        user=user,
        project=project,
        tags=tag or (),
        assume_device=assume_device,
        frontier=frontier,
        include_estimated=include_estimated,
        seed=seed,
        cache=cache,
        appendix=appendix,
        thresholds=thresholds,
        reference=reference,
        curves=curve or (),
        title=title,
        publish=publish,
        to=to,
    )
    print_result(lambda: trend(sources, wishes, warn=warn))
