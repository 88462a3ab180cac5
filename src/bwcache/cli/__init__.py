"""The command ``bwcache``: read options, check them, call measure and report, print.

app        the command and its errors: one line on stderr, exit code 2; 130 after Ctrl-C
settings   every option, once
choices    what the options amount to, checked against the model without its weights
prompts    the texts, from options or a file
sets       `--set NAME=VALUE`: of the policy, or of the pipeline
output     a folder that appears whole or not at all
progress   bars for loading, sampling and decoding
compare    ``bwcache compare``
generate   ``bwcache generate``
many       ``bwcache generate --prompts``
rows       what a row of a prompt file asks for
making     makes the rows, and says what becomes of them
serve      ``bwcache serve``
on_ray     `--ray`: its address
orders     what a request to it asks for
models     ``bwcache models``
vbench     ``bwcache vbench``
studies    what the commands share that can be stopped and go on
grids      the settings that a sweep tries, from words
sweep      ``bwcache sweep``
profile    ``bwcache profile``
bench      ``bwcache bench``
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bwcache.errors import MissingExtraError
from bwcache.extras import need

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; ``arguments`` are those of the process when not given."""
    try:
        need("cli")
    except MissingExtraError as error:
        print(f"bwcache: {error}", file=sys.stderr)
        sys.exit(2)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else some write five lines whenever ffmpeg is started
    from bwcache.cli.app import main as run

    run(arguments)
