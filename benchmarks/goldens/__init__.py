"""Goldens: what the engine decides and what comes out, bit for bit, on everything that the tests can build.

`python -m benchmarks.goldens record FILE [--quick]` writes them, `python -m benchmarks.goldens compare OLD NEW` says
what differs. They judge a change of the engine that must not change what it does: record on the code before, record on
the code after, compare. Bits depend on the machine and on torch, so a file of goldens is only good where it was made,
and is not kept in the repository.
"""
