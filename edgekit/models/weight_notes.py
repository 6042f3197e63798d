"""What the user should know about the tensors of a checkpoint that were used, and those that were not."""

from pathlib import Path

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Note
from edgekit.models.state_dict import OwnTensors, some


def notes_on_tensors(own: OwnTensors, checkpoint: Checkpoint, path: Path) -> tuple[Note, ...]:
    """Sentences on averaged weights, on a classifier beside the network, and on tensors that don't belong to it."""
    notes = []
    if checkpoint.averaged:
        notes.append(Note(f"weights: '{checkpoint.averaged}' in '{path.name}', the averaged (EMA) ones"))
    if own.head:
        notes.append(Note(f"classifier: '{own.head}' in '{path.name}', which is taken as the network's last layer"))
    if own.others:
        unused = f"tensors of '{path.name}' outside the network are unused: {some(own.others)}"
        notes.append(Note(f"{unused}. If your code computes with them, deploy it as module:factory", doubtful=True))
    return tuple(notes)
