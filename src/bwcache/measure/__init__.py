"""Measuring what a policy does to a pipeline: time, quality, memory, always beside the same pipeline without it.

frames    what a pipeline hands back, as one video of float frames
call      which arguments a pipeline takes, and one measured call of it
seeding   what a call draws at random, from its seed
sizes     which heights, widths and lengths a pipeline can make
latency   seconds spent in the denoiser
quality   PSNR, SSIM, MS-SSIM, LPIPS, VMAF and XPSNR of two videos
lpips     the network of LPIPS, where its weights are on this disk
vmaf      VMAF, XPSNR and VMAF's motion
ffmpeg    the filters of ffmpeg that measure videos
motion    how much a video moves, and which of several are calm
flops     operations of each block of a denoiser
vbench    videos laid out for VBench, its command and its results
compare   the same prompts and noise with and without a policy
results   what that found
load      a pipeline by name, on a device, in a dtype
"""

from bwcache.measure.call import Call, Progress, Request, call
from bwcache.measure.compare import call_cached, compare
from bwcache.measure.latency import DenoiseTimer
from bwcache.measure.load import load_pipeline
from bwcache.measure.quality import Quality, psnr, quality, ssim
from bwcache.measure.results import Comparison, Pair, Run, Total
from bwcache.measure.sizes import check_sizes

__all__ = [
    "Call",
    "Comparison",
    "DenoiseTimer",
    "Pair",
    "Progress",
    "Quality",
    "Request",
    "Run",
    "Total",
    "call",
    "call_cached",
    "check_sizes",
    "compare",
    "load_pipeline",
    "psnr",
    "quality",
    "ssim",
]
