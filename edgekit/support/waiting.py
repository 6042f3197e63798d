"""How torch's threads wait for each other, which OpenMP reads from the environment when torch is imported."""

import os

SLEEPING = ("OMP_WAIT_POLICY", "PASSIVE")
"""The variable that lets them sleep. By default they keep their cores busy, and if other work needs one of these cores,
each operation waits until that work pauses: a network on two threads took eight times as long beside it."""


def threads_sleep() -> bool:
    """Whether threads that wait leave their cores to others."""
    variable, policy = SLEEPING
    return os.environ.get(variable, "").upper() == policy
