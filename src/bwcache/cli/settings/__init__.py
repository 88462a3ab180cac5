"""Every option of the command, once: its type, default and help. Commands take theirs from these dataclasses."""

from bwcache.cli.settings.asked import Asked, Caching, Settings
from bwcache.cli.settings.command import command_from
from bwcache.cli.settings.showing import MethodsSettings, ModelsSettings, PlanSettings, ReportSettings, VBenchSettings
from bwcache.cli.settings.studies import (
    BenchSettings,
    CalibrateSettings,
    ProfileSettings,
    StudySettings,
    SweepSettings,
    TuneSettings,
)
from bwcache.cli.settings.videos import CompareSettings, GenerateSettings, ServeSettings

__all__ = [
    "Asked",
    "BenchSettings",
    "Caching",
    "CalibrateSettings",
    "CompareSettings",
    "GenerateSettings",
    "MethodsSettings",
    "ModelsSettings",
    "PlanSettings",
    "ProfileSettings",
    "ReportSettings",
    "ServeSettings",
    "Settings",
    "StudySettings",
    "SweepSettings",
    "TuneSettings",
    "VBenchSettings",
    "command_from",
]
