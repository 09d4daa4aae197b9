"""One process among several: its share of the work, how all come to one answer, and how one that is lost is missed."""

from nelbo.processes.team import (
    ALONE,
    GO_ON,
    ElsewhereError,
    ProcessLostError,
    Team,
    count,
    join,
    leave,
    others_reached,
    place,
    rank,
    shares_asked,
)

__all__ = [
    "ALONE",
    "GO_ON",
    "ElsewhereError",
    "ProcessLostError",
    "Team",
    "count",
    "join",
    "leave",
    "others_reached",
    "place",
    "rank",
    "shares_asked",
]
