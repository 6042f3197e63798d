"""What went wrong with a device, told from what ssh said and how a process ended: a named error with the next step."""

import signal

from edgekit.errors import (
    AuthenticationError,
    ConnectionCutError,
    DeviceCrashError,
    DeviceError,
    DeviceFullError,
    FrozenError,
    HostKeyError,
    UnreachableError,
)

# Signals on the device, which runs Linux. The host's Python may have other numbers, and on Windows has no SIGKILL.
SIGILL, SIGKILL = 4, 9
# What the OpenSSH client writes; its messages are not translated.
_CHANGED_KEY = ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host key mismatch")
_UNKNOWN_KEY = ("Host key verification failed", "No matching host key", "host key is known for")
_REFUSED = ("Permission denied", "Too many authentication failures", "no such identity", "Authentication failed")
_SILENT = ("not responding", "timed out during banner exchange")
_NO_ROUTE = (
    "Could not resolve hostname", "Connection refused", "No route to host", "Network is unreachable",
    "Connection timed out", "Operation timed out", "Bad configuration option", "Can't open user config file",
    "Bad owner or permissions", "Bad port",
)  # fmt: skip
_FULL = ("No space left on device", "Disk quota exceeded")


def connection_error(device: str, reach: str, said: str, established: bool) -> DeviceError:
    """Why the ssh connection to a device didn't come about, or ended. `reach` is the ssh command of a person."""
    line = _telling(said)
    if any(words in said for words in _CHANGED_KEY):
        return HostKeyError(
            f"{device}: its host key is another than the one known here. If the device was installed anew, remove the "
            f"old key with ssh-keygen -R HOST and accept the new one with: {reach}"
        )
    if any(words in said for words in _UNKNOWN_KEY):
        return HostKeyError(f"{device}: its host key is not known here. Compare and accept it once with: {reach}")
    if any(words in said for words in _REFUSED):
        return AuthenticationError(
            f"{device}: it refused to let us in ({line}). Keys are the only way in: bring yours there with ssh-copy-id "
            f"or load it with ssh-add, then try: {reach}"
        )
    if established and any(words in said for words in _SILENT):
        return FrozenError(
            f"{device}: it stopped answering ({line}). See that it has power, is cool enough and has memory left; "
            "then run the same command again."
        )
    if established:
        return ConnectionCutError(
            f"{device}: the connection was cut ({line or 'ssh ended'}). The device may have been restarted: run the "
            "same command again."
        )
    return UnreachableError(
        f"{device}: no connection ({line or 'ssh ended without a message'}). See that it is on and in the network, "
        f"then try: {reach}"
    )


def exit_error(device: str, what: str, status: int, said: str) -> DeviceError:
    """Why a process on the device failed; `status` is its exit status as its shell gives it, `said` its stderr."""
    number = status - 128 if status > 128 else -status
    last = _last(said)
    if any(words in said for words in _FULL):
        return full_disk(device, what, last)
    if number == SIGKILL:
        return DeviceCrashError(
            f"{device}: {what} was killed (SIGKILL), most likely for want of memory. Close what else runs there, or "
            "use a smaller model or --threads 1."
        )
    if number == SIGILL:
        return DeviceCrashError(
            f"{device}: {what} used an instruction that this processor lacks (SIGILL): the runtime's package is not "
            "built for it. Leave this runtime out with --target."
        )
    if 0 < number < 65:
        return DeviceCrashError(
            f"{device}: {what} crashed ({_signal_name(number)}{': ' + last if last else ''}). Run the same command "
            "again; if it stays so, leave this runtime out with --target."
        )
    return DeviceError(f"{device}: {what} failed with exit status {status}: {last or 'it said nothing'}")


def full_disk(device: str, what: str, detail: str) -> DeviceFullError:
    """The disk of the device filled up."""
    return DeviceFullError(
        f"{device}: {what} found no room on its disk ({detail}). Free some, or remove what edgekit keeps there with: "
        f"edgekit devices clean {device}"
    )


def _telling(said: str) -> str:
    """The line of ssh's messages that says why."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    known = (*_REFUSED, *_SILENT, *_NO_ROUTE)
    return next((line for line in lines if any(words in line for words in known)), lines[-1] if lines else "")


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
