"""Our methods against the best of all others, in four regimes, on two models: `python -m benchmarks.lead`.

contenders  who takes part: our policies, the peers, fewer steps; each with its ladder and its guards
plans       what is made for a model and a regime before it runs, as `bwcache tune` does
races       one model in one regime: what is run on which videos, kept cell by cell
choice      which settings of a ladder go on from few videos to many
figures     what the results amount to: speeds at a quality, factors, the worst video, the spread over regimes
page        docs/lead.md and its plots, from benchmarks/results/lead.json
"""
