"""The model card: README.md of a model's folder, with the front matter by which the hub lists it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from huggingface_hub.repocard_data import EvalResult, ModelCardData

from vpdist.models.description import NA, Metric, Model

TAGS = ("biology", "virus", "metagenomics", "dna", "vpdist")
TASK = "text-classification"
"""The hub has no task for sequences of bases."""

LENGTHS = (150, 300, 500, 1000, 3000)
"""Bases of the sequences in the table by length."""
NOMINAL = 0.05
"""The q-value at which false calls are counted."""
RATES = {
    "no_score": "no score",
    "false_virus": "others called virus",
    "missed_virus": "viruses called non-virus",
    "found": f"viruses found at q <= {NOMINAL:g}",
    "false_discovery": f"false calls at q <= {NOMINAL:g}",
}
"""Shares of sequences of one length, by their names in metrics.json. The second and third are of scored ones, by the
column `prediction`; the last two are of calibrated ones, with as many viruses among them as the test side has."""
NOT_MEASURED, NO_CALLS = "not measured", "no calls"


def front_matter(model: Model) -> str:
    """The YAML block at the head of the card: licence, tags, library, task, encoders, and figures as a model-index."""
    metrics = () if model.training is None else model.training.metrics
    described = ModelCardData(
        base_model=[entry.hub for entry in model.encoders.values() if entry.hub is not None] or None,
        eval_results=[_result(metric) for metric in metrics] or None,
        library_name="vpdist",
        license=model.licence,
        model_name=model.name if metrics else None,
        pipeline_tag=TASK,
        tags=list(TAGS),
    )
    return f"---\n{described.to_yaml()}\n---\n"


def _result(metric: Metric) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        task_name="virus or not",
        dataset_type=_identifier(metric.data),
        dataset_name=f"{metric.data}, {metric.of}",
        metric_type=_identifier(metric.name),
        metric_name=f"{metric.name} of {metric.of}",
        metric_value=metric.value,
    )


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


def body(model: Model) -> str:
    """What the card says of every model."""
    return "\n".join(_lines(model))


def _lines(model: Model) -> Iterator[str]:
    yield f"\n# {model.name}\n\n{model.description}\n\n{model.accuracy}\n"
    yield f"Method: {model.method}. Licence of the classifier: {model.licence}; encoders have their own.\n"
    yield f"```bash\nvpdist predict reads.fa.gz -o RUN --model {model.name}\n```\n"
    yield "## What it consists of\n\n| | |\n| --- | --- |"
    for slot, entry in model.encoders.items():
        yield f"| {slot} encoder | {entry.family}, `{entry.source}`: {entry.width} numbers, {entry.pooling} |"
    yield f"| chunks | {model.chunk_length} bases; {_short_chunks(model)} |"
    for head in model.heads:
        trained = f"trained on {head.chunk_length} bases, {' and '.join(head.kinds)}"
        yield f"| from {head.from_bases} bases | `{head.file}`, {trained}, fingerprint {head.fingerprint} |"
    if model.summary is not None:
        yield f"| summary of embeddings | `{model.summary.file}`, fingerprint {model.summary.fingerprint} |"
    yield f"| {_main(model)} | `{model.classifier.file}`, fingerprint {model.classifier.fingerprint} |\n"
    yield from _length_lines(model)
    if model.training is not None:
        yield from _training_lines(model)


def of_length(bases: int) -> str:
    """What a figure of sequences of one length is of."""
    return f"sequences cut to {bases:,} bases"


def _length_lines(model: Model) -> Iterator[str]:
    """AUROC and errors at each of LENGTHS, as far as they were measured."""
    metrics = () if model.training is None else model.training.metrics
    found = {(metric.of, metric.name): metric for metric in metrics}
    columns = ("AUROC", *RATES.values())
    yield "## How well it does at which length\n"
    yield f"| bases | n | {' | '.join(columns)} |\n| ---: | ---: |{' --- |' * len(columns)}"
    for bases in LENGTHS:
        row = [found.get((of_length(bases), name)) for name in columns]
        n = next((f"{metric.n:,}" for metric in row if metric is not None and metric.n is not None), "0")
        absent = [NOT_MEASURED] * (len(row) - 1) + [NOT_MEASURED if row[-2] is None else NO_CALLS]
        cells = [
            text if metric is None else with_interval(metric.value, metric.low, metric.high)
            for metric, text in zip(row, absent, strict=True)
        ]
        yield f"| {bases:,} | {n} | {' | '.join(cells)} |"
    yield ""


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval, where that is known."""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _short_chunks(model: Model) -> str:
    if model.short_chunks == NA:
        return f"down to {model.shortest_chunk} they are judged, shorter ones are NA"
    return f"shorter ones down to {model.shortest_chunk} may be judged"


def _main(model: Model) -> str:
    return "classifier" if model.classifier_from is None else f"from {model.classifier_from} bases, the classifier"


def _training_lines(model: Model) -> Iterator[str]:
    training = model.training
    if training is None:
        return
    if training.data:
        yield "## What it was trained on\n\n| file | label | records | digest |\n| --- | --- | ---: | --- |"
        yield from (f"| {each.file} | {each.label} | {each.records:,} | {each.digest} |" for each in training.data)
        yield ""
    if training.metrics:
        yield "## How well it does\n\n| figure | of | measured on | value | 95 % interval | n |"
        yield "| --- | --- | --- | ---: | --- | ---: |"
        yield from (f"| {_cells(metric)} |" for metric in training.metrics)
        yield ""


def _cells(metric: Metric) -> str:
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
    n = "" if metric.n is None else f"{metric.n:,}"
    return " | ".join((metric.name, metric.of, metric.data, f"{metric.value:.3f}", interval, n))
