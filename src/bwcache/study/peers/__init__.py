"""The peers: caches of other libraries as methods, one file each.

ladders           who takes part in a bench, each with settings from careful to bold
peer              what all have in common: attached for one run, watched, taken off; the guards that all are given
hooked            what the caches of diffusers have in common
restored          the pipeline as it was before
kept_bytes        bytes that a peer holds between forwards
library_warnings  the libraries' warnings, as notes
"""

from bwcache.study.peers.dbcache import DBCache, DBCacheTaylorSeer
from bwcache.study.peers.faster import FasterCache
from bwcache.study.peers.first_block import FirstBlockCache
from bwcache.study.peers.magcache import MagCache, calibrate, calibrated
from bwcache.study.peers.peer import Guards, Peer
from bwcache.study.peers.pyramid import PyramidAttentionBroadcast
from bwcache.study.peers.seacache import SeaCache
from bwcache.study.peers.taylorseer import TaylorSeer, TaylorSeerLite

__all__ = [
    "DBCache",
    "DBCacheTaylorSeer",
    "FasterCache",
    "FirstBlockCache",
    "Guards",
    "MagCache",
    "Peer",
    "PyramidAttentionBroadcast",
    "SeaCache",
    "TaylorSeer",
    "TaylorSeerLite",
    "calibrate",
    "calibrated",
]
