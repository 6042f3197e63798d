"""Everything that edgekit uses of other projects beyond their public interface, one module per project.

Each function says what is private, which versions it was checked with, and why edgekit needs it. A canary test in
tests/test_compat.py fails when the other project changes what the function relies on. This package imports nothing:
each module imports its project, so it is imported only by code that needs that project.
"""
