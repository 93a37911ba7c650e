"""Which checkpoints may go: one rule for the run directory and for the storage."""


def superfluous(steps, last, every=0, start=0, keep=()):
    """Return the ascending list of those `steps` that a retention rule does not keep.

    Kept are the newest `last` (0: all), those that lie a multiple of `every` steps after `start` (0: none for that reason), and those in `keep`: the
    best ones, and whatever is being uploaded or waits for it. The newest is always kept.
    """
    ordered = sorted(set(steps))
    if not last:
        return []
    kept = set(ordered[-last:]) | set(keep)
    return [step for step in ordered if step not in kept and not (every and (step - start) % every == 0)]
