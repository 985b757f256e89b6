"""The folder of `vpdist train`: what a restart leaves."""

from __future__ import annotations

from pathlib import Path

from vpdist.training.labelled import Labelled


def test_a_restart_leaves_nothing_to_go_on_from_of_any_classifier(tmp_path: Path) -> None:
    labelled = Labelled(tmp_path / "model", ())
    head = labelled.of_head(150)
    gone = [
        *(labelled.state, labelled.pieces, labelled.fit / "rows-0123.npy"),
        *(head.state, head.head_pieces, head.fit / "rows-4567.npy"),
    ]
    kept = [labelled.model / "model.json", labelled.run / "run.json", labelled.fit / "notes.txt", head.run / "run.json"]
    for path in (*gone, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    labelled.forget()
    assert sorted(path for path in labelled.model.rglob("*") if path.is_file()) == sorted(kept)
    labelled.forget()
