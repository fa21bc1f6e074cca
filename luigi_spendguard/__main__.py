"""The `spendguard` command: its modules import Luigi, which reads luigi.cfg at once."""

from __future__ import annotations

import gc
import sys

from luigi_spendguard import first_worker
from luigi_spendguard.settings.files import ConfigError, readable


def main() -> None:
    """Run the command line; ends with status 2 and one line when luigi.cfg cannot be read."""
    first_worker.leave()  # No pipeline runs here.
    gc.disable()  # Nothing that is imported is garbage: looking for some took a sixth of the start.
    try:
        with readable():
            from luigi_spendguard.cli import main as run
    except ConfigError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
    finally:
        gc.enable()
    run()


if __name__ == "__main__":
    main()
