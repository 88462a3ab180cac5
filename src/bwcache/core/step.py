"""Where in which run a forward of the denoiser stands."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the denoiser: run, step and guidance branch.

    Attributes:
        run: ordinal of the run (one generated video or batch) in this session, from 0.
        index: ordinal of the step counted from the start of sampling, from 0.
        total: number of steps of the run, or None where nobody announced it.
        timestep: what the scheduler calls this step, or None. Descending 1000..0 in most models.
        sigma: noise level, 1..0 in flow matching, or None where the scheduler has none.
        branch: name of the guidance branch ("cond", "uncond", "cond_uncond", or "call0", "call1", … if derived).
        sample: ordinal in the batch where every sample decides for itself; None where they decide as one.
        noise: share of noise in the latents, 1..0 whatever the scheduler: sigma in flow matching, sigma / (1 + sigma)
            elsewhere; by the index where nobody says it. None where the number of steps is unknown too. It rises where
            a video is inverted.
        next_noise: the same after this step.
        schedule: the same at each step of the run and after the last one, in the order of sampling; None where nobody
            says it before the run.
        trained: how many training steps timesteps count, down to 0; 1000 in most models. Negative: from 0 up to so many
            (Mochi's, on a bare module). None: they count otherwise, such as from 1 to 0.
    """

    run: int
    index: int
    total: int | None
    timestep: float | None
    sigma: float | None
    branch: str
    sample: int | None = None
    noise: float | None = None
    next_noise: float | None = None
    schedule: tuple[float, ...] | None = field(default=None, compare=False, repr=False)
    trained: int | None = field(default=1000, compare=False, repr=False)

    @property
    def lane(self) -> str:
        """Branch and sample in one name: what is kept, is kept by lane."""
        return self.branch if self.sample is None else f"{self.branch}#{self.sample}"

    @property
    def training_timestep(self) -> float | None:
        """The timestep, 1000..0 descending whatever the scheduler counts: windows of timesteps are of this one.

        Where it counts other training steps, in proportion; where it counts otherwise, 1000 times the share of noise,
        as in flow matching. None where none is known.
        """
        if self.timestep is None or self.trained == 1000:
            return self.timestep
        if self.trained is not None:
            return self.timestep * 1000 / self.trained + (1000 if self.trained < 0 else 0)
        return None if self.noise is None else 1000 * self.noise

    @property
    def coordinate(self) -> float:
        """The axis along which features are extrapolated: sigma, else timestep, else the index."""
        for value in (self.sigma, self.timestep):
            if value is not None:
                return value
        return float(self.index)

    @property
    def inverts(self) -> bool:
        """Whether noise rises over the run, as its schedule says: a video is turned back into noise."""
        return self.schedule is not None and self.schedule[0] < self.schedule[-2]

    @property
    def progress(self) -> float | None:
        """How far the run is, 0..1: half by the index, half by the noise that is gone; None where either is unknown.

        Where a video is inverted, half by the noise that has come.
        """
        if self.total is None or self.noise is None:
            return None
        return (self.index / self.total + (self.noise if self.inverts else 1 - self.noise)) / 2
