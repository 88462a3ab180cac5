"""A pipeline without weights says of itself what the loaded one says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import SettingError, shapes
from bwcache.cli.progress import quiet_libraries
from bwcache.measure.call import Request, check_taken
from bwcache.measure.inputs import argument_for, check_inputs, check_needed, settable
from bwcache.measure.load import small_files
from bwcache.measure.sizes import check_sizes, spatial_multiple, temporal_multiple
from bwcache.measure.skeleton import check_known, pipeline_kind, skeleton
from bwcache.models import denoisers
from tests import newer
from tests.cli.saved import saved, without_weights
from tests.tiny import CASES, Case
from tests.zoo import PIPELINES

SOME = ("wan", "cogvideox", "ltx", "hunyuan", "mochi")
MORE = ("WanVACEPipeline", "StableVideoDiffusionPipeline", "FluxControlPipeline", "SanaImageToVideoPipeline")
EACH = [case for case in (*CASES, *PIPELINES) if case.name in (*SOME, *MORE)]


@pytest.mark.parametrize("case", EACH, ids=lambda case: case.name)
def test_it_knows_what_the_loaded_one_knows(case: Case, tmp_path: Path) -> None:
    pipe = case.build()
    with quiet_libraries():
        pipe.save_pretrained(tmp_path / "saved")
        without_weights(tmp_path / "saved")
        made = skeleton(tmp_path / "saved")
    assert type(made) is type(pipe)
    assert {name: type(one) for name, one in denoisers(made).items()} == {
        name: type(one) for name, one in denoisers(pipe).items()
    }
    assert spatial_multiple(made) == spatial_multiple(pipe)
    assert temporal_multiple(made) == temporal_multiple(pipe)
    assert all(weight.device.type == "meta" for one in denoisers(made).values() for weight in one.parameters())
    with bwcache.attach(made, bwcache.BWCache()):
        pass
    with pytest.raises(SettingError, match="blocks"), bwcache.attach(made, bwcache.BWCache(blocks=(99,))):
        pass


@pytest.mark.parametrize("case", [*CASES, *PIPELINES], ids=lambda case: case.name)
def test_nothing_that_works_is_refused(case: Case) -> None:
    """What the zoo calls its pipelines with passes every check of sizes and inputs."""
    kind = type(case.build())
    kind = next(one for one in kind.__mro__ if one.__module__.startswith("diffusers."))
    given = {name: value for name, value in case.call.items() if not name.endswith(("embeds", "latents"))}
    kinds = {argument_for(kind, what) for what in ("image", "video", "control")} - {None}
    given |= dict.fromkeys(kinds - set(given), "a file") if {"latents", "image_latents"} & set(case.call) else {}
    check_needed(kind, given)


def test_what_the_model_in_the_box_can_make() -> None:
    made = skeleton(small_files("shapes"))
    assert made is not None
    check_sizes(made, shapes.HEIGHT, shapes.WIDTH, shapes.FRAMES)
    check_inputs(made, {"prompt": "a", "height": shapes.HEIGHT, "width": shapes.WIDTH})
    with pytest.raises(SettingError, match="height 33"):
        check_sizes(made, 33, shapes.WIDTH, shapes.FRAMES)


def test_inputs_go_by_the_names_of_each_pipeline() -> None:
    import diffusers

    newer.expect("WanAnimatePipeline")
    found = {
        name: tuple(argument_for(getattr(diffusers, name), what) for what in ("image", "video", "control"))
        for name in (
            "WanPipeline",
            "WanImageToVideoPipeline",
            "WanVACEPipeline",
            "WanAnimatePipeline",
            "CogVideoXFunControlPipeline",
            "StableDiffusionControlNetPipeline",
            "FluxControlImg2ImgPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
        )
    }
    assert found == {
        "WanPipeline": (None, None, None),
        "WanImageToVideoPipeline": ("image", None, None),
        "WanVACEPipeline": (None, "video", None),
        "WanAnimatePipeline": ("image", None, "pose_video"),
        "CogVideoXFunControlPipeline": (None, None, "control_video"),
        "StableDiffusionControlNetPipeline": (None, None, "image"),
        "FluxControlImg2ImgPipeline": ("image", None, "control_image"),
        "AnimateDiffVideoToVideoControlNetPipeline": (None, "video", "conditioning_frames"),
    }
    names = settable(diffusers.WanImageToVideoPipeline)
    assert {"last_image", "guidance_scale_2", "max_sequence_length"} <= set(names)
    assert {"latents", "prompt_embeds", "generator", "output_type", "callback_on_step_end"}.isdisjoint(names)
    assert check_taken(diffusers.SanaVideoPipeline, Request("a", 3, frames=9))["frames"] == 9


def index(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    content = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"], **changes}
    (folder / "model_index.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "WanPipelin"}, "did you mean WanPipeline?"),
        ({"_class_name": "WanTransformer3DModel"}, "pipeline 'WanTransformer3DModel'"),
        ({"_class_name": ["mine", "Pipeline"]}, "pipeline ['mine', 'Pipeline']"),
        ({"transformer": ["diffusers", "StableAudioDiTModel"]}, "it makes sound and no pictures"),
        ({"transformer": ["nowhere", "Novel"]}, "WanPipeline with no modules"),
        ({"transformer": [None, None]}, "WanPipeline with no modules"),
        ({"transformer": ["os", "path"]}, "WanPipeline with no modules"),
    ],
)
def test_a_pipeline_that_is_none_of_ours(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = index(tmp_path / "model", **changes)
    with pytest.raises(SettingError) as error:
        check_known(folder, pipeline_kind(folder))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"', "[" * 100_000, "\x00"])
def test_an_index_that_is_broken(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(SettingError, match=r"model_index\.json in "):
        pipeline_kind(tmp_path)


def test_configs_that_are_broken_leave_it_to_loading(tmp_path: Path) -> None:
    folder = index(tmp_path / "model", vae=["diffusers", "AutoencoderKLWan"])
    assert skeleton(folder) is None or not denoisers_of(skeleton(folder))


def denoisers_of(pipe: Any) -> bool:
    return any(hasattr(one, "parameters") for one in pipe.components.values())


def test_the_saved_pipelines_of_the_command_are_like_the_zoo() -> None:
    assert skeleton(saved("i2v")) is not None
