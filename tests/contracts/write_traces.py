"""Write golden traces anew, after a change that is meant to change what methods compute; of the cases named, or of all.

python -m tests.contracts.write_traces [NAMES]
"""

import sys

import torch

from tests.contracts import traces
from tests.contracts.cases import CASES

if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or [case.name for case in CASES]
    kept = traces.read() if len(wanted) < len(CASES) else {}
    found = {case.name: traces.measured(case) if case.name in wanted else kept[case.name] for case in CASES}
    for name in wanted:
        print(f"{name}: {len(found[name].losses)} steps, a change of {traces.CHANGE} becomes {found[name].moved:.1e}")
    traces.write(found)
