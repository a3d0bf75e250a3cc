"""Write golden traces anew, after a change that is meant to change what methods compute; of the cases named, or of all.

python tests/contracts/write_traces.py [NAMES]
"""

import json
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
TRACES = TESTS / "golden" / "traces.json"

if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    import torch
    from cases import CASES
    from contracts import trace

    torch.set_num_threads(1)  # as in the tests
    traces = json.loads(TRACES.read_text())
    for case in CASES:
        if case.name in sys.argv[1:] or len(sys.argv) == 1:
            traces[case.name] = [float(f"{loss:.7g}") for loss in trace(case)]
    lines = [f"{json.dumps(case.name)}: {traces[case.name]}" for case in CASES]
    TRACES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
