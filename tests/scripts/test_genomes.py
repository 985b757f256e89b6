"""Names tell genomes: numbers that follow each other closely are of one, and so are those that say so."""

from scripts.mini.genomes import FARTHEST, genomes


def test_names_tell_genomes() -> None:
    near = FARTHEST["GeneID:"]
    headers = [
        f"GeneID:{100 + near} label=virus",
        "GeneID:100 label=virus",
        f"GeneID:{101 + 2 * near} label=virus",
        "XM_000100 label=eukaryote",
        "NZ_A:1-9 label=prokaryote genome=A01",
        "NZ_B:1-9 label=prokaryote genome=A01",
        "NC_018264:c29335-28853 label=virus",
    ]
    found = dict(genomes(headers))
    assert found["GeneID:100"] == found[f"GeneID:{100 + near}"] != found[f"GeneID:{101 + 2 * near}"]
    assert found["NZ_A:1-9"] == found["NZ_B:1-9"]
    assert found["XM_000100"] not in {found["GeneID:100"], found[f"GeneID:{101 + 2 * near}"]}
    assert "NC_018264:c29335-28853" not in found
