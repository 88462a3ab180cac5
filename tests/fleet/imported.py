"""What every worker of a test needs: imported once, by the process that all of them are copies of."""

import diffusers
import matplotlib.pyplot
import transformers

import bwcache.cli.app
import bwcache.cli.many
import bwcache.report.files
import bwcache.study.study

NEEDED = (diffusers.WanPipeline, transformers.AutoTokenizer, matplotlib.pyplot, bwcache.cli.app, bwcache.cli.many)
