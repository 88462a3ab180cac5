"""``python -m bwcache`` is the command ``bwcache``."""

from bwcache.cli import main

main()
