"""Reads the pages for users: their blocks of code, their commands, their links and headings."""

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from pydoc import locate

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
SHELL = ("", "sh", "shell", "bash", "console")
"""Languages of a block of commands; "" is an indented block, and a fence that names none."""

_PARSER = MarkdownIt("commonmark").enable("table")
_CONTAINER = re.compile(r'(===|!!!|\?\?\?)\+? *["\w]')  # a tab or a note: its text is indented
_OBJECT = re.compile(r"::: ([\w.]+)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_PROGRAMS = ("computemeter", "make", "pip", "python", "torchrun", "mlflow", "wandb", "export")


@dataclass(frozen=True, slots=True)
class Part:
    """A block of code, a piece of code in a line, a link or a heading.

    Attributes:
        page: file it is in.
        line: its first line there, from 1.
        kind: "block", "code", "link", "heading", or "object" for one that mkdocstrings describes.
        text: of a link, where it leads; of an object, its full name.
        language: of a block, as its fence says.
    """

    page: Path
    line: int
    kind: str
    text: str
    language: str = ""

    @property
    def place(self) -> str:
        """Page and line, as editors take them."""
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command line of a page, and what the page shows beneath it as its output."""

    place: str
    words: tuple[str, ...]
    shown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The command in one line."""
        return " ".join(self.words)

    @property
    def program(self) -> str:
        """Its first word after any NAME=value; "export" where there is no other."""
        return next((word for word in self.words if not _ASSIGNMENT.match(word)), "export")

    @property
    def arguments(self) -> list[str]:
        """The words after the program's name."""
        begin = self.words.index(self.program) if self.program in self.words else len(self.words)
        return list(self.words[begin + 1 :])


class DocumentError(AssertionError):
    """A page says what is not so; the message begins with page and line."""


def parts(page: Path) -> list[Part]:
    """Return all parts of a page, in their order."""
    return list(_parts(page, page.read_text("utf-8"), first=1))


def _parts(page: Path, text: str, first: int) -> Iterator[Part]:
    before = ""
    for at, token in enumerate(tokens := _PARSER.parse(text)):
        line = first + (token.map[0] if token.map else 0)
        if token.type == "fence":
            language = re.match(r"\W*(\w*)", token.info)[1]
            yield Part(page, line + 1, "block", token.content, language)
        elif token.type == "code_block" and _CONTAINER.match(before):
            yield from _parts(page, token.content, line)
        elif token.type == "code_block":
            yield Part(page, line, "block", token.content)
        elif token.type == "inline":
            if at and tokens[at - 1].type == "heading_open":
                yield Part(page, line, "heading", _plain(token))
            elif found := _OBJECT.match(token.content):
                yield Part(page, line, "object", found[1])
            yield from _inline(page, token, line)
            before = token.content


def _inline(page: Path, token: Token, line: int) -> Iterator[Part]:
    kinds = {"code_inline": "code", "link_open": "link", "image": "link"}
    for child in token.children or ():
        if child.type in {"softbreak", "hardbreak"}:
            line += 1
        elif kind := kinds.get(child.type):
            target = child.attrs.get("href", child.attrs.get("src", ""))
            yield Part(page, line, kind, str(target) if kind == "link" else child.content)


def _plain(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def commands(block: Part) -> list[Command]:
    """Return the commands of a block of a shell language.

    A line that begins with no program that is known here is output of the command above it. Where
    some lines begin with a prompt, "$ ", these alone are commands.

    Raises:
        DocumentError: the block does not begin with a command.
    """
    found: list[Command] = []
    prompt = any(line.startswith("$ ") for line in block.text.splitlines())
    for line, text in _whole_lines(block):
        words = _words(text.removeprefix("$ ")) if text.startswith("$ ") or not prompt else ()
        command = Command(replace(block, line=line).place, words)
        if words and command.program in _PROGRAMS:
            found.append(command)
        elif text.strip() and not text.lstrip().startswith("# "):
            if not found:
                raise DocumentError(f"{replace(block, line=line).place}: no command: {text}")
            found[-1] = replace(found[-1], shown=(*found[-1].shown, text))
    return found


def _whole_lines(block: Part) -> Iterator[tuple[int, str]]:
    r"""Yield each line with its number; lines that end in "\" with those that go on."""
    whole, begun = "", block.line
    for line, text in enumerate(block.text.splitlines(), block.line):
        begun = begun if whole else line
        whole += text.removesuffix("\\")
        if not text.endswith("\\"):
            yield begun, whole
            whole = ""


def _words(text: str) -> tuple[str, ...]:
    """Split a line as a shell does; what comes after ">" or "|" is left out."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # an apostrophe in a line of output
        return ()
    ends = [at for at, word in enumerate(words) if word in {">", ">>", "|", "&&"}]
    return tuple(words[: ends[0]] if ends else words)


def command_of(part: Part) -> Command | None:
    """Return the command that a piece of code in a sentence names; None where it names none."""
    words = _words(part.text)
    known = len(words) > 1 and words[0] in _PROGRAMS
    return Command(part.place, words) if known else None


def slug(heading: str) -> str:
    """Return what a heading's address ends in, as MkDocs makes it.

    >>> slug("W&B: whose rows the values are in")
    'wb-whose-rows-the-values-are-in'
    """
    kept = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def check_link(link: Part) -> None:
    """See whether a link within the repository leads somewhere.

    Raises:
        DocumentError: there is no such file, or no such heading in it.
    """
    if re.match(r"\w+:", link.text):
        return
    name, _, anchor = link.text.partition("#")
    target = (link.page.parent / name).resolve() if name else link.page
    if not target.exists():
        raise DocumentError(f"{link.place}: no such file: {link.text}")
    if anchor and not _has_anchor(target, anchor):
        raise DocumentError(f"{link.place}: no such heading: {link.text}")


def _has_anchor(page: Path, anchor: str) -> bool:
    found = parts(page)
    headings = {slug(part.text) for part in found if part.kind == "heading"}
    objects = [part.text for part in found if part.kind == "object"]
    described = anchor in objects or anchor.startswith(tuple(f"{name}." for name in objects))
    return anchor in headings or (described and locate(anchor) is not None)


def run(block: Part, namespace: dict) -> str:
    """Run a block of Python in a namespace; returns what it prints.

    Raises:
        DocumentError: it raises something; says at which line of the page, and what.
    """
    where, printed = str(block.page), StringIO()
    try:
        # Empty lines before it, so that a traceback shows the page's own lines.
        code = compile("\n" * (block.line - 1) + block.text, where, "exec", dont_inherit=True)
        with redirect_stdout(printed):
            exec(code, namespace)  # noqa: S102 - the pages are our own
    except (Exception, SystemExit) as error:
        line = _line_in(where, error) or block.line
        told = f"{replace(block, line=line).place}: {type(error).__name__}: {error}"
        raise DocumentError(told) from error
    return printed.getvalue()


def check_output(shown: Part, printed: str) -> None:
    """See whether a block that a page shows as output was printed; "..." stands for anything.

    Raises:
        DocumentError: it was not.
    """
    pattern = re.escape(" ".join(shown.text.split())).replace(r"\.\.\.", ".*")
    if not re.search(pattern, " ".join(printed.split())):
        raise DocumentError(f"{shown.place}: it does not print this, but: {printed}")


def check_sentence(shown: Part, printed: str) -> None:
    """See whether a verdict that a page shows is worded as the one printed, numbers apart.

    Another machine, or a busier one, may come to another verdict: that is no fault of the page.

    Raises:
        DocumentError: verdict and cause are the same, and the words are not.
    """
    told, said = _words_alone(shown.text), _words_alone(printed)
    if _verdict(told) == _verdict(said) and told != said:
        raise DocumentError(f"{shown.place}: the sentence is: {printed}")


def _words_alone(text: str) -> str:
    number = r"\d(?:[\d,.]*\d)?(?:e[+-]\d+)?(?: [KMGTP]?FLOP| m?s\b)?"
    return re.sub(number, "#", " ".join(text.split()))


def _verdict(sentence: str) -> list[str]:
    return sentence.split(", ")[:2]


def _line_in(page: str, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == page:
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == page:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
