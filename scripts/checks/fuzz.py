"""`python -m scripts.checks.fuzz --seconds 60 [records pickle ...]`: fuzz the readers of untrusted files.

Needs atheris: pip install -c constraints.txt -e '.[fuzz]'. Inputs are chosen by the coverage of vpdist's own code. Each
target runs for so many seconds in a process of its own, so that a crash is a finding too. Inputs of findings are kept
in --keep. Exits with 0 if there are none, with 2 if atheris is not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MEMORY_MIB = 2048
LONGEST_S = 10
"""Limits of a target for one input; beyond them it is a finding."""


def make_seeds(folder: Path) -> dict[str, str]:
    """Small models, two classifiers and a finished run; their paths by the fields of fuzz_targets.Seeds."""
    import torch
    from torch import nn

    from vpdist.commands.predict import predict
    from vpdist.config import Settings
    from vpdist.results.classifier import Classifier, save_classifier

    make = [sys.executable, "-m", "scripts.demo.make_models"]
    subprocess.run([*make, folder, "--nucleotide", "1x24", "--protein", "1x32"], check=True)
    seeds = {"nucleotide": str(folder / "dnabert-s"), "protein": str(folder / "esm-2"), "run": str(folder / "run")}
    seeds |= {"classifier": str(folder / "classifier.safetensors"), "pickled": str(folder / "classifier.pth")}
    save_classifier(Classifier(56, 4), Path(seeds["classifier"]), {"chunk_length": "500"})

    class MLPClassifier(nn.Module):
        """As the original script defines it."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden_layer, self.bn1, self.output_layer = nn.Linear(56, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
            self.dropout, self.relu = nn.Dropout(0.5), nn.ReLU()

    MLPClassifier.__qualname__, MLPClassifier.__module__ = "MLPClassifier", "__main__"
    sys.modules["__main__"].MLPClassifier = MLPClassifier  # type: ignore[attr-defined]
    torch.save(MLPClassifier(), seeds["pickled"])
    contigs = folder / "contigs.fa"
    contigs.write_text("".join(f">contig{n} number {n}\n{'ATGGCTGCTGCAGGT' * (9 + n)}\n" for n in range(6)))
    settings = Settings(
        inputs=(str(contigs),),
        output=Path(seeds["run"]),
        nucleotide_model=seeds["nucleotide"],
        protein_model=seeds["protein"],
        classifier=Path(seeds["classifier"]),
        threads=1,
        progress="none",
    )
    if predict(settings) != 0:
        raise SystemExit("the run from which the fuzzer starts has failed")
    return seeds


def fuzz_one(name: str, seeds: Path, seconds: int, keep: Path) -> None:
    """Fuzz one target in this process, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["vpdist"]):
        from scripts.checks.fuzz_targets import AuditHook, Seeds, targets
    described = {field: Path(path) for field, path in json.loads(seeds.read_text()).items()}
    target, hook = targets(Seeds(**described))[name], AuditHook()
    corpus, scratch = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp(dir="/dev/shm"))
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
        target(seed, scratch, hook)  # also completes late imports
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={LONGEST_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-print_final_stats=1",
    ]
    longest = max(map(len, target.seeds))
    options += [f"-artifact_prefix={keep}/{name}-", f"-max_len={2 * longest + 4096}", str(corpus)]
    atheris.Setup([sys.argv[0], *options], lambda content: target(content, scratch, hook))
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="records, pickle, classifier, ...; by default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs of findings")
    parser.add_argument("--seeds", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install -c constraints.txt -e '.[fuzz]' (wheels: Linux x86_64)")
        return 2
    options.keep.mkdir(exist_ok=True)
    if options.seeds is not None:
        fuzz_one(options.targets[0], options.seeds, options.seconds, options.keep)
        return 0
    from scripts.checks.fuzz_targets import Seeds, targets

    print(f"Python {platform.python_version()}, {platform.machine()}; {' '.join(sys.argv)}")
    n_findings = 0
    with tempfile.TemporaryDirectory() as temporary:
        seeds = make_seeds(Path(temporary))
        path = Path(temporary) / "seeds.json"
        path.write_text(json.dumps(seeds))
        assert seeds.keys() == {field.name for field in dataclasses.fields(Seeds)}
        every = targets(Seeds(**{name: Path(value) for name, value in seeds.items()}))
        for name in options.targets or every:
            arguments = [name, "--seconds", str(options.seconds), "--seeds", str(path), "--keep", str(options.keep)]
            ended = subprocess.run(
                [sys.executable, "-m", "scripts.checks.fuzz", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            tries = re.search(r"number_of_executed_units: (\d+)", ended.stdout)
            coverage = re.findall(r"cov: (\d+)", ended.stdout)
            result = "no finding" if ended.returncode == 0 else f"FINDING (exit code {ended.returncode})"
            n_tries, n_branches = int(tries[1]) if tries else 0, coverage[-1] if coverage else 0
            print(f"{name:<12} {n_tries:>9,} inputs, {n_branches:>5} branches, {result}", flush=True)
            if ended.returncode:
                n_findings += 1
                print(ended.stdout[-3000:])
    return int(n_findings > 0)


if __name__ == "__main__":
    sys.exit(main())
