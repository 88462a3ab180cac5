"""All caching methods against each other, natively and by other libraries: `python -m benchmarks.league`.

ladders     every policy's ladder of settings, from the published ones, each with its source
contenders  who takes part: the ladders between guards, the other libraries' own implementations, fewer steps
facts       of a method, that no run tells: lines of code, when it waits
taken_over  what the page of ours and peers has of the same videos
words       exchanges of one idea, published orders, ours beside theirs: two methods on the same videos
summary     what follows from it all, in sentences
times       speed by time, and how often the device is waited for, of each method's setting near 35 dB
page        docs/league.md and its plots, from benchmarks/results/league.json

How a race is run, and what its results amount to, is `benchmarks.race`.
"""
