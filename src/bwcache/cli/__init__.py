"""The command ``bwcache``: read options, check them, call measure and report, print.

app        the command and its errors: one line on stderr, exit code 2; 130 after Ctrl-C
settings   every option, once
choices    what the options amount to: prompts, policy, sizes
output     a folder that appears whole or not at all
progress   bars for loading, sampling and decoding
compare    ``bwcache compare``
generate   ``bwcache generate``
models     ``bwcache models``
vbench     ``bwcache vbench``
studies    what the commands share that can be stopped and go on
grids      the settings that a sweep tries, from words
sweep      ``bwcache sweep``
profile    ``bwcache profile``
bench      ``bwcache bench``
"""

from bwcache.cli.app import main

__all__ = ["main"]
