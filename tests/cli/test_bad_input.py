"""Bad input: one line that says found, expected and what to do; exit code 2; nothing written."""

import json

import pytest
import torch

from bwcache.shapes import PATH

BEFORE_LOADING = [
    (["compare", "--model", "no/such/folder"], "no folder 'no/such/folder'"),
    (["compare", "--model", "./nowhere"], "no folder './nowhere'"),
    (["generate", "--model", "nowhere"], "no folder 'nowhere'"),
    (["compare", "--model", "."], "no model_index.json"),
    (["compare", "--threshold", "-0.1"], "-0.1"),
    (["compare", "--threshold", "nan"], "--threshold 'nan'"),
    (["compare", "--threshold", "inf"], "--threshold 'inf'"),
    (["compare", "--threshold", "much"], "--threshold 'much'"),
    (["compare", "--reuse-interval", "0"], "reuse_interval 0"),
    (["compare", "--reuse-interval", "31"], "reuse_interval 31"),
    (["compare", "--reuse-interval", "1.5"], "reuse_interval 1.5"),
    (["compare", "--reuse-interval", "5", "--steps", "4"], "at most the 4 steps"),
    (["compare", "--tail-guard", "2"], "tail_guard 2"),
    (["compare", "--sample", "0"], "sample 0"),
    (["compare", "--decision", "none"], "--decision 'none'"),
    (["compare", "--predictor", "cubic"], "--predictor 'cubic'"),
    (["compare", "--policy", "anycache"], "policy 'anycache'"),
    (["compare", "--policy", "step-list"], "policy StepList, of which steps must be said"),
    (["compare", "--policy", "adaptive", "--tolerance", "-1"], "tolerance -1"),
    (["compare", "--policy", "adaptive", "--threshold", "0.1"], "--threshold with policy Adaptive"),
    (["compare", "--tolerance", "0.1"], "--tolerance with policy BWCache"),
    (["compare", "--memory", "host"], "--memory host"),
    (["compare", "--max-memory", "lots"], "--max-memory 'lots'"),
    (["generate", "--max-memory", "0"], "--max-memory '0'"),
    (["compare", "--steps", "0"], "--steps 0"),
    (["compare", "--steps", "many"], "--steps 'many'"),
    (["compare", "--seed", "-1"], "--seed -1"),
    (["compare", "--repeats", "0"], "--repeats 0"),
    (["compare", "--fps", "0"], "--fps 0"),
    (["compare", "--height", "-32"], "--height -32"),
    (["compare", "--dtype", "int8"], "--dtype int8"),
    (["compare", "--device", "abacus"], "device 'abacus'"),
    (["compare", "--device", "cuda:99"], "device 'cuda:99'"),
    (["compare", "--device", "cpu", "--offload", "model"], "offload 'model'"),
    (["compare", "--offload", "cloud"], "--offload cloud"),
    (["compare", "--prompt", "a", "--prompts", "good.txt"], "both --prompt and --prompts"),
    (["compare", "--prompt", " "], "an empty --prompt"),
    (["compare", "--prompts", "empty.txt"], "no prompt in 'empty.txt'"),
    (["compare", "--prompts", "missing.txt"], "'missing.txt' that cannot be read (No such file"),
    (["compare", "--prompts", "bytes.txt"], "not UTF-8"),
    (["compare", "--model", PATH], "no prompt for"),
    (["compare", "--out", "good.txt"], "a file at --out"),
    (["compare", "--out", "good.txt/out"], "cannot be written"),
    (["compare", "--out", "/proc/out"], "cannot be written"),
    (["compare", "--out", "."], "the current folder"),
    (["compare", "--out", "thesis", "--overwrite"], "'chapter.txt'"),
    (["compare", "--out", "earlier"], "add --overwrite"),
    (["generate", "--out", "earlier"], "add --overwrite"),
    (["compare", "--steps", "9" * 40], "--steps 999999999999...9999; expected at most 10,000"),
    (["compare", "--steps", "9" * 5000], "--steps '99999"),
    (["compare", "--steps", "²"], "--steps '²'"),
    (["compare", "--seed", str(2**63)], "--seed 9223372036854775808; expected at most"),
    (["compare", "--height", str(10**10)], "--height 10000000000; expected at most 16,384"),
    (["compare", "--width", str(16 * 10**9)], "--width 16000000000"),
    (["compare", "--frames", str(10**9 + 1)], "--frames 1000000001"),
    (["compare", "--guidance-scale", "1e300"], "--guidance-scale 1e+300"),
    (["compare", "--guidance-scale", "9" * 400], "--guidance-scale '999"),
    (["compare", "--fps", str(10**10)], "--fps 10000000000"),
    (["compare", "--repeats", str(10**9)], "--repeats 1000000000"),
    (["sweep", "--seeds", str(10**9)], "--seeds 1000000000"),
    (["compare", "--device", "cpu:²"], "device 'cpu:²'"),
    (["compare", "--device", "cpu:"], "device 'cpu:'"),
    (["compare", "--device", "cpu:" + "9" * 50], "device 'cpu:999"),
    (["compare", "--device", "auto:1"], "device 'auto:1'"),
    (["compare", "--max-memory", "9" * 400], "--max-memory '999"),
    (["compare", "--max-memory", "²"], "--max-memory '²'"),
    (["compare", "--max-memory", "9999999999TiB"], "--max-memory '9999999999TiB'"),
    (["compare", "--sample", "5e-324"], "sample 5e-324"),
    (["compare", "--tail-guard", "1e999"], "--tail-guard '1e999'"),
    (["compare", "--predictor", "taylor:²"], "--predictor 'taylor:²'"),
    (["compare", "--prompt", "a \udcff"], "the argument 'a \\udcff', which is not UTF-8"),
    (["compare", "--prompt", "a \x1b[31m"], "the control character '\\x1b'"),
    (["compare", "--negative-prompt", "a \x00"], "the control character"),
    (["compare", "--out", "loop"], "--out 'loop' that cannot be written"),
    (["compare", "--model", "./loop"], "model './loop' (Too many levels"),
    (["compare", "--prompts", "loop"], "--prompts 'loop'"),
    (["report", "loop"], "'loop'"),
    (["compare", "--out", "~nosuchuser/out"], "--out '~nosuchuser/out' that cannot be written"),
    (["compare", "--model", "~nosuchuser/model"], "model '~nosuchuser/model'"),
    (["compare", "--out", "x" * 300], "(File name too long)"),
    (["compare", "--set", "blocks=99"], "blocks 99; expected indices of the 12 blocks"),
    (["sweep", "--set", "blocks=99"], "blocks 99"),
    (["sweep", "--grid", "blocks=0,99"], "blocks 99"),
    (["compare", "--set", "threshold"], "--set 'threshold'; expected NAME=VALUE"),
    (["compare", "--set", "=3"], "--set '=3'"),
    (["compare", "--set", "thresold=1"], "did you mean threshold?"),
    (["compare", "--set", "threshold=much"], "--set threshold 'much'; expected a number"),
    (["compare", "--set", "threshold=1", "--threshold", "2"], "--threshold beside --set threshold"),
    (["compare", "--set", "blocks=1", "--set", "blocks=2"], "--set blocks twice"),
    (["compare", "--set", "height=32"], "--set height; expected a name without an option of its own; use --height"),
    (["compare", "--set", "max_sequence_length=long"], "max_sequence_length of WanPipeline 'long'"),
    (["compare", "--set", "policy.max_sequence_length=3"], "--set 'max_sequence_length'; expected a field of BWCache"),
    (["compare", "--set", "call.threshold=3"], "--set 'threshold'; expected an argument of WanPipeline"),
    (["compare", "--set", "output_type=pt"], "--set 'output_type'"),
    (["bench", "--set", "threshold=3"], "--set 'threshold'; expected an argument of WanPipeline"),
    (["profile", "--set", "policy.threshold=3"], "this command sets no policy"),
    (["compare", "--image", "good.txt"], "--image with WanPipeline"),
    (["compare", "--video", "good.txt"], "--video with WanPipeline"),
    (["compare", "--control", "good.txt"], "--control with WanPipeline"),
    (["compare", "--scheduler", "ddim"], "scheduler DDIMScheduler, which does no flow matching"),
    (["compare", "--scheduler", "UniPC"], "did you mean UniPCMultistep"),
    (["compare", "--scheduler", "unipc-multistep:solver_ordr=3"], "did you mean solver_order"),
    (["compare", "--scheduler", "unipc-multistep:solver_order=x"], "solver_order of unipc-multistep 'x'"),
    (["compare", "--scheduler", "unipc multistep"], "expected NAME or NAME:KEY=VALUE"),
    (["compare", "--nonsense"], "--nonsense"),
    (["compare", "--steps"], "--steps"),
    (["compare", "extra"], "extra"),
    (["nonsense"], "nonsense"),
]
AFTER_LOADING = [
    (["compare", "--height", "33"], "height 33; expected a multiple of 16 for WanPipeline; use 32 or 48"),
    (["compare", "--width", "8"], "width 8"),
    (["generate", "--frames", "8"], "frames 8; expected a multiple of 2 plus 1 for WanPipeline; use 7 or 9"),
]


@pytest.fixture
def around(tmp_path):
    """Files that a person may have lying about."""
    (tmp_path / "good.txt").write_text("a red circle\n")
    (tmp_path / "empty.txt").write_text("\n# nothing yet\n   \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "summary.json").write_text(json.dumps({"model": 1, "policy": 1, "runs": []}))


def check(ended, said):
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.lines) == 1, ended.err
    line = ended.lines[0]
    assert line.startswith("bwcache: found ")
    assert said in line
    assert "; expected " in line
    assert line.count(";") >= 2


@pytest.mark.parametrize(("arguments", "said"), [*BEFORE_LOADING, *AFTER_LOADING])
def test_bad_input(bwcache_command, around, written, arguments, said):
    before = written()
    check(bwcache_command(*arguments), said)
    assert written() == before


BY_ITSELF = [
    (["compare", "--steps", "0"], "--steps 0"),
    (["compare", "--policy", "anycache"], "policy 'anycache'"),
    (["generate", "--grade", "fest"], "grade 'fest'"),
    (["generate", "--dtype", "int8"], "--dtype int8"),
    (["sweep", "--grid", "thresold=1"], "thresold"),
    (["sweep", "--fewer-steps", "30"], "--fewer-steps 30"),
    (["bench", "--methods", "quux"], "quux"),
    (["bench", "--warmup", "x"], "--warmup 'x'"),
    (["profile", "--shares-on", "-1"], "--shares-on -1"),
    (["tune", "--grade", "best"], "grade 'best'"),
    (["tune", "--grade", "99x"], "grade 99x of 30 steps"),
    (["tune", "--steps", "2"], "--steps 2"),
    (["plan", "--grade", "fest", "--steps", "5"], "grade 'fest'"),
    (["plan", "--steps", "5", "--shift", "1e-300"], "--shift 1e-300; expected one whose noise falls from 1 to 0"),
    (["plan", "--steps", "5", "--shift", "1e-3"], "--shift 0.001; expected one whose noise falls from 1 to 0"),
    (["plan", "--steps", "1001"], "--steps 1001; expected at most 1000"),
]


@pytest.mark.parametrize(("arguments", "said"), BY_ITSELF)
def test_what_is_wrong_by_itself_is_said_before_any_folder_is_looked_at(
    bwcache_command, around, written, arguments, said
):
    before = written()
    check(bwcache_command(*arguments, "--out", "thesis/nowhere/x.json"), said)
    check(bwcache_command(*arguments, "--out", "good.txt"), said)
    assert written() == before


@pytest.mark.parametrize("word", ["tuned", "Tuned", "mine", "tuned.jsn"])
def test_a_file_of_which_the_suffix_was_forgotten_is_pointed_to(bwcache_command, tmp_path, word):
    file = "mine.json" if word == "mine" else "tuned.json"
    (tmp_path / file).write_text("{}")
    check(bwcache_command("compare", "--policy", word), f"{file} is there: name it so")
    if word == "mine":
        check(bwcache_command("generate", "--grade", word), f"{file} is there: name it so")
        check(bwcache_command("plan", word), f"{file} is there: name it so")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(bwcache_command, written):
    check(bwcache_command("compare", "--device", "cuda"), "device 'cuda'")
    assert written() == []


def test_a_hub_id_that_cannot_be_reached(bwcache_command, written, monkeypatch):
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    ended = bwcache_command("compare", "--model", "someone/something", "--prompt", "a cat")
    check(ended, "hub id 'someone/something' (the hub cannot be reached")
    assert written() == []


def test_a_folder_that_is_not_what_it_says(bwcache_command, tmp_path, written):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    before = written()
    check(bwcache_command("compare", "--model", "model", "--prompt", "a cat"), "pipeline 'NoSuchPipeline' in 'model'")
    assert written() == before


def test_a_pipeline_without_blocks(bwcache_command, tmp_path, written, capfd):
    from diffusers import AudioLDM2Pipeline, AudioLDM2UNet2DConditionModel, DDIMScheduler

    unet = AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    others = ("vae", "text_encoder", "text_encoder_2", "projection_model", "language_model", "tokenizer", "tokenizer_2")
    parts = dict.fromkeys((*others, "feature_extractor", "vocoder"))
    AudioLDM2Pipeline(**parts, unet=unet, scheduler=DDIMScheduler()).save_pretrained(tmp_path / "model")
    capfd.readouterr()  # what diffusers says of the parts that are not there
    before = written()
    check(bwcache_command("compare", "--model", "model", "--prompt", "a cat"), "AudioLDM2Pipeline")
    assert written() == before
