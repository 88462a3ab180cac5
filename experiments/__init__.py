"""The paper's experiments on the shapes model, and those it left open: `python -m experiments.NAME`.

One file, one experiment. Each leaves its runs in `experiments/runs/` (resumable, not committed), its figures as JSON
and as a table in `experiments/results/`, and its pictures in `docs/experiments/images/`. What they mean is written in
`docs/experiments/`.
"""
