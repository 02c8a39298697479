"""The parameters of the REST interface: what they may be, and what they mean."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query

from oomcast.sample import EventKind
from oomcast_server.rest.glossary import METRICS

__all__ = [
    "EVENT_KINDS",
    "AfterMs",
    "Cursor",
    "EventCursor",
    "EventKindName",
    "EventLimit",
    "From",
    "Host",
    "Limit",
    "Metrics",
    "Points",
    "Project",
    "RunId",
    "RunIds",
    "SourceId",
    "StateName",
    "Tag",
    "Text",
    "To",
    "X",
]

# Names are kept without control characters, so nothing could be found by one; and PostgreSQL takes no NUL in a text.
_PLAIN = r"^[^\x00-\x1f\x7f]*$"
_METRIC = f"({'|'.join(METRICS)}|gpus)"

EVENT_KINDS = tuple(kind.name.lower() for kind in EventKind)
"""Kinds of events in words."""

_ID = r"^[a-z0-9]{8,40}$"


# Which run there is, its own route says: an id that can't be one is simply not found.
RunId = Annotated[
    str,
    Path(
        description="The run's id: 8 to 40 lower-case letters and digits.",
        examples=["cjnbi3e6nvsnotjh"],
        json_schema_extra={"pattern": _ID},
    ),
]

Project = Annotated[
    str | None,
    Query(
        description="Only runs of this project, by its whole name.", examples=["mnist"], pattern=_PLAIN, max_length=200
    ),
]
StateName = Annotated[
    Literal["", "live", "silent", "finished", "failed", "died", "stopped"] | None,
    Query(
        description="Only runs in this state. `live`: its last sample came less than 10 s ago; `silent`: it has not "
        "ended, but nothing came for 10 s; `failed`: an exception; `died`: killed or crashed.",
        examples=["live"],
    ),
]
Host = Annotated[
    str | None,
    Query(
        description="Only runs whose main process is on this machine, by its whole name.",
        examples=["gpu-box-3"],
        pattern=_PLAIN,
        max_length=200,
    ),
]
Tag = Annotated[
    str | None,
    Query(
        description="Only runs with this tag, letter by letter.", examples=["baseline"], pattern=_PLAIN, max_length=200
    ),
]
Text = Annotated[
    str | None,
    Query(
        description="Only runs where each of these words is the beginning of a word of the run's name, id, project, "
        "tags, hosts or commands; without regard to case. The first 8 words count.",
        examples=["resnet train"],
        pattern=_PLAIN,
        max_length=200,
    ),
]
Limit = Annotated[int, Query(description="At most so many runs.", examples=[50], ge=1, le=1000)]
_GO_ON = "Where to go on: the `next` of the page before, all else being the same."
Cursor = Annotated[str | None, Query(description=_GO_ON, json_schema_extra={"format": "run-cursor"})]
EventCursor = Annotated[str | None, Query(description=_GO_ON, json_schema_extra={"format": "event-cursor"})]

SourceId = Annotated[
    str | None,
    Query(description="The id of one of the run's sources (processes).", examples=["6vk4jz5f2q7m3xta"], pattern=_ID),
]
X = Annotated[
    Literal["batch", "time"],
    Query(
        description="What the chart goes over: samples taken at batch ends, or all samples by time.", examples=["batch"]
    ),
]
From = Annotated[
    float | None,
    Query(
        alias="from",
        description="The first batch number (from 0), or the earliest time in ms since 1970 where x=time.",
        examples=[0],
        allow_inf_nan=False,
    ),
]
To = Annotated[
    float | None,
    Query(
        alias="to",
        description="The last batch number, or the latest time in ms since 1970 where x=time.",
        examples=[100_000],
        allow_inf_nan=False,
    ),
]
Points = Annotated[
    int,
    Query(
        description="At most so many points: where there are more samples, each point stands for a bucket of them, "
        "with least and largest of each metric, so that no peak is lost.",
        examples=[1500],
        ge=10,
        le=10_000,
    ),
]

Metrics = Annotated[
    str | None,
    Query(
        description="Only these metrics, by name, with commas between them; `gpus` stands for the devices' readings. "
        "Without it, all.",
        examples=["rss_bytes,peak_bytes"],
        max_length=1_000,
        json_schema_extra={"pattern": f"^({_METRIC}(,{_METRIC}){{0,30}})?$"},
    ),
]

EventKindName = Annotated[
    str | None,
    Query(
        description="Only events of this kind, such as `epoch_end`, `checkpoint` or `end`.",
        examples=["epoch_end"],
        max_length=40,
        json_schema_extra={"enum": ["", *EVENT_KINDS]},
    ),
]
AfterMs = Annotated[
    float | None,
    Query(
        description="Only events later than this, in ms since 1970.", examples=[1_764_000_000_000], allow_inf_nan=False
    ),
]
EventLimit = Annotated[int, Query(description="At most so many events.", examples=[100], ge=1, le=1000)]
RunIds = Annotated[
    str,
    Query(
        description="The ids of 2 to 10 runs, with commas between them.",
        examples=["cjnbi3e6nvsnotjh,ovdw4y2t6l3kq5ab"],
        pattern=r"^[a-z0-9]{8,40}(,[a-z0-9]{8,40}){1,9}$",
    ),
]
