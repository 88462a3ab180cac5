"""``python -m bwcache`` is the command ``bwcache``."""

from bwcache.cli import main

if __name__ == "__main__":
    main()
