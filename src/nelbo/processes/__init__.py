"""Several processes of one run: the division of work, agreement between processes, and detection of lost ones."""

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
