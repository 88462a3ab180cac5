"""What the pages take from the code when they are built, so that they cannot say anything else.

A marker on a line of its own is replaced. `<!-- matrix -->` and `<!-- native -->`: the models with what was verified.
`<!-- models -->`: the rows of the model table. `<!-- parts -->`: what stands inside of blocks. `<!-- idle -->`: what a
replay skips outside of them. `<!-- presets -->`: what is published for some. `<!-- refused -->`: why others have no
row. `<!-- policies -->`: the policies. `<!-- catalogue -->`: all that is known
of each. `<!-- proofs -->`: what tests hold each against. `<!-- cli -->`: every command and option.
CONTRIBUTING.md and CHANGELOG.md become pages.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent

FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not files under docs/."""
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills the markers."""
    makers = {
        "matrix": matrix,
        "native": native,
        "models": models,
        "idle": idle,
        "parts": parts,
        "presets": presets,
        "refused": refused,
        "policies": policies,
        "catalogue": catalogue,
        "proofs": proofs,
        "cli": command_line,
    }
    for name, make in makers.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


FAMILIES = {
    "Wan": ("Wan", "ChronoEdit", "AnyFlow"),
    "SkyReels-V2": ("SkyReelsV2",),
    "HunyuanVideo": ("HunyuanVideo",),
    "CogVideoX": ("CogVideoX", "ConsisID"),
    "LTX-Video": ("LTX",),
    "Cosmos": ("Cosmos",),
    "Kandinsky": ("Kandinsky",),
    "SANA": ("Sana",),
    "JoyImage": ("JoyImage",),
    "U-Nets": ("UNet", "I2VGenXLUNet"),
    "FLUX": ("Flux", "Chroma"),
    "Stable Diffusion 3": ("SD3",),
    "Qwen-Image": ("QwenImage",),
    "CogView": ("CogView",),
    "HunyuanImage, Hunyuan-DiT": ("HunyuanImage", "HunyuanDiT"),
    "GLM-Image": ("Glm",),
    "Lumina": ("Lumina",),
    "Bria": ("Bria",),
    "Z-Image": ("ZImage",),
}
"""How a family is called, and how the names of its classes begin; another class is a family of its own."""


def family(model: str) -> str:
    """What a denoiser of diffusers belongs to."""
    named = (name for name, beginnings in FAMILIES.items() if model.startswith(beginnings))
    return next(named, re.sub(r"(Image)?(Edit)?(Transformer|DiT)?(\d?D)?(Model)?$", "", model))


def matrix() -> str:
    """The denoisers of diffusers by family: pipelines, guidance, and what of it was verified."""
    from bwcache.models.table import ROWS

    families: dict[str, list[Any]] = {}
    for row in ROWS:
        if row.module_prefix == "diffusers.":
            families.setdefault(family(row.model), []).append(row)
    lines = ["| family | denoiser | its pipelines | guidance |", "|---|---|---|---|"]
    for name, rows in families.items():
        for row in rows:
            lines.append(f"| {name if row is rows[0] else ''} | {denoiser(row)} | {pipelines(row)} | {row.guidance} |")
    return "\n".join(lines)


def native() -> str:
    """The denoisers of the papers' own repositories."""
    from bwcache.models.table import ROWS

    lines = ["| read in | module | denoiser | guidance |", "|---|---|---|---|"]
    for row in ROWS:
        if row.module_prefix != "diffusers.":
            lines.append(f"| {row.sources} | `{row.module_prefix.rstrip('.')}` | {denoiser(row)} | {row.guidance} |")
    return "\n".join(lines)


def denoiser(row: Any) -> str:
    """Its class name, and a tick if it was verified."""
    from bwcache.models.verified import verified

    return f"`{row.model}`" + (" ✓" if verified(row).model else "")


def pipelines(row: Any) -> str:
    """Those of a denoiser, and a tick at each that was verified."""
    from bwcache.models.verified import verified

    shown = verified(row).pipelines
    return ", ".join(f"`{name}`" + (" ✓" if name in shown else "") for name in row.pipelines)


def presets() -> str:
    """Published settings, one line per model and method."""
    from bwcache.policies.presets import PRESETS

    lines = ["| denoiser | policy | settings | source |", "|---|---|---|---|"]
    for preset in PRESETS:
        home = "" if preset.module_prefix == "diffusers." else f" of `{preset.module_prefix}`"
        settings = ", ".join(f"`{name}={value!r}`" for name, value in preset.settings.items())
        lines.append(f"| `{preset.model}`{home} | {preset.method} | {settings} | {preset.source} |")
    return "\n".join(lines)


def refused() -> str:
    """Classes without a row, by their reason."""
    from bwcache.models.refused import REFUSED

    reasons: dict[str, list[str]] = {}
    for model, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(f"`{model}`")
    return "\n".join(
        ["| class | why it has no row |", "|---|---|"]
        + [f"| {', '.join(names)} | {reason} |" for reason, names in reasons.items()]
    )


def models() -> str:
    """The model table: one line per list of blocks of each row."""
    from bwcache.models.table import ROWS

    lines = ["| denoiser | blocks, in the order of the forward | what a block returns | kept of the last one |"]
    lines += ["|---|---|---|---|"]
    for row in ROWS:
        kept = ", ".join(f"`{name}`" for name in row.read_after)
        for part in row.lists:
            name = f"`{row.model}`" if part is row.lists[0] else "in turn with" if row.interleaved else "then"
            returns = ", ".join(f"`{stream}`" for stream in part.returns)
            last = kept if part is row.lists[-1] else ""
            lines.append(f"| {name} | `{part.path}` | {returns} | {last} |")
    return "\n".join(lines)


def idle() -> str:
    """What a replay skips outside of the blocks, one line per row that names something."""
    from bwcache.models.table import ROWS

    lines = ["| denoiser | skipped too |", "|---|---|"]
    for row in ROWS:
        if row.idle:
            lines.append(f"| `{row.model}` | {', '.join(map(_idle, row.idle))} |")
    return "\n".join(lines)


def _idle(each: Any) -> str:
    return f"`{each}`" if isinstance(each, str) else f"`{each.path}` (by `{each.config_entry}`)"


def parts() -> str:
    """What stands inside of blocks, one line per list of blocks that is not of native code; and what has a name."""
    from bwcache.models.spec import Part
    from bwcache.models.table import ROWS

    lines = ["| denoiser | blocks | parts, in the order of their calls | why others are missing | named |"]
    lines += ["|---|---|---|---|---|"]
    for row in ROWS:
        named = ", ".join(f"{name} `{path}`" for name, path in row.named.items())
        for blocks in row.lists if row.module_prefix == "diffusers." else ():
            paths = {kind: part.path if isinstance(part, Part) else part for kind, part in blocks.parts.items()}
            shown = ", ".join(f"{kind} `{path}`" for kind, path in paths.items())
            first = blocks is row.lists[0]
            model, names = (f"`{row.model}`", named) if first else ("", "")
            lines.append(f"| {model} | `{blocks.path}` | {shown} | {blocks.parts_missing} | {names} |")
    return "\n".join(lines)


def policies() -> str:
    """Each policy: its name and the first sentence of what it says of itself."""
    from bwcache import policies as package

    lines = ["| policy | what it does |", "|---|---|"]
    for name in package.__all__:
        policy = getattr(package, name)
        if inspect.isclass(policy) and issubclass(policy, package.Policy) and policy is not package.Policy:
            lines.append(f"| [`{name}`](api.md#bwcache.{name}) | {first_sentence(policy)} |")
    return "\n".join(lines)


def catalogue() -> str:
    """All that is known of each policy: a table, then one section each with its rule and how to cite it."""
    from bwcache.cli.methods import facts, source
    from bwcache.policies import known
    from bwcache.policies.catalogue import described

    lines = ["| policy | from | kept | read | calibration | verified against |", "|---|---|---|---|---|---|"]
    sections: list[str] = []
    for name, kind in known().items():
        one = described(kind)
        cells = " | ".join(facts(one).values())
        lines.append(f"| [`{name}`](#{name.lower()}) | {source(one).replace(chr(10), '<br>')} | {cells} |")
        sections += ["", f"## {name} {{ #{name.lower()} }}", "", one["does"], "", "```text", one["rule"], "```"]
        sections += ["", *settings_of(one["published"])] if one["published"] else []
        sections += ["", "```bibtex", one["bibtex"], "```"] if one["bibtex"] else []
    return "\n".join(lines + sections)


def settings_of(published: list[dict[str, Any]]) -> list[str]:
    """The published settings of one policy, one line each."""
    from bwcache.cli.methods import shown

    lines = ["| published for | settings | where |", "|---|---|---|"]
    for row in published:
        how = "calibrated with " if row["calibrates"] else ""
        lines.append(f"| {row['for']} | {how}`{shown(row['settings'])}` | {row['source']} |")
    return lines


def proofs() -> str:
    """What tests hold each policy against: a line for each test."""
    from bwcache.cli.methods import models
    from bwcache.policies import known
    from bwcache.policies.catalogue import proofs_of

    lines = ["| policy | held against | what came out equal | on, and how guidance comes there | test |"]
    lines += ["|---|---|---|---|---|"]
    for name, kind in known().items():
        for i, row in enumerate(proofs_of(kind)):
            first = "" if i else f"[`{name}`](#{name.lower()})"
            test = row["test"].removeprefix("policies/")
            lines.append(f"| {first} | {row['against']} | {row['equal']} | {models(row)} | `{test}` |")
    return "\n".join(lines)


def first_sentence(documented: Any) -> str:
    """The first line of a docstring, symbols left as they are."""
    return (inspect.getdoc(documented) or "").splitlines()[0]


def command_line() -> str:
    """Every command with its options, from the command itself."""
    import typer.main

    from bwcache.cli.app import app

    root: Any = typer.main.get_command(app)
    parts = [plain(root.help), "", option_table([p for p in root.params if p.name != "help"]), ""]
    for name, command in root.commands.items():
        parts += [f"## `bwcache {name}`", "", plain(command.help), ""]
        panels: dict[str, list[Any]] = {}
        for option in command.params:
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Other", []).append(option)
        for panel, options in panels.items():
            parts += [f"### {panel} {{ #{name}-{slug(panel)} }}", "", option_table(options), ""]
    return "\n".join(parts)


def option_table(options: list[Any]) -> str:
    """One line per option: its names, what it is, its default."""
    lines = ["| option | what it is | default |", "|---|---|---|"]
    for option in options:
        names = " ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        words = plain(option.help or "").replace("|", "\\|")
        lines.append(f"| {names} | {words} | {default(option)} |")
    return "\n".join(lines)


def default(option: Any) -> str:
    """An option's default, in words where it says so itself."""
    if isinstance(option.show_default, str):
        return option.show_default
    if option.default is None or isinstance(option.default, bool) or callable(option.default):
        return option.opts[0].lstrip("-") if option.default is True else ""
    return "" if option.default in ([], ()) else str(option.default)


def plain(text: str) -> str:
    """Without the terminal's markup."""
    return re.sub(r"\[/?bold\]", "**", inspect.cleandoc(text))


def slug(text: str) -> str:
    """A heading's anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
