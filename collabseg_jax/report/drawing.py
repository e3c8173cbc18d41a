"""What all pictures share: none of them may end a run, and a name is only text."""

from collections.abc import Callable
from pathlib import Path


def attempt(path: Path, draw: Callable[[Path], None]) -> str:
    """Draw a picture if it can be drawn.

    Args:
      path: of the picture.
      draw: a function that draws and saves it there.

    Returns:
      "", or one line that says why there is no picture.
    """
    try:
        draw(path)
    except Exception as error:  # whatever a font, a name or a disk leads to; results stand
        lines = str(error).strip().splitlines() or [""]
        return f"{path}: no picture: {type(error).__name__}: {lines[0][:200]}"
    return ""


def plain(text: str) -> str:
    """A name as matplotlib shows it letter by letter.

    Dollar signs would begin a formula, and a legend leaves out labels that begin with `_`.

    Example:
      >>> plain("US$ and EUR$"), plain("_background_")
      ('US\\\\$ and EUR\\\\$', ' _background_')
    """
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
