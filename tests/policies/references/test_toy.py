"""The denoiser in torch is the denoiser in numpy: else no comparison would mean anything."""

from bwcache import NeverReuse
from tests.policies.references.toy import by_policy, close, decisions, denoised, sampled


def test_both_denoisers_make_the_same_video() -> None:
    trace, played = by_policy(NeverReuse(), 6)
    assert decisions(trace, "cond") == "CCCCCC"
    assert close(played, sampled(lambda x, step, branch: denoised(x, step, 6, branch), 6), 1e-12)
