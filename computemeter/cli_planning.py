"""The command line before a run: options and help of `estimate` and `plan`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from computemeter.cli_output import Json, print_result


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
        print_result(lambda: estimate(wishes, as_json=as_json))
    elif wishes != Wishes():
        raise typer.BadParameter("--examples wants no other option but --json")
    else:
        print_result(lambda: published(as_json=as_json))


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
        str | None,
        typer.Option(
            metavar="N", show_default="3", help="Cost of a training step in forward passes."
        ),
    ] = None,
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
    print_result(lambda: plan(wishes, as_json=as_json))
