"""Our methods against the best of all others, in four regimes, on two models: `python -m benchmarks.lead`.

contenders  who takes part: our policies, the peers, fewer steps; each with its ladder and its guards
plans       what is made for a model and a regime before it runs, as `bwcache tune` does
page        docs/lead.md and its plots, from benchmarks/results/lead.json

How a race is run, and what its results amount to, is `benchmarks.race`.
"""
