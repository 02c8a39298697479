"""What schemathesis is told in its own process (`SCHEMATHESIS_HOOKS`): cursors are opaque, only we can make them."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies

from oomcast_server.runs.cursors import encode

_numbers = strategies.integers(-(2**62), 2**62)

schemathesis.openapi.format(
    "run-cursor", strategies.builds(lambda group, at, pk: encode("r", group, at, pk), _numbers, _numbers, _numbers)
)
schemathesis.openapi.format("event-cursor", strategies.builds(lambda pk, seq: encode("e", pk, seq), _numbers, _numbers))
