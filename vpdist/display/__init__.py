"""What is shown: live bars, log lines, progress.jsonl, `vpdist watch`.

Enters: snapshots. Leaves: text on one stream. All displays draw the same rates, and none imports torch.
"""
