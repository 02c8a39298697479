"""Messages that no agent sends, by the hundred thousand: valid ones, broken in ways that have broken servers.

    python -m tests.server.fuzz [-n 200000] [--seed 1]        (or: make fuzz)
    python -m tests.server.fuzz --atheris [libFuzzer's options]   guided by coverage, where atheris is installed

Whatever the bytes are, they are a frame that is whole and fits into a database, or one typed error in one line.
"""

from __future__ import annotations

import argparse
import copy
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.server.parts import a_frame, a_hello, a_sample, an_event

from oomcast.errors import WireError
from oomcast.sample import EventKind, GpuReading, Kind
from oomcast.wire import Frame, LimitState, ProcessState, Status, encode
from oomcast_server.intake.ingest import decode_hello
from oomcast_server.intake.salvage import read_frame

LARGEST = 2**62
NOW_NS = 1_700_000_000_000_000_000

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324),
    *(
        "",
        "\x00",
        "a\x00b",
        "\u202e",
        "\ufeff",
        "x" * 5_000,
        "\U0010ffff",
        "'; DROP TABLE runs; --",
        "../../etc/passwd",
    ),
    *(b"", b"\x00" * 100, b"\xff\xfe"),
    *([], [[]], [None] * 300, {}, {"": ""}, {"from": 2**64 - 1, "to": -1}, {1: 2}, {None: None}),
    *(msgspec.msgpack.Ext(-1, b"\xff" * 12), msgspec.msgpack.Ext(5, b"x")),
)
TOKENS = (
    *(b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xcf" + b"\xff" * 8),
    *(b"\xd3\x80" + b"\x00" * 7, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x91" * 2_000, b"\x81\xa1x" * 1_000, b"\xa1\xff"),
)


def lost_from(first: int, last: int) -> dict[str, str | int | None]:
    """A gap's detail."""
    return {"from": first, "to": last, "reason": "dropped"}


def seeds() -> list[bytes]:
    """Valid messages of every kind."""
    status = Status(
        wall_ns=5,
        pressure="system",
        limits=[LimitState(kind="host", limit_bytes=9, used_bytes=1)],
        processes=[ProcessState(pid=1, name="python", role="training")],
    )
    tick = a_sample(3, Kind.TICK, children=2, tree_pss_bytes=5)
    events = [an_event(4, EventKind.EPOCH_END), an_event(5, EventKind.END, outcome="died", type="x", message="y")]
    gap = an_event(9, EventKind.GAP, **lost_from(1, 9))
    full = a_frame([a_sample(1), a_sample(2), tick], events, [GpuReading(3, 0, 1, 2, None, 3)], status)
    lost = Frame(first_seq=1, last_seq=9, events=[gap])
    hello = a_hello(gpus=[], rank=0, world_size=2, launcher="slurm 1", command="train.py")
    return [encode(message) for message in (full, lost, hello, a_frame([a_sample(seq) for seq in range(1, 40)]))]


def mutants(seed: int) -> Iterator[bytes]:
    """Broken messages without end; the same ones for the same seed."""
    chance = random.Random(seed)
    valid = seeds()
    while True:
        data = chance.choice(valid)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            data = chance.choice(MUTATIONS)(data, chance)
        yield data


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) or 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _splice(data: bytes, chance: random.Random) -> bytes:
    begin, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    at = chance.randrange(len(data) + 1)
    return (data[:at] + data[begin:end] + data[at:])[: 1 << 16]


def _token(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(TOKENS) + data[at + chance.choice((0, 1, 9)) :]


def _number(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + b"\xcf" + struct.pack(">Q", chance.getrandbits(64)) + data[at + 9 :]


def _value(data: bytes, chance: random.Random) -> bytes:
    """One value anywhere in the message becomes another one: the bytes stay msgpack."""
    try:
        message = msgspec.msgpack.decode(data, strict=False)
        _replace_one(message, chance)
        return msgspec.msgpack.encode(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, ValueError, OverflowError):
        return data


def _replace_one(node: Any, chance: random.Random) -> None:
    while isinstance(node, (dict, list)) and node:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = chance.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or chance.random() < 0.2:
            _change(node, key, chance)
            return
        node = node[key]


def _change(node: Any, key: Any, chance: random.Random) -> None:
    what = chance.random()
    if what < 0.1:
        del node[key]
    elif what < 0.2 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    else:
        node[key] = chance.choice(HOSTILE)


Mutation = Callable[[bytes, random.Random], bytes]
MUTATIONS: tuple[Mutation, ...] = (_flip, _cut, _splice, _token, _number, _value, _value, _value, _value)


def check_frame(data: bytes) -> Frame | None:
    """The frame that was made of `data`, after a look at what must hold of it; None where it was refused."""
    try:
        frame, wrong = read_frame(data, NOW_NS)
    except WireError:
        return None
    assert wrong is None or wrong
    assert 0 < frame.first_seq <= frame.last_seq <= LARGEST
    _check_seqs(frame)
    for row in (*frame.samples, *frame.gpus):
        assert all(value is None or 0 <= value <= LARGEST for value in row), row
    for event in frame.events:
        assert not any("\x00" in str(part) for pair in event.detail.items() for part in pair)
    assert len({(reading.seq, reading.device) for reading in frame.gpus}) == len(frame.gpus)
    again, _ = read_frame(encode(frame), NOW_NS)
    assert len(again.samples) == len(frame.samples), "what was mended is taken as it is"
    return frame


def _check_seqs(frame: Frame) -> None:
    seqs = [sample.seq for sample in frame.samples] + [event.seq for event in frame.events]
    assert len(set(seqs)) == len(seqs)
    covered = set(seqs)
    for event in frame.events:
        if event.kind is EventKind.GAP and isinstance(event.detail.get("to"), int):
            begin, end = event.detail["from"], event.detail["to"]
            assert isinstance(begin, int)
            assert isinstance(end, int)
            assert frame.first_seq <= begin <= end <= frame.last_seq
            if len(seqs) == 1:
                return  # all of it is lost, and it may be long
            covered |= set(range(begin, end + 1))
    assert covered == set(range(frame.first_seq, frame.last_seq + 1))


def check_hello(data: bytes) -> bool:
    """Whether `data` is a hello, after a look at what must hold of it."""
    try:
        hello = decode_hello(data)
    except WireError:
        return False
    assert hello.run.id.isalnum()
    assert all(0 <= (value or 0) < LARGEST for value in (hello.source.pid, hello.source.rank))
    return True


def run(number: int, seed: int) -> Counter[str]:
    """Check so many mutants; what became of them."""
    became: Counter[str] = Counter()
    messages = mutants(seed)
    for count in range(number):
        data = next(messages)
        try:
            frame, is_hello = check_frame(data), check_hello(data)
        except Exception:
            print(f"mutant {count} of seed {seed}: {data.hex()}", file=sys.stderr)
            raise
        became["hello" if is_hello else "refused" if frame is None else "taken"] += 1
    return became


def _guided(arguments: list[str]) -> None:
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an extra of those who want it
    except ImportError:
        sys.exit("needs atheris, which has wheels for some Pythons only: pip install atheris")
    atheris.instrument_all()
    corpus = Path(tempfile.mkdtemp(prefix="oomcast-fuzz-"))
    for number, data in enumerate(seeds()):
        (corpus / str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], lambda data: (check_frame(data), check_hello(data)))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="broken messages against the server's decoders")
    parser.add_argument("-n", type=int, default=200_000, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="a random one if not given")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage; the rest goes to libFuzzer")
    given, rest = parser.parse_known_args()
    if given.atheris:
        _guided(rest)
        return
    seed = random.randrange(2**32) if given.seed is None else given.seed
    begun = time.perf_counter()
    became = run(given.n, seed)
    told = ", ".join(f"{count:,} {what}" for what, count in became.most_common())
    print(f"{given.n:,} messages of seed {seed} in {time.perf_counter() - begun:.1f} s: {told}; none broke anything")


if __name__ == "__main__":
    main()
