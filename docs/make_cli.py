"""Makes docs/cli.md from every command's `--help`; with --check, tells whether it is up to date."""

import os
import subprocess
import sys
from pathlib import Path

from haustra.cli.main import COMMANDS

PAGE = Path(__file__).with_name("cli.md")
SUBCOMMANDS = {
    "import": ("masks", "coco", "yolo", "voc"),
    "warehouse": ("verify", "explain", "diff", "repair", "export", "command", "audit"),
}


def help_text(*command: str) -> str:
    """Return what `haustra COMMAND --help` prints on a terminal 100 columns wide."""
    done = subprocess.run(
        [sys.executable, "-m", "haustra", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def build_page() -> str:
    """Return the page's text."""
    commands: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        commands.append((name,))
        commands += [(name, subcommand) for subcommand in SUBCOMMANDS.get(name, ())]
    parts = ["# Command reference\n\nMade by `make docs` from each command's `--help`.\n"]
    for command in commands:
        title = " ".join(("haustra", *command))
        parts.append(f"## {title}\n\n```text\n{help_text(*command)}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page, or compare it."""
    page = build_page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != page:
            sys.exit("docs/cli.md is out of date; run `make docs`")
        return
    PAGE.write_text(page)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
