"""What is measured of a feature, how a skipped one is made, and where they are kept. Torch only."""

from bwcache.features.predictors import Damped, Last, Linear, Predictor, Taylor
from bwcache.features.store import FeatureStore

__all__ = ["Damped", "FeatureStore", "Last", "Linear", "Predictor", "Taylor"]
