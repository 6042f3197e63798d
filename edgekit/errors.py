"""Every error that edgekit raises on purpose, and the exit code each one ends a command with.

EdgekitError
├── InputError            (2) what the user gave is wrong
│   ├── UsageError            an option or argument
│   ├── DataError             a data set: missing, empty, classes that don't fit
│   ├── ImageError            one image that can't be decoded
│   ├── ModelError            an unknown model or a factory that doesn't work
│   ├── WeightsError          a checkpoint that doesn't fit, or holds NaN
│   ├── HubError              a hub that can't be reached
│   ├── ProfileError          a device class or recipe TOML
│   ├── BundleError           a bundle that is damaged or not one
│   ├── OutputError           an output folder that can't be written
│   └── MissingExtraError     a package that an extra brings
└── StageError            (1) a stage failed on input that is right: the row is lost, the others go on
    ├── CompileError          a runtime's compiler refused the graph
    ├── ParityError           a compiled model differs from torch
    ├── GoldenError           a bundle gives other numbers on this processor than where it was made
    └── EngineError           a runtime failed while loading or running
"""


class EdgekitError(Exception):
    """Base of all: `str(error)` is the message for the user, `exit_code` the process's exit status."""

    exit_code = 2


class InputError(EdgekitError):
    """What the user gave is wrong."""


class UsageError(InputError):
    """An option or argument has a value that is not valid."""


class DataError(InputError):
    """A data set is missing, empty, too small, or its classes don't fit the model."""


class ImageError(InputError):
    """An image can't be decoded."""


class ModelError(InputError):
    """A model name is unknown, or a factory doesn't give a classifier."""


class WeightsError(InputError):
    """A checkpoint doesn't fit the model, or holds values that are not finite."""


class HubError(InputError):
    """A hub can't be reached: the message names the file and the option that takes it."""


class ProfileError(InputError):
    """A device class or a recipe has a wrong key, type or value, or doesn't exist."""


class BundleError(InputError):
    """A bundle is damaged, of another version, or not a bundle."""


class OutputError(InputError):
    """An output can't be written, or holds something that isn't edgekit's."""


class MissingExtraError(InputError):
    """A package is missing: the message is the pip command that brings it."""


class StageError(EdgekitError):
    """A stage failed on input that is right."""

    exit_code = 1


class CompileError(StageError):
    """A runtime's compiler refused the graph."""


class ParityError(StageError):
    """A compiled model's outputs differ from torch's by more than the tolerance."""


class GoldenError(StageError):
    """A bundle's golden samples give other numbers on this processor."""


class EngineError(StageError):
    """A runtime failed while loading or running a model."""
