"""`compare --jobs` against one process: two frozen recipes, features kept.

    python benchmarks/jobs.py [--images 5000] [--rounds 2]

The command of `benchmarks/warm.py` with as many processes as there are cores, and without --jobs, in turn. One process
is no process of one thread: its linear algebra uses all cores. Fails where --jobs is not 1.6 times as fast.
"""

from __future__ import annotations

import os

from common import conclude, fastest, figure, in_turn, parse, scratch, seconds_of
from warm import compare, described, fill

WANTED = 1.6


def main() -> None:
    """Run the command with and without --jobs, and print one JSON object."""
    options = parse(__doc__, {"images": (5000, 60), "rounds": (2, 1)})
    with scratch() as folder:
        n = fill(folder, options.images)

        def timed(jobs: int | None) -> dict:
            return {"seconds": seconds_of(compare, folder, jobs), "fits": described(folder)}

        results = in_turn({"jobs": lambda: timed(os.cpu_count()), "one": lambda: timed(None)}, options.rounds)
    jobs, one = (fastest(results[name]) for name in ("jobs", "one"))
    shown = f"{one:.1f} s ({results['one'][-1]['fits']}) against {jobs:.1f} s ({results['jobs'][-1]['fits']})"
    what = f"compare --jobs {os.cpu_count()} against one process, {n:,} images"
    conclude("jobs", options, [figure(what, one / jobs, shown, least=WANTED)], images=n)


if __name__ == "__main__":
    main()
