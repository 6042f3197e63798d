"""Every error that edgekit raises on purpose, and the exit code with which each one ends a command.

EdgekitError
├── InputError            (2) something that the user gave is wrong
│   ├── UsageError            an option or argument
│   ├── DataError             a data set: missing, empty, or with classes that don't fit
│   ├── ImageError            one image that can't be decoded
│   ├── ModelError            an unknown model, or a factory that doesn't work
│   ├── WeightsError          a checkpoint that doesn't fit, or contains NaN
│   ├── HubError              a hub that can't be reached
│   ├── ProfileError          a device class or recipe
│   ├── BundleError           a bundle that is damaged, or a folder that is none
│   │   └── SignatureError        a bundle that the trusted key didn't sign as it is
│   ├── PlanError             a job that needs more than this machine or a file format has
│   ├── OutputError           an output folder that can't be written
│   └── MissingExtraError     a package that one of edgekit's extras brings
└── StageError            (1) a stage failed on valid input: its row is lost, the others continue
    ├── CompileError          a runtime's compiler refused the graph
    ├── ParityError           a graph or compiled model differs from torch
    ├── GoldenError           a bundle gives different numbers on this processor
    ├── EngineError           a runtime failed while loading or running
    ├── BundleRefusedError    a device keeps its active bundle, because the new one doesn't pass there
    └── DeviceError           a board over SSH or a browser: its rows are lost, other devices continue
        ├── UnreachableError      no connection: name, network, port, or a machine that is off
        ├── HostKeyError          its host key is unknown, or has changed
        ├── AuthenticationError   it accepts none of the user's keys
        ├── ConnectionCutError    the connection ended, or the answer is incomplete
        ├── FrozenError           it stopped answering
        ├── DevicePythonError     no Python, or one that the runtimes do not support
        ├── DeviceSetupError      its environment could not be made
        ├── DeviceFullError       its disk is full
        ├── DeviceMemoryError     it has too little memory for the model
        ├── DeviceCrashError      a process on it was killed, or crashed: SIGKILL, SIGILL, SIGSEGV
        └── BrowserError          a browser never came, left, or can't run LiteRT.js

Any other exception is a bug in edgekit. It costs a row, too, which has its name, and the exit code is 1. One that ends
the command exits with 70.

A class's docstring is what the reference page of errors shows: a summary, the usual cause, and the cure where the
message's own fix doesn't say it. A message has three parts in fields of their own, so that tests check facts, not
prose.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, Self

COLOUR = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal (except for line breaks and tabs), that reverse the direction of text, or that
stand for bytes which aren't UTF-8."""


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose."""

    exit_code = 2
    """Exit status of a command that ends with the error."""

    def __init__(self, problem: str, *, valid: str = "", fix: str = "") -> None:
        problem, valid, fix = map(printable, (problem, valid, fix))
        super().__init__(problem)
        self.problem = problem
        """The problem, with the value received: a clause without a final period."""
        self.valid = valid
        """Valid values: a noun phrase, or empty where nothing else could have been given."""
        self.fix = fix
        """The option, command or action that fixes it: an imperative sentence, or empty."""

    def __str__(self) -> str:
        """The whole message on one line."""
        return as_sentences(self.problem, f"Valid: {self.valid}" if self.valid else "", self.fix)

    def with_fix(self, addition: str) -> Self:
        """The same error with one more way to fix it."""
        return type(self)(self.problem, valid=self.valid, fix=as_sentences(self.fix, addition))


def rebuild(kind: str, problem: str, valid: str, fix: str) -> EdgekitError:
    """An error that another process reported by the name of its class and its fields."""
    error: EdgekitError = globals()[kind if kind in error_names() else "StageError"](problem, valid=valid, fix=fix)
    return error


def costs_a_row(error: Exception) -> bool:
    """Whether an error costs one row of the result while the others go on: that of a stage, or a bug in edgekit.

    Every other error of this file concerns the whole command.
    """
    return isinstance(error, StageError) or not isinstance(error, EdgekitError)


def printable(text: str) -> str:
    """Text from elsewhere without what controls a terminal: colours are removed, other such characters replaced."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", COLOUR.sub("", text))


def all_printable(value: Any) -> Any:
    """A JSON value in which every text is `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [all_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): all_printable(item) for key, item in value.items()}
    return value


def as_sentences(*parts: str) -> str:
    """The parts that aren't empty, as sentences. The last one keeps its end, which may be a command to paste."""
    *others, last = [part for part in parts if part] or [""]
    return " ".join([*(part if part.endswith("?") else f"{part.rstrip('.')}." for part in others), last])


def did_you_mean(name: str, choices: Collection[str]) -> str:
    """A question with the valid choice that is most like an unknown name, for `fix`; empty if none is similar."""
    near = get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def error_names() -> tuple[str, ...]:
    """Names of all errors, in the order of this file."""
    return tuple(
        name for name, value in globals().items() if isinstance(value, type) and issubclass(value, EdgekitError)
    )


class InputError(EdgekitError):
    """Something that the user gave is wrong.

    Cause: A value on the command line, or a file that it names, can't be used.
    """


class UsageError(InputError):
    """An option or argument has a value that is not valid.

    Cause: A value is misspelled or out of range, two options exclude each other, or a required one is missing.
    """


class DataError(InputError):
    """A data set is missing, empty or too small, or its classes don't fit the model.

    Cause: `--data` or `--calibration-data` is in none of the layouts that edgekit reads, is damaged, or its labels are
    not the model's classes.
    Cure: Arrange the images as DATA/CLASS/IMAGE, or list them in a CSV with the columns path and label. `--labels FILE`
    names the model's classes, one per line in the order of its outputs.
    """


class ImageError(InputError):
    """An image can't be decoded.

    Cause: The file is truncated, is not an image, or has a format that Pillow doesn't read.
    """


class ModelError(InputError):
    """A model name is unknown, or a factory doesn't return a classifier.

    Cause: The name is not one of timm's, torchvision's or open_clip's, a checkpoint doesn't say its architecture,
    `module:factory` can't be imported, or its network doesn't take images [N, 3, H, W] and return logits [N, classes].
    Cure: Check the name with `python -c "import timm; print(timm.list_models('convnext*'))"`, or run from the folder
    that holds your module.
    """


class WeightsError(InputError):
    """A checkpoint doesn't fit the model, or contains values that are not finite.

    Cause: The file belongs to another architecture or number of classes, is damaged, or contains pickled code, which
    edgekit doesn't run.
    Cure: Give the checkpoint of this very model, without num_classes in `--model-args`. Of a file with pickled code,
    save the weights alone with the two lines of Python in the message.
    """


class HubError(InputError):
    """Published weights can't be downloaded.

    Cause: This machine can't reach the hub, or the hub doesn't have the file.
    """


class ProfileError(InputError):
    """A device class or recipe doesn't exist, or has a wrong key, type or value.

    Cause: The name is not one that edgekit ships, or the TOML file has a mistake.
    Cure: `edgekit targets` lists the names, and the reference pages of both describe every key.
    """


class BundleError(InputError):
    """A bundle is damaged, was made by an incompatible version, or is not a bundle.

    Cause: A file was changed, truncated or lost after the bundle was made, or the path names another folder.
    Cure: Copy the whole folder again, or make the bundle again with `edgekit deploy` or `edgekit compile`.
    """


class SignatureError(BundleError):
    """A bundle has no signature, or not the one that the trusted key gave these files.

    Cause: The bundle was not signed, was signed with another key, or was changed afterwards: a file in it is another,
    is missing or was added.
    Cure: If you didn't expect that, don't use the bundle, and ask whoever made it. Otherwise sign it again with
    `edgekit sign BUNDLE --key KEY`, or give the public key that belongs to the signer's private one.
    """


class PlanError(InputError):
    """A job doesn't fit on this machine or in a file format.

    Cause: The estimate of memory or disk exceeds what is free, or the model exceeds the largest file of a runtime.
    Cure: Choose another runtime with `--target`, make only the INT8 bundle with `--precision int8`, use a larger
    machine, or try anyway with `--force`.
    """


class OutputError(InputError):
    """An output can't be written, or its path already contains files that aren't edgekit's.

    Cause: The disk is full, the folder is read-only, or `--output` names a folder with other files.
    """


class MissingExtraError(InputError):
    """A package that this command needs is not installed.

    Cause: edgekit was installed without the extra that brings the package.
    """


class StageError(EdgekitError):
    """A stage failed although its input is valid.

    Cause: A library that edgekit calls failed.
    Cure: Read `library-output.log` in the run folder's `.edgekit`, and run again with `--traceback`.
    """

    exit_code = 1


class CompileError(StageError):
    """A runtime's compiler refused the graph, or its process was killed.

    Cause: The model has an operation that the converter doesn't support, or the system ran out of memory.
    Cure: Leave the runtime out with `--target`. For memory, see `edgekit plan MODEL`.
    """


class ParityError(StageError):
    """The outputs of a model's graph, or of a compiled float model, differ from torch's by more than the tolerance.

    Cause: edgekit, torch.export or the runtime's converter translates an operation of this model wrongly. Your input is
    not at fault.
    Cure: If the message names a runtime, leave it out with `--target`; if it names the graph, write that layer's
    operations in another way. A report of the defect needs the model's name and arguments, and the versions that
    `edgekit doctor` prints.
    """


class GoldenError(StageError):
    """A bundle's test vectors give different numbers on this processor.

    Cause: The runtime has other kernels here than where the bundle was made, or another version is installed.
    Cure: `edgekit inspect BUNDLE` prints the runtime that is installed (`engine`) and the one that the bundle was made
    with (`made_with`). If they differ, install the latter. Otherwise make the bundle for this machine's device class
    with `--device-class`.
    """


class EngineError(StageError):
    """A runtime failed while loading or running a model.

    Cause: The installed runtime is too old for the model, lacks memory, or has a defect on this processor.
    Cure: Run `edgekit doctor`, and compare the versions with those in the bundle's manifest.json.
    """


class BundleRefusedError(StageError):
    """A device refused a bundle, and the one that was active stays active.

    Cause: The bundle was made for another processor or is slower than allowed, or there is none to return to.
    Cure: Make the bundle for this device with `edgekit deploy --device NAME`. `edgekit devices status NAME` shows what
    is active there.
    """


class DeviceError(StageError):
    """A device can't be used, or failed during a measurement.

    Cause: A command on the device failed; the message quotes its last line.
    Cure: Run `edgekit doctor NAME`.
    """


class UnreachableError(DeviceError):
    """No SSH connection could be established.

    Cause: The device is off, is not in this network, or its name or port is wrong.
    Cure: Try the ssh command in the message until it logs in, then run the edgekit command again.
    """


class HostKeyError(DeviceError):
    """The device's host key is unknown, or has changed.

    Cause: This machine has never connected to the device, or the device was reinstalled.
    Cure: Compare the key and accept it once with the ssh command in the message; remove an old one with
    `ssh-keygen -R HOST`.
    """


class AuthenticationError(DeviceError):
    """The device's SSH server refused every key that was offered.

    Cause: edgekit never asks for passwords, and none of your keys is authorized on the device.
    Cure: Copy your key to the device with `ssh-copy-id`, or load it with `ssh-add`.
    """


class ConnectionCutError(DeviceError):
    """The connection ended before the work did.

    Cause: The network failed, or the device was restarted.
    Cure: Run the same command again; completed rows are not measured twice.
    """


class FrozenError(DeviceError):
    """The device stopped answering while the connection stayed open.

    Cause: It ran out of memory, overheated or lost power, its disk hangs, or a runtime there is deadlocked.
    Cure: Check its disk, power supply, cooling and free memory, then run the same command again.
    """


class DevicePythonError(DeviceError):
    """The device has no Python that edgekit supports.

    Cause: It has no Python, or an older or newer one than the runtimes publish wheels for.
    Cure: Install python3 from the packages of a Debian or Raspberry Pi OS that has a supported one.
    """


class DeviceSetupError(DeviceError):
    """The environment on the device could not be made.

    Cause: This machine's pip can't download the device's packages, most often because it reaches no package index.
    Cure: Download them elsewhere, and name their folder with `--wheels`.
    """


class DeviceFullError(DeviceError):
    """The device's disk is full.

    Cause: An environment takes up to 200 MB, and each bundle its size.
    Cure: Make room, or remove what edgekit keeps there with `edgekit devices clean NAME`.
    """


class DeviceMemoryError(DeviceError):
    """The device has too little memory for the model.

    Cause: The bundle and its runtime need more than what is free.
    Cure: Close other programs there, or choose a smaller model.
    """


class DeviceCrashError(DeviceError):
    """A process on the device was killed or crashed.

    Cause: The kernel killed it for memory (SIGKILL), the runtime was built for a newer processor (SIGILL), or the
    runtime has a defect (SIGSEGV).
    Cure: Close other programs, or leave that runtime out with `--target`.
    """


class BrowserError(DeviceError):
    """A browser didn't open the page, left before the end, or can't run LiteRT.js.

    Cause: The page was closed or its network was lost for more than half a minute, the phone can't reach this machine,
    or the browser is too old.
    Cure: Run the same command again, and keep the page in front and the screen on. Completed rows are not measured
    twice.
    """
