"""Speed of the toolkit beside plain code that does the same: `make bench`, or one module at a time.

Every figure is a ratio of programs that ran in turn, round by round, so other load on the machine fell on all of them.
Results are JSON files, from which `benchmarks.speed.render` writes docs/performance.md.
"""

# This counts the cores. It comes before torch, which under OMP_PROC_BIND leaves the main thread one core.
from diffcse import machine as machine
