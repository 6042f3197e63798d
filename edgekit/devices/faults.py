"""Errors of a device, derived from the output of ssh and from the exit status of a process there."""

import signal

from edgekit import errors
from edgekit.errors import DeviceError

# Signals on the device, which runs Linux. The host's Python may number them differently, and Windows has no SIGKILL.
SIGILL, SIGKILL = 4, 9
# Messages of the OpenSSH client, which are not translated.
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


def connection_error(device: str, command: str, output: str, established: bool) -> DeviceError:
    """The error for a connection that failed, or ended after it was `established`.

    `command` is the ssh command that a user can try by hand, and `output` is what ssh printed.
    """
    line = _reason(output)
    if any(words in output for words in _CHANGED_KEY):
        return errors.HostKeyError(
            f"{device}: the host key has changed",
            fix="If the device was reinstalled, remove the old key with `ssh-keygen -R HOST` and accept the new one "
            f"with `{command}`",
        )
    if any(words in output for words in _UNKNOWN_KEY):
        return errors.HostKeyError(
            f"{device}: the host key is unknown", fix=f"Compare the key and accept it once with `{command}`"
        )
    if any(words in output for words in _REFUSED):
        return errors.AuthenticationError(
            f"{device}: the SSH server refused the login ({line})",
            valid="an SSH key that is authorized there; edgekit never asks for a password",
            fix=f"Copy your key there with `ssh-copy-id`, or load it with `ssh-add`, then try `{command}`",
        )
    if established and any(words in output for words in _SILENT):
        return errors.FrozenError(
            f"{device}: the device stopped answering ({line})",
            fix="Check its power supply, cooling and free memory, then run the same command again",
        )
    if established:
        return errors.ConnectionCutError(
            f"{device}: the connection was cut ({line or 'ssh ended'})",
            fix="Check whether the device restarted, then run the same command again",
        )
    return errors.UnreachableError(
        f"{device}: no connection ({line or 'ssh ended without a message'})",
        fix=f"Check that the device is on and in the network, then try `{command}`",
    )


def exit_error(device: str, work: str, status: int, stderr: str) -> DeviceError:
    """The error for a process that failed on the device. `status` is its exit status as the device's shell gives it."""
    number = status - 128 if status > 128 else -status
    line = _last_line(stderr)
    if any(words in stderr for words in _FULL):
        return full_disk(device, work, line)
    if "Session open refused" in stderr:
        return DeviceError(
            f"{device}: the SSH server there refuses a second session within a connection",
            fix="Remove `MaxSessions` from its sshd_config, or set it to 3 or more",
        )
    if number == SIGKILL:
        return errors.DeviceCrashError(
            f"{device}: {work} was killed (SIGKILL), probably because it ran out of memory",
            fix="Close other programs there, use a smaller model, or use --threads 1",
        )
    if number == SIGILL:
        return errors.DeviceCrashError(
            f"{device}: {work} used an instruction that this processor lacks (SIGILL); the runtime was built for "
            "another processor",
            fix="Leave this runtime out with --target",
        )
    if 0 < number < 65:
        return errors.DeviceCrashError(
            f"{device}: {work} crashed ({_signal_name(number)}{': ' + line if line else ''})",
            fix="Run the same command again; if the crash repeats, leave this runtime out with --target",
        )
    return DeviceError(f"{device}: {work} failed with exit status {status}: {line or 'no message'}")


def full_disk(device: str, work: str, detail: str) -> errors.DeviceFullError:
    """The error for a full disk on the device."""
    return errors.DeviceFullError(
        f"{device}: {work} ran out of disk space ({detail})",
        fix=f"Free some space there. `edgekit devices clean {device}` empties edgekit's own folder, which apps may not "
        "share a file system with",
    )


def _reason(output: str) -> str:
    """The line of ssh's output that gives the reason."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reasons = (*_REFUSED, *_SILENT, *_NO_ROUTE)
    return next((line for line in lines if any(words in line for words in reasons)), lines[-1] if lines else "")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
