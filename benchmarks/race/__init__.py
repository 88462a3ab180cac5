"""Methods against each other, on one model in one regime: what `benchmarks.lead` and `benchmarks.league` share.

race        what is run on which videos, kept cell by cell: whole ladders on few videos, good settings on many
command     what the commands of races have in common
contender   who takes part: a ladder of settings, and what it runs whatever came out
choice      which settings of a ladder go on from few videos to many
rows        what came out, as it is written into the results
figures     what the results amount to: speeds at a quality, factors, the worst video, the spread over regimes
plot        the fronts as pictures
words       speeds in words
"""
