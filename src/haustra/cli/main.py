"""The `haustra` program: run a command, and print a user's mistake as one line with exit code 2.

A command is imported when it is called, so that `haustra --help` is fast.
"""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

from cyclopts import (
    App,
    ArgumentCollection,
    CycloptsError,
    Parameter,
    Token,
    ValidationError,
    convert,
)

from haustra import __version__
from haustra.core.errors import HaustraError
from haustra.core.interrupts import Interrupts

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
NOT_OUR_BUG = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # no permission
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),  # the disk
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of files and folders that no check can foresee: others may change them at any time."""
_OUT_OF_MEMORY = os.strerror(errno.ENOMEM)

COMMANDS = {
    "datagen": ("haustra.cli.datagen:datagen", "Simulate colonoscopy captures."),
    "import": ("haustra.cli.importing:app", "Turn a dataset into a run folder."),
    "overlay": ("haustra.cli.overlay:overlay", "Draw a run's labels on its frames."),
    "prune": ("haustra.cli.prune:prune", "Copy captures without unusable and duplicate frames."),
    "etl": ("haustra.cli.etl:etl", "Build the tensor warehouse from captures."),
    "train": ("haustra.cli.train:train", "Train TinyDet or BigDet from a warehouse manifest."),
    "eval": ("haustra.cli.evaluate:evaluate", "Measure a detector on a split."),
    "infer": ("haustra.cli.infer:infer", "Draw boxes on images, a run or a video."),
    "view": ("haustra.cli.view:view", "Show a detector's boxes on a live page."),
    "export": ("haustra.cli.export:export", "Turn a checkpoint into an ONNX model and check it."),
    "convert": ("haustra.cli.convert:convert", "Write labels in another tool's format."),
    "warehouse": ("haustra.cli.warehouse:app", "Verify, explain, compare and export warehouses."),
    "backends": ("haustra.cli.backends:backends", "List the backends of this machine."),
    "info": ("haustra.cli.info:info", "Show the content of a manifest, checkpoint or ONNX model."),
}


def _convert_strictly(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert a flag's value as cyclopts does, but refuse `1.5` for a whole number."""
    takes_whole_numbers = int in getattr(kind, "__args__", (kind,))
    for token in tokens:
        if takes_whole_numbers and "." in token.value:
            raise ValueError(f"{token.value!r} is not a whole number.")
    return convert(kind, tokens)


def _settings_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    from haustra.cli.train import settings_from_file

    settings_from_file(app, commands, arguments)


def _message_of(error: Exception) -> str | None:
    """Return the line that explains an error, or None for a bug."""
    if isinstance(error, HaustraError):
        return error.for_command_line()
    if isinstance(error, CycloptsError):
        return f"{' '.join(str(error).split())} See --help."
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _OUT_OF_MEMORY in str(error):
        what = " ".join(str(error).split()) or "out of memory"
        return f"{what}; close other programs, or raise this one's limit (`ulimit -v`)"
    if isinstance(error, OSError) and number in NOT_OUR_BUG:
        place = error.filename or "a file"
        return f"{place}: {error.strerror}; choose another place or make room there"
    return None


def _run(app: App, arguments: Sequence[str]) -> None:
    """Run a command."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except ValidationError as error:  # cyclopts checks flags by pydantic, whose words are its own
        from haustra.core.checked import check_value

        argument = error.argument
        if argument is None or argument.field_info.annotation is None:
            raise
        check_value(argument.name, argument.value, kind=argument.field_info.annotation)
        raise


def build_app() -> App:
    """Build the command line without importing any command."""
    app = App(
        name="haustra",
        help="Trains polyp detectors from colonoscopy captures and shows what they see. "
        "A research tool, not a medical device.",
        version=__version__,
        default_parameter=Parameter(converter=_convert_strictly),
        suppress_keyboard_interrupt=False,  # `main` handles Ctrl-C
    )
    for position, (name, (target, text)) in enumerate(COMMANDS.items()):
        options: dict[str, Any] = {"config": _settings_from_file} if name == "train" else {}
        app.command(target, name=name, help=text, sort_key=position, **options)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 0, 2 after a user's mistake, or 130 after an interrupt."""
    # OpenCV and its FFmpeg would print their own lines about files that our messages name.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files may have no form in its encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        with Interrupts():
            _run(build_app(), sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        # `haustra ... | head` closed the pipe, so nothing else can be shown.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        sys.exit(0)
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted; files that were complete stay"
        with suppress(OSError):  # the terminal may be closed
            print(f"haustra: {message}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (CycloptsError, HaustraError, MemoryError, OSError) as error:
        if (explanation := _message_of(error)) is None:
            raise
        print(f"haustra: {explanation}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
