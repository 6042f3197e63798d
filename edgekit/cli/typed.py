"""The command line as the user typed it, from which edgekit makes the next command."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.cli.names import COMMAND

Words = tuple[str, ...]


@dataclass(frozen=True)
class Typed:
    """The words of one command line, and the options that the other commands take."""

    command: str
    """Name of the command, such as "deploy"."""
    arguments: Words
    """Positional arguments, such as the model."""
    options: tuple[tuple[str, Words], ...]
    """Each option's name in the program, such as "num_eval_samples", with the words that gave it."""
    parameters: Mapping[str, Container[str]]
    """Names in the program of the parameters of each command."""

    @classmethod
    def of(cls, context: Any) -> "Typed":
        """The words of the command line that runs now."""
        words = iter(tuple(context.obj)[1:])
        switches = {switch: option for option in context.command.params for switch in option.opts}
        arguments: list[str] = []
        options: list[tuple[str, Words]] = []
        for word in words:
            if word == "--":
                arguments += words
            elif word.startswith("-") and word != "-":
                options += _options(word, words, switches)
            else:
                arguments.append(word)
        commands = context.find_root().command.commands
        parameters = {name: {option.name for option in command.params} for name, command in commands.items()}
        return cls(context.info_name, tuple(arguments), tuple(options), parameters)

    def value(self, name: str) -> str | None:
        """The last value of an option as it was typed; None if it was not given."""
        given = [words for option, words in self.options if option == name]
        if not given:
            return None
        *_, last = given[-1]
        return last.partition("=")[2] if len(given[-1]) == 1 else last

    def again(
        self,
        command: str,
        without: Container[str] = (),
        more: Sequence[object] = (),
        arguments: Sequence[object] | None = None,
    ) -> Words:
        """A command with the options typed here that it takes, and with more words or other arguments."""
        kept = [
            word
            for option, words in self.options
            if option in self.parameters[command] and option not in without
            for word in words
        ]
        first = tuple(map(str, self.arguments if arguments is None else arguments))
        if any(argument.startswith("-") for argument in first):
            return (COMMAND, command, *kept, *map(str, more), "--", *first)
        return (COMMAND, command, *first, *kept, *map(str, more))


def _options(word: str, following: Iterator[str], switches: Mapping[str, Any]) -> Iterator[tuple[str, Words]]:
    """The options in one word, such as `--data`, `--data=photos` or `-qo`; takes a value from the following words."""
    if word.startswith("--"):
        switch, equals, _ = word.partition("=")
        option = switches[switch]
        yield option.name, (word,) if option.is_flag or equals else (word, next(following))
        return
    letters = word[1:]
    while letters:
        switch, letters = f"-{letters[0]}", letters[1:]
        option = switches[switch]
        if option.is_flag:
            yield option.name, (switch,)
        else:
            yield option.name, (switch, letters or next(following))
            return
