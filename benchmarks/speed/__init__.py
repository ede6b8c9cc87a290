"""How fast the toolkit is, beside straightforward code that does the same: `make bench`, or one module at a time.

Every figure is a ratio of things that ran in turn in one run, round by round, so that whatever else the machine did
fell on all of them. Results are JSON files, from which `benchmarks.speed.render` writes docs/performance.md.
"""

# Before torch is imported, which under OMP_PROC_BIND leaves the main thread one core: this counts them.
from diffcse import machine as machine
