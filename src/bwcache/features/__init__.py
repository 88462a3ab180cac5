"""What is measured of a feature, how a skipped one is made, and how it is kept. Torch only."""

from bwcache.features.differences import Differences
from bwcache.features.indicators import (
    ForecastCosine,
    Motion,
    absolute,
    cosine_distance,
    magnitude_ratio,
    relative_l1,
    squared,
)
from bwcache.features.looks import Indicator
from bwcache.features.prediction_error import PredictionError
from bwcache.features.predictors import Along, Bounded, Damped, Extended, Last, Linear, Past, Predictor, Taylor
from bwcache.features.views import All, Channels, ChannelShare, Sample, Signal, View
from bwcache.features.weighted import Weighted

__all__ = [
    "All",
    "Along",
    "Bounded",
    "ChannelShare",
    "Channels",
    "Damped",
    "Differences",
    "Extended",
    "ForecastCosine",
    "Indicator",
    "Last",
    "Linear",
    "Motion",
    "Past",
    "PredictionError",
    "Predictor",
    "Sample",
    "Signal",
    "Taylor",
    "View",
    "Weighted",
    "absolute",
    "cosine_distance",
    "magnitude_ratio",
    "relative_l1",
    "squared",
]
