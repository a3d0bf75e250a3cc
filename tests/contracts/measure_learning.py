"""How clearly each method learns, over many first weights: what the bounds of `Learner` rest on.

python -m tests.contracts.measure_learning [--seeds 8] [NAMES]

Prints a line for each case: its bounds, and the least fall of the loss and rise of kNN over the seeds. A bound should
be at most two thirds of them, so that no processor, whose rounding is as good as another seed, comes near it.
"""

import argparse
import sys

import torch

from tests.contracts.cases import CASES
from tests.contracts.learning import ends, learn

FACTOR = 1.5  # the least fall and rise over their bounds

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases; all without")
    parser.add_argument("--seeds", type=int, default=8)
    words = parser.parse_args()
    torch.set_num_threads(1)
    near = []
    for case in CASES:
        learner = case.learner
        if learner is None or (words.names and case.name not in words.names):
            continue
        outcomes = [learn(case, seed) for seed in range(words.seeds)]
        falls = [early - late for early, late in (ends(outcome.losses, learner) for outcome in outcomes)]
        rises = [outcome.after - outcome.before for outcome in outcomes]
        if min(falls) < FACTOR * learner.fall or min(rises) < FACTOR * learner.rise:
            near.append(case.name)
        print(
            f"{case.name:26} fall {learner.fall}, least {min(falls):.3f}; rise {learner.rise}, least {min(rises):.3f}",
            flush=True,
        )
    if near:
        sys.exit(f"too near to their bounds: {', '.join(near)}")
