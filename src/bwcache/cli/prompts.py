"""The texts that videos are made of: from options, from a file, or the model's own."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from bwcache.errors import SettingError, complaint


def read_prompts(prompt: list[str], file: Path | None, default: tuple[str, ...], model: str) -> tuple[str, ...]:
    """Return the prompts.

    Args:
        prompt: of the options.
        file: with one prompt per line.
        default: the model's own.
        model: its name.

    Raises:
        SettingError: there is none, or one that is no text.
    """
    if prompt and file is not None:
        raise _refused("both --prompt and --prompts", "one of them", "leave one out")
    if file is not None:
        return _of_file(file)
    if any(not text.strip() for text in prompt):
        raise _refused("an empty --prompt", "a text", "describe the video")
    if not prompt and not default:
        raise _refused(f"no prompt for {model!r}", "--prompt or --prompts", "describe the video")
    return tuple(check_text(text.strip(), "--prompt") for text in prompt) or default


def check_text(text: str, where: str) -> str:
    """Return the text.

    Raises:
        SettingError: it has a control character, or one that UTF-8 cannot write.
    """
    if text.isprintable():
        return text
    kinds = {letter: unicodedata.category(letter) for letter in text if letter not in "\t\n"}
    strange = next((letter for letter, kind in kinds.items() if kind in ("Cc", "Cs")), None)
    if strange is not None:
        raise _refused(f"the control character {strange!r} in {where}", "text", "take it out")
    return text


def _of_file(file: Path) -> tuple[str, ...]:
    name = repr(str(file))
    try:
        lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        found = f"prompt file {name} that cannot be read ({error.strerror})"
        raise _refused(found, "a text file with one prompt per line", "name such a file") from error
    texts = (_of_line(line, f"line {number} of {name}") for number, line in enumerate(lines, start=1))
    prompts = tuple(text for text in texts if text)
    if not prompts:
        raise _refused(f"no prompt in {name}", "one prompt per line", "write at least one into the file")
    return prompts


def _of_line(line: bytes, where: str) -> str:
    """The prompt in a line; "" where there is none."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _refused(f"{where} that is not UTF-8 text", "one prompt per line", "save the file as UTF-8") from error
    return "" if text.startswith("#") else check_text(text, where)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
