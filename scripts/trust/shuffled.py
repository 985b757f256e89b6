"""A sequence with the same pairs of neighbouring letters in a random order: composition without any gene.

An Euler path through the letters as in Altschul and Erickson (1985): each letter's last step is drawn so that all last
steps lead to the final letter, the other steps are taken in a random order.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def shuffled(sequence: str, rng: np.random.Generator) -> str:
    """A random sequence with the first and last letter and every pair of neighbours of `sequence`, each as often."""
    if len(sequence) < 3:
        return sequence
    steps: dict[str, list[str]] = {}
    for before, after in pairwise(sequence):
        steps.setdefault(before, []).append(after)
    final = sequence[-1]
    while True:
        last = {each: str(rng.choice(following)) for each, following in steps.items() if each != final}
        if all(_reaches(each, final, last) for each in last):
            break
    for each, following in steps.items():
        if each in last:
            following.remove(last[each])
        rng.shuffle(following)
        if each in last:
            following.append(last[each])
    taken = dict.fromkeys(steps, 0)
    path = [sequence[0]]
    while len(path) < len(sequence):
        letter = path[-1]
        path.append(steps[letter][taken[letter]])
        taken[letter] += 1
    return "".join(path)


def _reaches(letter: str, final: str, last: dict[str, str]) -> bool:
    """Whether last steps lead from a letter to the final one."""
    for _ in range(len(last)):
        letter = last[letter]
        if letter == final:
            return True
    return False
