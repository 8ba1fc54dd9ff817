"""Where a run's numbers go besides the ledger: what a sink is and how sinks are found.

A sink is a lossy mirror of the ledger in one tracker. It must never raise for a tracker's sake and
never block: `log` and `tag` only queue. Sinks are found through the entry-point group
`computemeter.sinks`; each entry is a function `attach(context) -> Sink | None`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, Protocol, TypeAlias, runtime_checkable

_LOG = logging.getLogger("computemeter")

ENTRY_POINT_GROUP = "computemeter.sinks"

# Loggers whose run a sink writes to. Matched by class name: importing either tracker to compare
# classes would cost seconds, and both Lightning namespaces have their own class.
_LOGGERS_OF_SINKS = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}

# Up to the last "@" of the word: a password may hold ":", "/" and "@", and hiding too much of a
# message is the cheaper mistake.
_USER_AND_PASSWORD = re.compile(r"(?<=://)(?:[^\s/:@]*:\S*|[^\s/@]+)@")
# By the end of a name: `client_secret` and `WANDB_API_KEY` are found, and `tokens` is not. What is
# also a word in a sentence ("forward pass: 3 ms") is taken with "=" alone.
_SECRET_VALUE = re.compile(
    r"""(?ix)
    (?P<name>
        (?: pass(?:word|wd|phrase) | pwd | token | secret
            | (?:api|access|account|private|secret|shared) [-_]? key
        ) ["']? [ \t]* (?: =+ | %3D | : (?!//) ) [ \t]*
        | (?: (?: (?<![a-z]) | (?<=%[0-9a-f]{2}) ) (?:pass|sig)
            | signature | credential
        ) (?: = | %3D )
        | authorization ["']? [ \t]* [:=] [ \t]* ["']? (?:(?:basic|bearer|digest|token)[ \t]+)?
    )
    (?P<quote> ["'] )?
    (?(quote) (?: \\. | (?!(?P=quote)). )+ | [^\s&'"]+ )
    """
)
_LONGEST_ERROR = 300
_LONGEST_LINE = 120


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a sink may look at to find its run.

    Attributes:
        loggers: the Trainer's loggers; none in a plain loop.
        warn: takes one line for the user; sinks also call it from their own threads.
    """

    loggers: tuple[object, ...] = ()
    warn: Callable[[str], None] = lambda _message: None


@runtime_checkable
class Sink(Protocol):
    """A tracker's run, as the meter sees it."""

    name: str
    run_id: str

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """Queue values for one step.

        Args:
            metrics: values by name; a tracker that takes no NaN wants `finite` of them.
            step: the tracker's step.
            time: seconds since the epoch; the same in every record of the step.
        """

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue facts about the run; keys without the `computemeter.` prefix."""

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; return how much was not delivered."""


Trackers: TypeAlias = Literal["auto"] | tuple[str | Sink, ...]
"""What `validate_trackers` makes of the option: "auto", or the names and sinks asked for."""


def sink_name_of(logger: object) -> str | None:
    """Name the sink that writes to this logger's run; None for any other logger."""
    for cls in type(logger).__mro__:
        if name := _LOGGERS_OF_SINKS.get(cls.__name__):
            return name
    return None


def validate_trackers(trackers: str | Iterable[str | Sink] | None) -> Trackers:
    """Check the option `trackers` before a run begins.

    Args:
        trackers: "auto", None for none, or names of installed sinks and ready-made sinks.

    Returns:
        "auto" or a tuple, which may be given to `attach_all` any number of times.

    Raises:
        ValueError: for a name that no installed sink has.
        TypeError: for anything that is neither a name nor a sink.
    """
    if trackers is None:
        return ()
    if isinstance(trackers, str):
        return _only_auto(trackers)
    if not isinstance(trackers, Iterable):
        raise TypeError(f"trackers={trackers!r}: {_accepted()}")
    items = tuple(trackers)
    for item in items:
        _check_item(item)
    return items


def attach_all(trackers: str | Iterable[str | Sink] | None, context: RunContext) -> list[Sink]:
    """Attach the sinks that `trackers` asks for; a sink that fails is warned of and left out.

    Args:
        trackers: "auto" for every installed sink that finds a run, None for none, else names of
            sinks and ready-made `Sink` objects.
        context: what the sinks may look at.

    Raises:
        ValueError: for a name that no installed sink has.
        TypeError: for anything that is neither a name nor a sink.
    """
    wanted = validate_trackers(trackers)
    items = () if wanted == "auto" else wanted
    ready = [item for item in items if not isinstance(item, str)]
    names = None if wanted == "auto" else {item for item in items if isinstance(item, str)}
    attached = (_attach(point, context, asked_for=names is not None) for point in _entries(names))
    # A sink given twice, by name and ready-made, would log every value twice.
    sinks: dict[tuple[str, str], Sink] = {}
    for sink in [*ready, *(sink for sink in attached if sink is not None)]:
        sinks.setdefault((sink.name, sink.run_id), sink)
    return list(sinks.values())


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what no tracker stores as it is: NaN and the infinities."""
    return {name: float(value) for name, value in metrics.items() if _is_finite(value)}


def log_warning(message: str) -> None:
    """Warn the user in one line.

    Not through `warnings.warn`: under `-W error` that would raise into the user's training.
    """
    _LOG.warning("computemeter: %s (training goes on)", message)


def redact(text: str) -> str:
    """Hide the credentials in a text: of URIs, in parameters, settings and headers.

    >>> redact("cannot reach http://ann:s3cret@host:5000/api")
    'cannot reach http://***@host:5000/api'
    """
    return _SECRET_VALUE.sub(r"\g<name>\g<quote>***", _USER_AND_PASSWORD.sub("***@", text))


def describe(error: BaseException, *, lines: int | None = None) -> str:
    r"""Write an error as one short line without credentials.

    >>> describe(ValueError("bad\n  value"))
    'ValueError: bad value'

    Args:
        error: whatever was raised.
        lines: of its message that are taken; None for all.
    """
    try:
        text = redact(" ".join(" ".join(str(error).strip().splitlines()[:lines]).split()))
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not add another
        text = "(it has no readable message)"
    shown = text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "..."
    return f"{type(error).__name__}: {shown}"


def describe_outage(error: BaseException) -> str:
    """Say in a few words why something could not be reached, whatever layers told of it.

    >>> describe_outage(ConnectionRefusedError(111, "Connection refused"))
    'connection refused'
    """
    root = root_of(error)
    if isinstance(root, TimeoutError):
        return "timed out"
    if not isinstance(root, OSError):
        text = describe(error, lines=1)
    elif isinstance(root.strerror, str) and root.strerror and root.filename is None:
        text = redact(root.strerror[0].lower() + root.strerror[1:])
    else:
        text = describe(root, lines=1)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."


def root_of(error: BaseException) -> BaseException:
    """Return what it began with: "Connection refused" says more than three layers around it."""
    met = {id(error), id(None)}  # `raise error from error` makes a circle
    while True:
        below = (error.__cause__, error.__context__)
        cause = next((each for each in below if id(each) not in met), None)
        if cause is None:
            return error
        met.add(id(cause))
        error = cause


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _only_auto(trackers: str) -> Literal["auto"]:
    if trackers == "auto":
        return "auto"
    raise ValueError(f"trackers={trackers!r}: {_accepted()}")


def _check_item(item: object) -> None:
    if isinstance(item, str):
        if item not in _installed():
            raise ValueError(f"trackers: no sink is named {item!r}; {_accepted()}")
    elif not isinstance(item, Sink) or isinstance(item, type):
        raise TypeError(f"trackers: {item!r} is neither a name nor a sink; {_accepted()}")


def _accepted() -> str:
    names = ", ".join(repr(name) for name in sorted(_installed())) or "none is installed"
    return f'accepted are "auto", None, or a list of Sink objects and names of sinks ({names})'


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _entries(names: set[str] | None) -> Iterator[EntryPoint]:
    """Yield the installed sinks of these names, all of them for None, in a fixed order."""
    for name, point in sorted(_installed().items()):
        if names is None or name in names:
            yield point


def _attach(point: EntryPoint, context: RunContext, *, asked_for: bool) -> Sink | None:
    try:
        sink = point.load()(context)
    except Exception as error:  # noqa: BLE001 - a tracker's trouble is never the training's
        context.warn(f"the sink {point.name!r} could not attach: {describe(error)}")
        return None
    if isinstance(sink, Sink):
        return sink
    # With "auto" it is nobody's surprise that no run of this tracker is open.
    if asked_for or sink is not None:
        context.warn(f"the sink {point.name!r} found no run to write to")
    return None
