"""The command line: options, help and exit codes.

What a command does is in `computemeter.commands`, one module each, imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from computemeter._version import __version__
from computemeter.commands import CommandError

app = typer.Typer(
    name="computemeter",
    help="How much compute training runs used, by two methods, and whether they agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Run the command line; exits with 0, with 1 after an error, with 2 for a wrong option."""
    app(prog_name="computemeter")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"computemeter {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that come before the command."""


@app.command(
    "doctor",
    short_help="What the meter sees and counts on this machine.",
    epilog="Example: computemeter doctor --devices --measure",
)
def doctor_command(
    *,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="List every operator: formula, parts, zero or uncounted."),
    ] = False,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices",
            help="List what PyTorch, JAX, TensorFlow and NVIDIA's driver see; takes seconds.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time large matrix products on PyTorch's device, and compare with its peaks.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print versions, the device with its peaks, and which PyTorch operators have a formula.

    A device of your own, or a better figure, goes into a TOML file in the form of
    computemeter/data/peaks.toml, which the environment variable COMPUTEMETER_PEAKS names.
    """
    from computemeter.commands.doctor import doctor

    _print(lambda: doctor(ops=ops, devices=devices, measure=measure, as_json=as_json))


@app.command(
    "report",
    short_help="What a compute disclosure of a run or a model needs; a block for its model card.",
    epilog="Example: computemeter report checkpoints/last.ckpt --card",
)
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

    if card and (run is None or source or model or planned_steps or form != "md"):
        raise typer.BadParameter("--card wants a receipt, checkpoint or ledger, and only --json")
    if card:
        _print(lambda: model_card(run or "", as_json=as_json))
        return
    chosen: Literal["md", "json"] = "json" if as_json else form
    _print(
        lambda: report(
            run,
            sources=source or (),
            model=model,
            planned_steps=planned_steps,
            cache=cache,
            form=chosen,
        )
    )


@app.command(
    "runs",
    short_help="The runs of a tracker or folder, each with its compute by both methods.",
    epilog="Example: computemeter runs sqlite:///mlflow.db runs/compute_ledger",
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
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Runs from a day on (2026-01-31), or of the last 90d."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="One user's runs.")] = None,
    project: Annotated[str | None, typer.Option(help="One project's runs.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Runs with this tag; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print every run once, whatever sources tell of it, and what all of them spent.

    "run compute" is the work in a run's final weights, "spent" all it burned, also what a crash
    threw away; both methods and their ratio are over all that was spent.
    """
    from computemeter.commands.runs import Wishes, runs

    wishes = Wishes(since=since, user=user, project=project, tags=tag or ())
    _print(lambda: runs(sources or (), wishes, as_json=as_json, warn=_warn))


@app.command(
    "push",
    short_help="Send ledgers to a tracker that was down, or never there.",
    epilog="Example: computemeter push runs/compute_ledger --to http://localhost:5000",
)
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

    _print(lambda: push(ledgers, to=to, run_id=run_id, timeout=timeout, say=typer.echo, warn=_warn))


@app.command(
    "trend",
    short_help="A team's runs over time: the fitted doubling time, on a page or in a picture.",
    epilog="Example: computemeter trend sqlite:///mlflow.db wandb://entity/project -o trend.html",
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
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="Runs from a day on (2026-01-31), or of the last 90d."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="One user's runs.")] = None,
    project: Annotated[str | None, typer.Option(help="One project's runs.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Runs with this tag; may be repeated."),
    ] = None,
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
    _print(lambda: trend(sources, wishes, warn=_warn))


@app.command(
    "estimate",
    short_help="A run's compute by hand: from its operations, its GPU time, or both.",
    epilog="Example: computemeter estimate --add-multiplies 750M --samples 1.2M --epochs 90 "
    "--peak '1.58 TFLOP/s' --devices 2 --time '5.5 days'",
)
def estimate_command(
    *,
    add_multiplies: Annotated[
        str | None,
        typer.Option(metavar="N", help="Method 1: multiply-adds of a forward pass of one example."),
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(metavar="FLOP", help="Instead: the same with adds and multiplies counted."),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(metavar="N", help="Examples in the training set: 1.28M.")
    ] = None,
    epochs: Annotated[str | None, typer.Option(metavar="N", show_default="1")] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="N", help="Method 1 of a language model, 6PD: 3.8B.")
    ] = None,
    active: Annotated[
        str | None,
        typer.Option(metavar="N", help="Of a mixture of experts: parameters active per token."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Trained on, repetitions included: 3.3T.")
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="N", show_default="3", help="Cost of a training step in forward passes."
        ),
    ] = None,
    frozen: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of the operations with frozen weights: 90 %."),
    ] = None,
    frozen_at: Annotated[
        Literal["input", "throughout"] | None,
        typer.Option(
            help="Frozen first layers, which no gradient enters, or frozen throughout, where it "
            "passes through (adapters)."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Method 2: A100, 4xA100 or 4xA100@fp32.")
    ] = None,
    peak: Annotated[
        str | None,
        typer.Option(metavar="FLOP/S", help="Instead: dense peak of one device, 312 TFLOP/s."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="N", show_default="1", help="How many, with --peak."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Training time, in seconds or as 3 h 12 min, 5.5 days."),
    ] = None,
    device_hours: Annotated[
        str | None, typer.Option(metavar="N", help="Instead: hours of all devices together: 200k.")
    ] = None,
    utilization: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            show_default="0.33",
            help="Share of peak that is assumed; 0.17 is usual for CPUs.",
        ),
    ] = None,
    factor: Annotated[
        str | None, typer.Option(metavar="N", help="Anything else that the run multiplies by.")
    ] = None,
    examples: Annotated[
        bool,
        typer.Option(
            "--examples", help="Work the examples of AI and compute, 2018, out; nothing else."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Work out what a run costs, factor by factor, and whether the two methods agree.

    Without a time, a device or peak says how long the operations take on it. Numbers may be
    written 7.72e9, 200k, 3.8B, 3.3T; more in docs/estimate.md.
    """
    from computemeter.commands.estimate import Wishes, estimate
    from computemeter.commands.published import examples as published

    wishes = Wishes(
        add_multiplies=add_multiplies,
        operations=operations,
        samples=samples,
        epochs=epochs,
        parameters=parameters,
        active=active,
        tokens=tokens,
        passes=passes,
        frozen=frozen,
        frozen_at=frozen_at,
        device=device,
        peak=peak,
        devices=devices,
        time=time,
        device_hours=device_hours,
        utilization=utilization,
        factor=factor,
    )
    if not examples:
        _print(lambda: estimate(wishes, as_json=as_json))
    elif wishes != Wishes():
        raise typer.BadParameter("--examples wants no other option but --json")
    else:
        _print(lambda: published(as_json=as_json))


@app.command(
    "plan",
    short_help="How long a training should take, over batch sizes and devices.",
    epilog="Example: computemeter plan --operations 7.72G --samples 1.28M --epochs 90 "
    "--batch '256 8192' --device A100 --count '1 8 64' --network ResNet-50 --plot plan.png",
)
def plan_command(
    *,
    batch: Annotated[
        list[str],
        typer.Option(
            metavar="N", help="Examples of a step, all devices together; several: '256 8192'."
        ),
    ],
    device: Annotated[
        list[str],
        typer.Option(
            metavar="DEVICE",
            help="A100, A100@fp32, cpu (this machine's), or a dense peak: '200 PFLOP/s'; "
            "may be repeated.",
        ),
    ],
    count: Annotated[
        list[str] | None,
        typer.Option(metavar="N", show_default="1", help="How many devices; several: '1 8 64'."),
    ] = None,
    add_multiplies: Annotated[
        str | None,
        typer.Option(metavar="N", help="Multiply-adds of a forward pass of one example."),
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(metavar="FLOP", help="Instead: the same with adds and multiplies counted."),
    ] = None,
    flops_per_sample: Annotated[
        str | None,
        typer.Option(metavar="FLOP", help="Instead: of training on one example, all passes."),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="N", help="Instead: of a language model, for 6PD: 3.8B.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="With --parameters: trained on, repetitions included; a batch is in tokens unless "
            "there are --samples.",
        ),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(metavar="N", help="Examples in the training set: 1.28M.")
    ] = None,
    epochs: Annotated[str, typer.Option(metavar="N")] = "1",
    passes: Annotated[
        str, typer.Option(metavar="N", help="Cost of a training step in forward passes.")
    ] = "3",
    utilization: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            show_default="0.33, of the CPU 0.17",
            help="Share of peak that is assumed.",
        ),
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Found at --base-batch.")
    ] = None,
    base_batch: Annotated[
        str | None,
        typer.Option(metavar="N", show_default="the smallest", help="Where linear scaling starts."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="AlexNet or ResNet-50: of which batch sizes were reported that break accuracy.",
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a picture, too (.png, .svg).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what a training costs, in how many iterations, and how long it should take.

    "ideal" is at the devices' peak, "expected" at the share of it that training is assumed to
    reach. Numbers may be written 7.72e9, 200k, 3.8B, 3.3T. `computemeter.plan` measures a model,
    too; more in docs/plan.md.
    """
    from computemeter.commands.plan import Wishes, plan

    wishes = Wishes(
        batch=batch,
        device=device,
        count=count or ("1",),
        samples=samples,
        epochs=epochs,
        operations=operations,
        add_multiplies=add_multiplies,
        flops_per_sample=flops_per_sample,
        passes=passes,
        parameters=parameters,
        tokens=tokens,
        utilization=utilization,
        learning_rate=learning_rate,
        base_batch=base_batch,
        network=network,
        plot=plot,
    )
    _print(lambda: plan(wishes, as_json=as_json))


def _warn(message: str) -> None:
    from computemeter.table import printable

    typer.echo(f"computemeter: {printable(message)}", err=True)


def _print(command: Callable[[], str]) -> None:
    """Print what a command returns, or its error in one line, and exit with 1."""
    try:
        typer.echo(command())
    except CommandError as error:
        typer.echo(f"computemeter: {error}", err=True)
        raise typer.Exit(1) from None
