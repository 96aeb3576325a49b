"""The state of the feed: one value that every page and `/status` show."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from haustra.core.errors import HaustraError

STALLED_AFTER_S = 1.0  # time without a frame that was due, after which nothing is called live
MAX_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class FeedState:
    """The activity of the feed at a moment."""

    kind: Literal["playing", "paused", "stalled", "reconnecting", "ended", "failed"]
    seconds: int | None = None  # whole seconds without a frame, while stalled
    attempt: int | None = None  # number of the next attempt to open the source again, from 1
    next_try_s: int | None = None  # whole seconds until that attempt
    why: str | None = None  # reason in one line, if there is one

    def to_json(self, *, is_live: bool) -> dict[str, Any]:
        """Return the fields, and the line that a page shows, as JSON values."""
        if self.kind == "stalled":
            text = f"no frame for {self.seconds} s"
        elif self.kind == "reconnecting":
            wait = f"in {self.next_try_s} s" if self.next_try_s else "now"
            text = f"reconnecting, attempt {self.attempt} {wait}"
        else:
            text = "live" if self.kind == "playing" and is_live else self.kind
        text += f": {self.why}" if self.why else ""
        values = asdict(self)
        return {"state": values.pop("kind"), "text": text, "live": is_live, **values}


def in_one_line(error: Exception) -> str:
    """Return an error as one line for a page."""
    if isinstance(error, HaustraError):
        return error.for_command_line()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())[:MAX_CHARACTERS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
