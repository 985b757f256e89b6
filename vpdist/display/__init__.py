"""What is displayed: live bars, log lines, progress.jsonl, `vpdist watch`.

Enters: snapshots. Leaves: text on one stream. All displays show the same rates, and none imports torch.
"""
