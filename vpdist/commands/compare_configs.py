"""Whether a run folder's configuration is that of this command, and how people are told where it is not."""

from __future__ import annotations

from dataclasses import replace

from vpdist.config import OPTIONS, InputIdentity, ResolvedConfig
from vpdist.errors import UsageError
from vpdist.urls import InputPath, Url

PARTS_OF_MODEL = {
    "shortest_chunk": "--model, the shortest chunk that it judges,",
    "summary": "--model, its summary of embeddings,",
}
"""Fields that no option names, for a message."""


def same_samples(old: InputIdentity, new: InputIdentity) -> bool:
    """Whether two inputs agree in sizes and sampled blocks, in order; names and times may differ."""
    return [(size, digest) for _, size, _, digest in old] == [(size, digest) for _, size, _, digest in new]


def refuse_other_configuration(old: ResolvedConfig, new: ResolvedConfig, folder: InputPath) -> None:
    """Raises UsageError naming the first field in which a run folder's configuration differs from this command's.

    Not for another pooling of the same models: parts tell it, and are computed again.
    """
    were, are = replace(old, poolings=new.poolings).to_dict(), new.to_dict()
    for name in {**were, **are}:
        before, now = were.get(name), are.get(name)
        if before == now:
            continue
        if name == "input":
            option, before, now = _input_difference(old.input, new.input)
        else:
            option = PARTS_OF_MODEL.get(name) or OPTIONS[name].flags_of(name)[-1]
        if name == "embeddings":
            before, now = not before, not now
        hint = "use another folder, or --restart to discard what it holds"
        if isinstance(folder, Url):  # of --publish
            hint = "use another address; --restart does not discard what is published"
        if name == "classifier" and now is not None and old.embeddings:
            hint = "`vpdist classify` makes new calls from the embeddings there are; " + hint
        raise UsageError(f"{folder} belongs to another configuration: {option} was {before}, is now {now}; {hint}")


def _input_difference(old: InputIdentity, new: InputIdentity) -> tuple[str, str, str]:
    """Of two inputs that differ: in what, and what each has there."""
    for before, now in zip(old, new, strict=False):
        if same_samples((before,), (now,)):
            continue
        if before[0] != now[0]:
            return "input", before[0], now[0]
        what, index = ("size", 1) if before[1] != now[1] else ("content", 3)
        return f"input {before[0]}, its {what}", str(before[index]), str(now[index])
    return "the number of inputs", str(len(old)), str(len(new))
