"""`python -m oomcast.agent FOLDER LIFELINE UPLINK`: started by a session, not by people."""

from __future__ import annotations

import sys
from pathlib import Path

from oomcast.agent.loop import main

main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
