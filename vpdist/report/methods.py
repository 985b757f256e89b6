"""The paragraph about methods, from run.json: what a paper has to say, with versions and digests, and whom to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdist.calibration.judging import share_text

METHOD = "Method: Li et al., VirNucPro, Briefings in Bioinformatics 26(3), bbaf224, 2025, doi:10.1093/bib/bbaf224."
ENCODERS = {
    "nucleotide": "DNABERT-S: Zhou et al., Bioinformatics 41(Supplement 1), i255-i264, 2025, arXiv:2402.08777.",
    "protein": "ESM-2: Lin et al., Evolutionary-scale prediction of atomic-level protein structure, Science 379(6637), "
    "1123-1130, 2023, doi:10.1126/science.ade2574.",
}
"""Of the method's own encoders; others are told by their pooling."""
SCORES = (
    "A fragment's two scores add up to 1. A chunk's virus and non-virus scores are separate maxima over its fragments "
    "and can add up to 2; a sequence's are made from its chunks'. They are no probabilities."
)


def methods(run: Mapping[str, Any], n_sequences: int) -> list[str]:
    """Paragraphs. `run`: the content of run.json, which may lack anything, in versions before this one."""
    decisions, versions = _object(run, "decisions"), _object(run, "versions")
    origin, platform, model = _object(run, "tables_from"), _object(run, "platform"), _object(run, "model")
    classified = _object(run, "tables_model") if origin.get("command") == "classify" else model
    inputs = decisions.get("input")
    files = f"{len(inputs)} file{'s' * (len(inputs) != 1)}" if isinstance(inputs, Sequence) else "unknown files"
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "vpdist")
    kinds = [kind for kind in ENCODERS if decisions.get(f"{kind}_model")]
    encoders = [f"the {kind} encoder{_named(run, kind)} {decisions[f'{kind}_model']}" for kind in kinds]
    citations = [METHOD, *(ENCODERS[kind] for kind in kinds if not decisions.get(f"{kind}_pooling"))]
    named = f" of the model {model['name']} ({model.get('digest')})" if model.get("name") else ""
    first = (
        f"{n_sequences:,} sequences from {files} were cut into chunks of {decisions.get('chunk_length')} bases "
        f"and translated in six frames by vpdist {versions.get('vpdist')} ({software}). Frames without a stop codon "
        f"were embedded by {' and '.join(encoders) or 'unknown encoders'}{named} in {decisions.get('dtype')} on "
        f"{platform.get('name', 'an unknown device')}; embeddings were stored in {decisions.get('embedding_dtype')}."
    )
    if not origin.get("classifier"):
        return [first, "Nothing was classified.", *citations]
    calls = f" of the model {classified['name']} ({classified.get('digest')})" if classified.get("name") else ""
    rule = _rule(_object(run, "judgement"))
    second = (
        f"Fragments were classified by the classifier with the fingerprint {origin['classifier']}{calls}. Scores of a "
        f"sequence are the {origin.get('consensus', 'mean')} over its scored chunks; {rule}. {SCORES}"
    )
    return [first, second, *citations]


def _rule(judgement: Mapping[str, Any]) -> str:
    """By what a sequence is called; `judgement`: empty in a run without a calibration."""
    if not judgement or judgement.get("calibrated_sequences") == 0:
        return "it is called virus where the virus score is at least the other"
    false, virus, other = (
        judgement.get(name, "unknown") for name in ("max_fdr", "least_virus_probability", "most_other_probability")
    )
    share = share_text(judgement)
    taken = f"; the share of viruses by which probabilities are computed is {share}" if share else ""
    return (
        f"calls are by calibrated probability: virus where the q-value (the expected share of false calls) is at most "
        f"{false} and the probability at least {virus}, non-virus where the probability is below {other}, uncertain "
        f"between, none where there is no probability{taken}"
    )


def _object(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = run.get(name)
    return value if isinstance(value, Mapping) else {}


def _named(run: Mapping[str, Any], kind: str) -> str:
    """An encoder's hub id, and how it is told from others; folders of this machine are not named."""
    given = str(_object(run, "settings").get(f"{kind}_model") or "")
    is_hub_id = given.count("/") == 1 and not given.startswith((".", "/"))
    return f" {given} with the fingerprint" if is_hub_id else " with the fingerprint"
