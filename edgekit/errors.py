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
│   ├── PlanError             a job that needs more than this machine or a format has
│   ├── OutputError           an output folder that can't be written
│   └── MissingExtraError     a package that an extra brings
└── StageError            (1) a stage failed on input that is right: the row is lost, the others go on
    ├── CompileError          a runtime's compiler refused the graph
    ├── ParityError           a compiled model differs from torch
    ├── GoldenError           a bundle gives other numbers on this processor than where it was made
    ├── EngineError           a runtime failed while loading or running
    └── DeviceError           a device over SSH: its rows are lost, other devices go on
        ├── UnreachableError      no connection: name, network, port, or a machine that is off
        ├── HostKeyError          its host key is not known, or has changed
        ├── AuthenticationError   it lets no key of the user in
        ├── ConnectionCutError    the connection ended, or the answer had no end record
        ├── FrozenError           it stopped answering
        ├── DevicePythonError     no Python, too old a one, or one without venv
        ├── DeviceSetupError      its environment could not be made
        ├── DeviceFullError       its disk is full
        ├── DeviceMemoryError     it has too little memory for the model
        └── DeviceCrashError      a process on it was killed, or crashed: SIGKILL, SIGILL, SIGSEGV
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


class PlanError(InputError):
    """A job can't be finished here: the message has the numbers."""


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


class DeviceError(StageError):
    """A device can't be used, or failed under the work."""


class UnreachableError(DeviceError):
    """No SSH connection came about."""


class HostKeyError(DeviceError):
    """The device's host key is not known here, or is another than before."""


class AuthenticationError(DeviceError):
    """The device's SSH server refused every key that was offered."""


class ConnectionCutError(DeviceError):
    """The connection ended before the work did."""


class FrozenError(DeviceError):
    """The device stopped answering while the connection stood."""


class DevicePythonError(DeviceError):
    """The device has no Python that edgekit runs on."""


class DeviceSetupError(DeviceError):
    """The environment on the device could not be made."""


class DeviceFullError(DeviceError):
    """The device's disk has no room."""


class DeviceMemoryError(DeviceError):
    """The device's memory is clearly too small for the model."""


class DeviceCrashError(DeviceError):
    """A process on the device was killed or crashed."""
