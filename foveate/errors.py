"""What goes wrong through the caller's doing: one line that names the offender, its value and what is allowed."""

MOST_OF_A_VALUE = 80  # characters of a wrong value that an error repeats


class InputError(ValueError):
    """Wrong arguments or input. The command line prints the message alone and exits with 2."""


class NotAvailable(InputError):
    """Something this machine lacks (a runtime, a precision, a network); the message says what and why."""


class TooLarge(InputError):
    """Input beyond a limit that protects the machine: more pixels than may be decoded."""


def one_of(kind: str, value: object, known: object) -> InputError:
    """The error for an unknown name: `one_of("method", "tomee", METHODS)` lists what is known."""
    text = repr(value)
    text = text if len(text) <= MOST_OF_A_VALUE else f"{text[:MOST_OF_A_VALUE]}..."  # a file may hold anything there
    return InputError(f"unknown {kind} {text}; known: {', '.join(sorted(map(str, known)))}")  # type: ignore[call-overload]
