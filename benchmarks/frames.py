"""How much of the engine's code one forward goes through: `python -m benchmarks.frames` prints a table.

On the shapes model, guidance in two forwards: of every forward of a run, how many Python frames of `src/bwcache` are
entered and in how many files they lie. A forward is all from the end of the one before it to its own end, so that what
listens to the pipeline between them counts too. The first two steps, which set up, are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any

import torch
import typer

import bwcache
from benchmarks.common import captions, load, publish
from bwcache import shapes

PACKAGE = str(Path(str(bwcache.__file__)).parent)
POLICIES: dict[str, bwcache.Policy[Any]] = {
    "BWCache()": bwcache.BWCache(),
    "Adaptive()": bwcache.Adaptive(),
    "BWCache(threshold=0)": bwcache.BWCache(threshold=0),
}
SET_UP = 2


@dataclass
class Entered:
    """The frames of this package that one forward entered: how often each function."""

    functions: dict[CodeType, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """How many frames."""
        return sum(self.functions.values())

    @property
    def files(self) -> int:
        """In how many files."""
        return len({code.co_filename for code in self.functions})


@contextmanager
def profiled(module: Any) -> Iterator[list[Entered]]:
    """Fills the list with what each forward of a module entered, while the context is open."""
    found: list[Entered] = []
    open_now = Entered()

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            open_now.functions[code] = open_now.functions.get(code, 0) + 1
        elif event == "return" and code.co_name == "_wrapped_call_impl" and frame.f_locals.get("self") is module:
            found.append(Entered(dict(open_now.functions)))
            open_now.functions.clear()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)


def forwards(pipe: Any, policy: bwcache.Policy[Any], prompt: str, steps: int) -> list[tuple[str, Entered]]:
    """Of each forward after the first two steps: whether its blocks were computed or reused, and what it entered."""
    with ExitStack() as undo:
        session = undo.enter_context(bwcache.attach(pipe, policy))
        found = undo.enter_context(profiled(pipe.transformer))
        generator = torch.Generator().manual_seed(0)
        size = {"height": shapes.HEIGHT, "width": shapes.WIDTH, "num_frames": shapes.FRAMES}
        guidance = {"guidance_scale": shapes.GUIDANCE_SCALE, "output_type": "latent"}
        pipe(prompt, num_inference_steps=steps, generator=generator, **size, **guidance)
    events = session.trace.events
    return [(event.action, entered) for event, entered in zip(events, found, strict=True) if event.step >= SET_UP]


def figures_of(run: list[tuple[str, Entered]]) -> dict[str, Any]:
    """Of computed and of reused forwards: calls and files, the least and the most."""
    figures: dict[str, Any] = {}
    for action in ("compute", "reuse"):
        some = [entered for done, entered in run if done == action]
        if some:
            figures[action] = {
                "forwards": len(some),
                "calls": [min(each.calls for each in some), max(each.calls for each in some)],
                "files": [min(each.files for each in some), max(each.files for each in some)],
                "functions": max(len(each.functions) for each in some),
            }
    return figures


def table(figures: dict[str, dict[str, Any]]) -> str:
    """One line per policy and action."""
    lines = [f"{'policy':22} {'forwards':>16} {'frames':>12} {'files':>8} {'functions':>10}"]
    for policy, actions in figures.items():
        for action, one in actions.items():
            kind = f"{one['forwards']} {'computed' if action == 'compute' else 'reused'}"
            calls, files = ("-".join(map(str, sorted(set(one[name])))) for name in ("calls", "files"))
            lines.append(f"{policy:22} {kind:>16} {calls:>12} {files:>8} {one['functions']:>10}")
    return "\n".join(lines)


def names(entered: Entered) -> str:
    """The functions that a forward entered, by file, with how often."""
    files: dict[str, list[str]] = {}
    for code, count in entered.functions.items():
        files.setdefault(code.co_filename.removeprefix(f"{PACKAGE}/"), []).append(f"{code.co_name} {count}")
    return "\n".join(f"  {name}: {', '.join(functions)}" for name, functions in sorted(files.items()))


def main(
    steps: Annotated[int, typer.Option(help="steps of the run")] = 30,
    functions: Annotated[bool, typer.Option(help="also say which functions the last forwards entered")] = False,
    out: Annotated[Path | None, typer.Option(help="also write JSON here")] = None,
) -> None:
    """Count the frames of each forward."""
    pipe = load()
    runs = {name: forwards(pipe, policy, captions(1)[0], steps) for name, policy in POLICIES.items()}
    figures = {name: figures_of(run) for name, run in runs.items()}
    print(table(figures))
    if functions:
        for name, run in runs.items():
            for action, entered in dict(run).items():
                print(f"{name}, {action}\n{names(entered)}")
    if out is not None:
        publish(pipe, {"steps": steps, "policies": figures}, out)


if __name__ == "__main__":
    typer.run(main)
