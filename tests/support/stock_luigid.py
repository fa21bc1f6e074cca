"""Luigi's own daemon, as `luigid` starts it."""

import luigi.cmdline

if __name__ == "__main__":
    luigi.cmdline.luigid()
