"""`python -m oomcast.agent FOLDER LIFELINE UPLINK [PIDFD]`: started by a session, not by people."""

from __future__ import annotations

import sys
from pathlib import Path

from oomcast.agent.loop import main

main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))
