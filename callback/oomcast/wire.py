"""Versioned messages between agent and server, to bytes and back (pure).

Binary WebSocket messages, msgpack. The agent says `Hello`; the server answers `Welcome` with the watermark, the highest
seq that it has stored without a hole. Then the agent sends `Frame`s whose seqs follow each other, and the server
answers each commit with an `Ack` of the new watermark. A server that can't take something answers `Problem`.

Messages are maps, so that an older peer ignores what a newer one adds; rows within a frame are arrays.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from oomcast.errors import WireError
from oomcast.sample import Count, Event, GpuReading, Sample, Text

__all__ = [
    "MAX_MESSAGE_BYTES",
    "OLDEST_PROTOCOL",
    "PROTOCOL",
    "Ack",
    "AgentMessage",
    "Frame",
    "GpuDevice",
    "Hello",
    "LimitState",
    "Problem",
    "ProcessState",
    "RunInfo",
    "ServerMessage",
    "SourceInfo",
    "Status",
    "Welcome",
    "decode_agent_message",
    "decode_server_message",
    "encode",
]

PROTOCOL = 2
"""Raised when an older peer could misread what a newer one sends; adding an optional field doesn't raise it.

1: the first. 2: rows have more columns, which an older server would refuse.
"""

OLDEST_PROTOCOL = 1
"""What this version still reads: journals may have been written by an older one."""

MAX_MESSAGE_BYTES = 1 << 20
"""Neither side sends or takes a larger message. A frame of 4 000 full samples has half of it."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
RunId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{8,40}\Z")]


class GpuDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that the source could see, as NVML names it."""

    device: int
    uuid: Text
    name: Text
    total_bytes: Count | None = None
    index: int | None = None  # NVML's own index, of the card
    instance: Text | None = None  # of a MIG slice, such as "1g.10gb"; None: the whole card
    ordinal: int | None = None  # the framework's number for it ("GPU:0"); None: hidden from it, or not known


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the user thinks of as one training. `id` is made by the callback, so that its address is known at once."""

    id: RunId
    project: Name
    name: Name
    tags: Annotated[list[Name], msgspec.Meta(max_length=100)] = []


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One monitored process of a run. `id` is random per agent start, so sequence numbers never collide."""

    id: RunId
    host: Name
    pid: int
    started_ns: Count
    rank: int | None = None
    user: Text | None = None
    command: Text | None = None
    python: Text | None = None
    platform: Text | None = None
    backend: Text | None = None
    gpus: list[GpuDevice] = []
    gpu_note: Text | None = None  # why there are none, in words
    kind: Text = "callback"  # or "watch" (a loop of one's own), "run" or "attach" (from outside only)
    local_rank: int | None = None
    world_size: int | None = None
    launcher: Text | None = None  # who started the ranks, and its job: "slurm 4711", "torchrun abc"


class LimitState(msgspec.Struct, frozen=True, kw_only=True):
    """One limit at the last look."""

    kind: Text
    limit_bytes: Count
    used_bytes: Count
    binds: bool = False


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process at the last look."""

    pid: int
    name: Text
    role: Text  # "training", "child" or "other" (of the same cgroup)
    rss_bytes: Count | None = None
    swap_bytes: Count | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What matters only as of now: the newest replaces the one before it, and none is kept."""

    wall_ns: Count
    limits: Annotated[list[LimitState], msgspec.Meta(max_length=64)] = []
    processes: Annotated[list[ProcessState], msgspec.Meta(max_length=32)] = []
    pressure: Text | None = None  # whose PSI the samples carry: "cgroup /job" or "system"; None: there is none
    hung_since_ns: Count | None = None  # wall clock of the last batch end, where nothing has gone on since


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", tag_field="type"):
    """The agent's first message on every connection."""

    protocol: int
    oomcast: Text
    run: RunInfo
    source: SourceInfo


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag="frame", tag_field="type"):
    """Rows of one source: every seq from `first_seq` to `last_seq` stands in `samples` or `events` exactly once.

    Or rows that are lost: then all there is is one event, a gap whose `from` and `to` are `first_seq` and `last_seq`.

    `gpus` belong to the samples of the same seq and have no seq of their own. `status` comes with a tick.
    """

    first_seq: Count
    last_seq: Count
    samples: list[Sample] = []
    gpus: list[GpuReading] = []
    events: list[Event] = []
    status: Status | None = None


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome", tag_field="type"):
    """The server's answer to `Hello`. `watermark` is 0 for a source that it has never seen; seqs start at 1."""

    protocol: int
    oomcast: Text
    watermark: Count


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack", tag_field="type"):
    """Everything up to and including `seq` is committed to disk."""

    seq: Count


class Problem(msgspec.Struct, frozen=True, kw_only=True, tag="problem", tag_field="type"):
    """The server could not take something. The connection stays open unless `fatal`.

    Codes: "protocol" (versions differ, fatal), "malformed" (not a message of this protocol), "hello" (a frame before
    hello, or a second hello), "sequence" (a frame left a hole: the agent goes back to `seq` + 1), "rejected" (rows in
    the frame are out of range; they are stored as a gap and the rest as sent), "store" (the server can't write now: the
    agent waits and sends again), "busy" (the server is stopping or at a limit of its own, fatal).
    """

    code: Text
    message: Text
    seq: Count | None = None
    fatal: bool = False


AgentMessage: TypeAlias = Hello | Frame
ServerMessage: TypeAlias = Welcome | Ack | Problem

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_server_decoder: msgspec.msgpack.Decoder[ServerMessage] = msgspec.msgpack.Decoder(ServerMessage)


def encode(message: AgentMessage | ServerMessage) -> bytes:
    """One message as msgpack bytes."""
    return _encoder.encode(message)


def decode_agent_message(data: bytes | bytearray | memoryview) -> AgentMessage:
    """What an agent sent; every value is checked against its type and range.

    Raises:
        WireError: not msgpack, not a message of this protocol, or a value out of range; the text names the place.
    """
    try:
        return _agent_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of oomcast protocol {PROTOCOL}: {error}") from error


def decode_server_message(data: bytes | bytearray | memoryview) -> ServerMessage:
    """What a server sent.

    Raises:
        WireError: as for `decode_agent_message`.
    """
    try:
        return _server_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of oomcast protocol {PROTOCOL}: {error}") from error
