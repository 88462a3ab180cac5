import pytest

from bwcache.errors import SettingError
from bwcache.measure.sizes import check_sizes, spatial_multiple, temporal_multiple


class Config:
    def __init__(self, **values):
        self.__dict__.update(values)


class Denoiser:
    def __init__(self, patch):
        self.config = Config(patch_size=patch)


class Pipeline:
    """As diffusers' video pipelines: factors of the autoencoder, patches of the denoiser, an own check."""

    def __init__(self, spatial=8, temporal=4, patch=(1, 2, 2), divisible=16, most=None):
        self.vae_scale_factor_spatial = spatial
        self.vae_scale_factor_temporal = temporal
        self.transformer = Denoiser(patch)
        self.divisible, self.most = divisible, most

    def check_inputs(self, prompt, negative_prompt, height, width, extra=None):
        if height % self.divisible or width % self.divisible:
            raise ValueError(f"`height` and `width` have to be divisible by {self.divisible} but are {height}.")
        if self.most and height > self.most:
            raise ValueError(f"height above {self.most}")


def test_multiples():
    assert spatial_multiple(Pipeline()) == 16
    assert spatial_multiple(Pipeline(patch=2, divisible=8)) == 16
    assert spatial_multiple(Pipeline(patch=1, divisible=32)) == 32
    assert spatial_multiple(Pipeline(spatial=16, divisible=48)) == 96
    assert temporal_multiple(Pipeline(temporal=8)) == 8


@pytest.mark.parametrize("sizes", [(32, 48, 5), (16, 16, 1), (None, None, None), (480, None, 81)])
def test_sizes_that_work(sizes):
    check_sizes(Pipeline(), *sizes)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((33, 32, 5), "found height 33; expected a multiple of 16 for Pipeline; use 32 or 48"),
        ((32, 40, 5), "use 32 or 48"),
        ((8, 32, 5), "use 16"),
        ((32, 0, 5), "use 16"),
        ((32, 32, 6), "found frames 6; expected a multiple of 4 plus 1 for Pipeline; use 5 or 9"),
        ((32, 32, 0), "use 1"),
    ],
)
def test_sizes_that_do_not(sizes, said):
    with pytest.raises(SettingError) as caught:
        check_sizes(Pipeline(), *sizes)
    assert said in str(caught.value)


def test_the_pipeline_may_refuse_more():
    with pytest.raises(SettingError, match="height above 64"):
        check_sizes(Pipeline(most=64), 96, 32, 5)
