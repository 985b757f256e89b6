"""Folds part contigs by accession, and all of them together are all contigs."""

from pathlib import Path

from scripts.mini.folds import FOLDS, fold_of, write_fold


def test_every_contig_is_in_one_fold_with_all_of_its_accession(tmp_path: Path) -> None:
    names = [f"NC_{number:06}.1#3k#{start}" for number in range(40) for start in (1, 3001)]
    (tmp_path / "c.fa").write_text("".join(f">{name}\nACGT\n" for name in names))
    written = [write_fold(tmp_path / "c.fa", fold, tmp_path / "folds").read_text() for fold in range(FOLDS)]
    found = [[line[1:] for line in text.splitlines() if line.startswith(">")] for text in written]
    assert sorted(name for each in found for name in each) == sorted(names)
    assert all(each for each in found)
    assert all(fold_of(names[i]) == fold_of(names[i + 1]) for i in range(0, len(names), 2))
