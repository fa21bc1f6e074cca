"""`luigid-spendguard` that seals nothing while calls are measured: what sealing costs is shown beside it."""

from __future__ import annotations

from scheduler_patch.__main__ import main
from scheduler_patch.service import sealing

#: Longer than any measurement.
sealing.EVERY_S = 1e6

if __name__ == "__main__":
    main()
