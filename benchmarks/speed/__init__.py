"""How fast the toolkit is, beside straightforward code that does the same: `make bench`, or one module at a time.

Every figure is a ratio of things that ran in turn in one run, round by round, so that whatever else the machine did
fell on all of them. Results are JSON files, from which `benchmarks.speed.render` writes docs/performance.md.
"""

import os

# Before torch is imported: under OMP_PROC_BIND that leaves the main thread one core, and every thread and process it
# starts inherits it.
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
"""The cores this process was given."""
