"""Figures without noise: what a system asks of the disk and of the processor, counted instead of timed.

A count is the same on a busy machine and on an idle one, so that a small change shows in it at once, and a committed
count can be held against a later one. What is counted by step is what a long run takes less what a short one does:
starting, opening and closing fall out.
"""
