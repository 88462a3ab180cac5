"""What a person sees of a comparison: tables, pictures, videos, files. All of it is made from traces and results.

tables        the figures of a comparison, side by side
timeline      which steps were reused, and why, in words
plots         the indicator over the steps
pictures      frames, labels, amplified differences, the storyboard
videos        H.264 files
bench         every method in one picture
heatmaps      changes by block and step, curves with their spread, where the time goes
profiles      a profile in tables, sentences and files
files         what each file of an output folder is called, and what is in it
html          all of it on one page that opens from disk
timeline_svg  what the page draws itself, one column per step
sections      what the page shows of a profile, a sweep and a bench
"""

from bwcache.report.files import write_generated, write_run, write_summary
from bwcache.report.pictures import difference, save_storyboard, storyboard
from bwcache.report.plots import plot_similarity
from bwcache.report.tables import comparison_table, headline
from bwcache.report.timeline import legend, reasons, timeline
from bwcache.report.videos import write_video

__all__ = [
    "comparison_table",
    "difference",
    "headline",
    "legend",
    "plot_similarity",
    "reasons",
    "save_storyboard",
    "storyboard",
    "timeline",
    "write_generated",
    "write_run",
    "write_summary",
    "write_video",
]
