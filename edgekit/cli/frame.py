"""The frame: declares commands, reads a command line with Typer, calls the command and prints its answer.

The arguments and options of a command are its function's own, as the defaults of parameters; those of `COMMON`, by the
names of parameters without a default; and fields of a job. A command returns its `Answer`, which is printed here, as
JSON with `--json`, and gives the exit code; or one line of text, which is all that it prints.

Stdout carries the result and nothing else; progress and messages go to stderr.
"""

import inspect
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_install_completion_arguments

from edgekit import __version__, api
from edgekit.cli import COMMAND, COMPLETION
from edgekit.cli.compat import Argument, PlainOption, command_path, options_of, subcommands, usage_error
from edgekit.cli.completion import OFFERS
from edgekit.errors import UsageError, as_sentences
from edgekit.job import declarations, fields_with_defaults, kinds
from edgekit.job.kinds import Own, own, spelled
from edgekit.support import progress
from edgekit.support.files import append_text, check_file, replace_text, writing

if TYPE_CHECKING:
    from edgekit.report.page import Block, Line, NextStep

COMMANDS = "Commands"
MORE = "More"
ALIASES = {"device": "devices", "ls": "list", "rm": "remove"}
"""Other names of commands."""
OPTION_PANELS = get_args(kinds.Panel)
"""The panels of options, in the order in which `--help` shows them."""
OUTPUT = OPTION_PANELS[-1]
NEEDED: Any = ...
"""The default of an argument or option that must be given."""
FIELDS = tuple(declarations())
NAMES = (
    "timm name such as convnextv2_atto.fcmae_ft_in1k, torchvision:NAME, open_clip:NAME, hf_hub:USER/MODEL, "
    "module:factory for your own code"
)
"""The names of models, which are known without a file."""
MODELS = f"{NAMES}, or the path of a .onnx file, a checkpoint or a folder that save_pretrained wrote"


def argument(kind: kinds.Kind, help: str, value: Any = NEEDED) -> Any:
    """An argument of a command, as the default of its function's parameter."""
    return Own(value, kinds.Option(None, kind, help))


def model_argument(help: str) -> Any:
    """The argument for a model, or for what stands for one."""
    return argument(kinds.Text(metavar="MODEL"), help)


def _flag(help: str, *flags: str) -> Any:
    return own(OUTPUT, kinds.Flag(), help, value=False, flags=flags)


BUNDLE = argument(kinds.Place(metavar="BUNDLE"), "A bundle folder.")
BUNDLES = argument(
    kinds.Each(kinds.Place(), metavar="BUNDLE"), "Bundle folders, or run folders for all of their bundles."
)
COMMON: Mapping[str, Own] = {
    "junit": own(OUTPUT, kinds.Place(), "JUnit XML file to write, with a test case for each row and gate."),
    "summary": own(OUTPUT, kinds.Place(), "File to append a summary in Markdown to, such as $GITHUB_STEP_SUMMARY."),
    "json_": _flag("Print the result as one JSON document on stdout.", "--json"),
    "quiet": _flag("Show no progress. Warnings are still printed.", "--quiet", "-q"),
    "dry_run": _flag(
        "Check the input and print what the job would make, with memory and sizes. Writes nothing.", "--dry-run"
    ),
}
"""Options of many commands, which follow a command's own, by the names of the parameters that get them."""


class Commands(TyperGroup):
    """A group of commands, which `--help` shows in the order in which they were added."""

    def __init__(self, name: str, help: str, params: Sequence[Any], **more: Any) -> None:
        super().__init__(
            name=name,
            help=inspect.cleandoc(help),
            params=[*params],
            add_help_option=False,
            rich_markup_mode="rich",
            **more,
        )
        self.short_help = _summary(help)

    def get_command(self, context: Any, name: str) -> Any:
        """The command of this name or alias."""
        return super().get_command(context, ALIASES.get(name, name))


def _summary(help: str) -> str:
    """The first paragraph, which shells show whole; Typer would cut it after 45 characters."""
    return help.partition("\n\n")[0]


def _ending(
    flags: tuple[str, ...], meaning: str, panel: str | None, act: Callable[[Any], None], hidden: bool
) -> PlainOption:
    """An option that acts instead of the command."""

    def done(context: Any, option: Any, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            act(context)
            raise typer.Exit

    name = flags[0].strip("-").replace("-", "_")
    return PlainOption(
        name, flags, None, panel, meaning, is_eager=True, expose_value=False, hidden=hidden, callback=done
    )


def of_every_command(panel: str | None) -> list[PlainOption]:
    """The options of the application and of all commands."""
    return [
        _ending(("--version", "-V"), "Print edgekit's version.", panel, _print_version, hidden=panel is not None),
        _ending(("--help", "-h"), "Show this message and exit.", panel, _print_help, hidden=False),
    ]


def _print_version(context: Any) -> None:
    print(f"edgekit {__version__}")


def _print_help(context: Any) -> None:
    print(context.get_help())


def _print_all_help(context: Any) -> None:
    """Print a command's help with the options that `--help` leaves out."""
    left_out = [each for each in context.command.params if each.hidden and each.name != "version"]
    for parameter in left_out:
        parameter.hidden = False
    _print_help(context)
    for parameter in left_out:
        parameter.hidden = True


def _application() -> Commands:
    help_ = """
    Quantize an image classifier to INT8, and measure accuracy and speed on the device that will run it.

    Begin with `edgekit demo`, which brings its own model and images. Then deploy
    your own model with your own images:

      edgekit deploy resnet18 --weights best.pth --data photos

    `edgekit COMMAND -h` lists the options of a command, with examples.
    """
    traceback = PlainOption(
        "traceback",
        (progress.TRACEBACK_OPTION,),
        None,
        None,
        "Print the Python traceback of every error. It may also stand after the command.",
        expose_value=False,  # `main` takes it out of the command line: it is here for the help
    )
    of_typer: Any = get_install_completion_arguments()
    of_completion = [
        PlainOption(each.name, tuple(each.opts), None, None, each.help, callback=each.callback, expose_value=False)
        for each in of_typer
    ]
    version, help_option = of_every_command(None)
    return Commands(
        COMMAND,
        help_,
        [version, traceback, *of_completion, help_option],
        no_args_is_help=True,
        invoke_without_command=True,
    )


app = _application()


def command(
    panel: str | None,
    *names: str,
    of: Callable[..., Any] | None = None,
    group: Commands = app,
    name: str = "",
    defaults: Mapping[str, str] = MappingProxyType({}),
    helps: Mapping[str, str] = MappingProxyType({}),
    shown: Container[str] | None = None,
    advanced: Iterable[str] = (),
    judges: bool = False,
    epilog: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command, with its own options and those of these fields of a job.

    Its parameter `stated`, which it has if there are fields, gets the values that were stated.

    Args:
        panel: title of the panel of `--help` that lists the command.
        names: the fields.
        of: the function of `edgekit.api` that the command calls, whose options it has beside these.
        group: the commands among which it is.
        name: name of the command, if that of the function is another one.
        defaults: defaults in words that are other ones in this command.
        helps: meanings that are other ones in this command.
        shown: the fields that `--help` lists; None for all that aren't advanced.
        advanced: the command's own options that only `--help-all` lists.
        judges: whether it has `--junit` and `--summary`, for its answer's verdict.
        epilog: examples, which follow its help.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        common = {*signature.parameters, *(("junit", "summary") if judges else ())}
        common |= {"json_"} if signature.return_annotation is Answer else set()
        here = api.own_of(function) | {each: option for each, option in COMMON.items() if each in common}
        stated = api.options_of(of) if of else fields_with_defaults(names)
        left_out = {*advanced, "junit", "summary"}
        params: list[Any] = [_parameter(each, option, hidden=each in left_out) for each, option in here.items()]
        for each, option in stated.items():
            hidden = option.option.advanced if shown is None else each not in shown
            params.append(_parameter(each, option, defaults.get(each), helps.get(each), hidden, or_not=True))
        params.sort(key=lambda each: OPTION_PANELS.index(each.rich_help_panel) if each.rich_help_panel else -1)
        if more := sum(each.hidden for each in params):
            meaning = f"Show all options, {more} more, and exit."
            params.append(_ending(("--help-all",), meaning, OUTPUT, _print_all_help, hidden=False))
        help_ = inspect.getdoc(function) or ""
        group.add_command(
            TyperCommand(
                name or function.__name__,
                callback=partial(_run, function, here, stated),
                params=[*params, *of_every_command(OUTPUT)],
                help=help_,
                short_help=_summary(help_),
                epilog=epilog,
                add_help_option=False,
                rich_markup_mode="rich",
                rich_help_panel=panel,
            )
        )
        return function

    return register


def _parameter(
    name: str,
    declared: Own,
    words: str | None = None,
    meaning: str | None = None,
    hidden: bool = False,
    or_not: bool = False,
) -> Argument | PlainOption:
    """Typer's argument or option for a declaration; with `or_not`, a flag has an opposite."""
    option, kind, needed = declared.option, declared.option.kind, declared.value is NEEDED
    is_flag, offer = isinstance(kind, kinds.Flag), OFFERS.get(name)
    if option.panel is None:
        nargs = -1 if isinstance(kind, kinds.Each) else 1
        return Argument(name, str(kind.metavar), option.help, offer, required=needed, nargs=nargs)
    flags = option.flags_of(name)
    if is_flag and or_not:
        flag = flags[0].removeprefix("--no-")
        flags = (f"{flags[0]}/{f'--{flag}' if flag != flags[0] else f'--no-{flag[2:]}'}",)
    speaks_for_itself = not is_flag and not needed and declared.value is not None
    limits = {"min": kind.minimum, "max": kind.maximum} if isinstance(kind, kinds.Number) else {}
    return PlainOption(
        name,
        flags,
        kind.metavar,
        option.panel,
        meaning or option.help,
        (lambda typed: kind.names) if isinstance(kind, kinds.OneOf) else offer,
        default_in_words=words or option.default or (str(declared.value) if speaks_for_itself else ""),
        required=needed,
        hidden=hidden,
        multiple=isinstance(kind, kinds.Names),
        **limits,
    )


@contextmanager
def clean_stdout() -> Iterator[TextIO]:
    """Send whatever libraries print in the block to stderr; yields the real stdout, for the result."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            os.fdopen(os.dup(stdout), "w", encoding="utf-8", errors="surrogateescape") as real,
            redirect_stdout(sys.stderr),
        ):
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def all_pass(rows: Iterable[Any]) -> bool:
    """Whether no row has another verdict."""
    return all(row.verdict == "pass" for row in rows)


@dataclass(frozen=True)
class Answer:
    """What a command found, how it is printed, and whether it passed."""

    document: Any
    """Document that `--json` prints, whose page is printed otherwise."""
    shown: "Iterable[Block] | None" = None
    """What is printed instead of the document's page."""
    steps: "Iterable[NextStep]" = ()
    """The next commands, which follow the text."""
    last: Iterable[str] = ()
    """Lines that follow the next commands."""
    widest: int | None = None
    """Most columns of a line; None for those of a paragraph."""
    passed: bool = True
    """Whether the exit code is 0, and not 1."""
    error: BaseException | None = None
    """Raised when the answer was printed."""

    def show(self, out: TextIO, json_: bool) -> None:
        """Print the document as JSON, or else the text and the next commands."""
        if json_:
            from edgekit.report.document import to_json

            out.write(to_json(self.document))
            return
        from edgekit.report.page import WIDTH, Steps, lines_of, page_of

        page = page_of(self.document) if self.shown is None else self.shown
        width = min(shutil.get_terminal_size().columns, self.widest or WIDTH)
        lines = [*lines_of([*page, Steps(tuple(self.steps)), *self.last], width)]
        if any(line.style for line in lines):
            _print_styled(lines, out)
        else:
            out.writelines(f"{line}\n" for line in lines)


def _print_styled(lines: "Iterable[Line]", out: TextIO) -> None:
    """Lines in their colours, however long they are."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out)
    for line in lines:
        text = Text(line.text)
        text.stylize(line.style, line.start)
        console.print(text, no_wrap=True, crop=False, overflow="ignore")


@dataclass(frozen=True)
class ForPipelines:
    """Files in which a pipeline looks for the result. They are also written if a gate fails."""

    junit: Path | None
    summary: Path | None

    def check(self) -> None:
        """Raise an InputError for a file that can't be written. Writes nothing."""
        check_file("--junit", self.junit)
        check_file("--summary", self.summary)
        if self.junit is not None and self.summary is not None and self.junit.resolve() == self.summary.resolve():
            raise UsageError(f"--junit and --summary are both '{self.junit}'", valid="two different files")

    def write(self, document: Any) -> None:
        """Write the files that the user named, of a document with results. A JUnit file replaces an earlier one."""
        from edgekit.report.formats import junit, summary

        if not hasattr(document, "results"):  # a plan
            return
        if self.junit is not None:
            with writing(self.junit, "--junit"):
                replace_text(self.junit.resolve(), junit(document))
        if self.summary is not None:
            with writing(self.summary, "--summary"):
                append_text(self.summary, summary(document))


def _run(function: Callable[..., Any], here: Mapping[str, Own], fields: Mapping[str, Own], **typed: Any) -> int:
    """Call a command's function with what was typed, print its answer, write its files, and return the exit code."""
    with spelled("flag"):
        values = {name: each.read(name, each.option.stated(typed[name])) for name, each in here.items()}
        stated = {name: each.option.stated(typed[name]) for name, each in fields.items()}
        values["stated"] = {name: value for name, value in stated.items() if value is not None}
        files = ForPipelines(values.get("junit"), values.get("summary"))
        files.check()
        taken = inspect.signature(function).parameters
        with clean_stdout() as out:
            found = function(**{name: value for name, value in values.items() if name in taken})
            answer = found if isinstance(found, Answer) else Answer(None, [found])
            answer.show(out, values.get("json_", False))
    if answer.error:
        raise answer.error
    if files != ForPipelines(None, None):
        files.write(answer.document)
    return 0 if answer.passed else 1


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. EdgekitError and KeyboardInterrupt pass through."""
    if COMPLETION in os.environ:
        return _complete()
    check_not_empty(arguments)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        result = app.main(args=arguments, prog_name=COMMAND, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:  # --show-completion and --install-completion
        return int(ended.code or 0)
    except usage_error() as error:
        if not arguments:  # Typer raises an error that has no message, after the help
            return 0
        raise usage_error_of(error, arguments) from None
    return result if isinstance(result, int) else 0


def _complete() -> int:
    """Print what the shell asks for in the environment. Errors are not shown: they would disturb the user's prompt."""
    try:
        app.main(args=[], prog_name=COMMAND, standalone_mode=False)
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception:  # completion parses half-written commands
        return 1
    return 1


MAY_BE_EMPTY = ("--model-args",)
"""Options for which an empty value means the same as leaving the option out."""
ELSEWHERE = {
    "export": "`edgekit deploy` makes the files",
    "val": "`edgekit evaluate` measures accuracy",
    "predict": "`edgekit classify` classifies images",
    "search": "`edgekit classify BUNDLE IMAGE --data FOLDER` finds similar images",
    "run": "`edgekit deploy` runs a job",
    "init": "`edgekit demo` needs no preparation",
    "list": "`edgekit devices list` lists devices, and `edgekit targets` runtimes and recipes",
    "version": "`edgekit --version` prints the version",
    "--format": "Choose a runtime with `--target`",
    "--int8": "Choose INT8 alone with `--precision int8`",
    "--batch": "edgekit runs one image at a time; `edgekit benchmark --streams N` runs several side by side",
    "--checkpoint": "Name the checkpoint with `--weights`",
    "--num-classes": "The checkpoint states it; for random weights, add `--model-args num_classes=N`",
    "--calib": "Name the calibration images with `--calibration-data`",
    "--verbose": "`edgekit --traceback COMMAND` shows more of an error",
    "-v": "`edgekit --traceback COMMAND` shows more of an error, and `edgekit --version` prints the version",
    "--resume": "The same command resumes without an option",
    "--device": "DEVICE stands without an option, as in `edgekit doctor pi5`",
    "--model": "MODEL comes first, without an option",
    "--help-all": "`edgekit COMMAND --help-all` lists all options of a command",
}
"""What edgekit has for commands and options of other tools."""


def usage_error_of(error: Any, arguments: Sequence[str]) -> UsageError:
    """edgekit's error for a usage error that Typer raised on these arguments."""
    path = command_path(error) or (f"{COMMAND} {arguments[0]}" if arguments[0] in app.commands else COMMAND)
    message, question, nearest = error.format_message().rstrip(".").partition(". Did you mean ")
    if hint := elsewhere(message, error):
        message = message.partition(" (Possible")[0]
    elif question:
        hint = f"Did you mean {nearest}"
    return UsageError(
        f"{message[:1].lower()}{message[1:]} in `{shlex.join([COMMAND, *arguments])}`",
        valid=", ".join(subcommands(error)),
        fix=as_sentences(hint, f"Run `{path} --help` for the usage"),
    )


def elsewhere(message: str, error: Any) -> str:
    """What edgekit has for an unknown command or option, if that takes no option that the command lacks."""
    unknown = re.search("such (?:command '|option: )([^' ]+)", message)
    hint = ELSEWHERE.get(unknown[1], "") if unknown else ""
    return hint if set(re.findall("`(--[a-z-]+)", hint)) <= options_of(error) else ""


def check_not_empty(arguments: Sequence[str]) -> None:
    """Raise UsageError for an empty argument or value, such as "" or --output=: a path would become the current folder.

    Shell variables that are not set are the usual cause.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if not equals or value or option in MAY_BE_EMPTY:
            continue
        name = option if option.startswith("-") else "an argument"
        raise UsageError(
            f"{name} is empty in `{shlex.join([COMMAND, *arguments])}`",
            valid="text that is not empty",
            fix="Check whether a shell variable is unset, or leave the option out",
        )
