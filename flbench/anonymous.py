"""Take home folders and names of users out of text that is to be shown to others."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path


def without_home(text: str) -> str:
    """Return text on one line with the home folder as `~`."""
    homes: set[str] = set()
    with suppress(RuntimeError):
        homes |= {str(Path.home()), str(Path.home().resolve())}
    for folder in sorted(homes, key=len, reverse=True):
        if len(Path(folder).parts) > 1:  # in a container it may be /
            text = re.sub(re.escape(folder) + r"(?![\w-]|\.\w)", "~", text)
    return " ".join(text.split())


def without_names(text: str) -> str:
    """Return text without home folders, those of other users too, and without the user's name in paths."""
    text = re.sub(r"(?i)([/\\](?:home|users)[/\\])[^/\\\s'\":;,]+", r"\1<user>", without_home(text))
    return re.sub(rf"(?<=[/\\])(?:{'|'.join(_users())})(?=[/\\\s'\":;,]|$)", "<user>", text)


def _users() -> list[str]:
    """Return the names by which the user of this process may stand in a path, escaped for a pattern."""
    names = {os.environ.get(variable, "") for variable in ("USER", "LOGNAME", "USERNAME")}
    with suppress(RuntimeError):
        names.add(Path.home().name)
    return sorted((re.escape(name) for name in names if name), key=len, reverse=True) or [r"(?!)"]
