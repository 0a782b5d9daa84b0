"""Entry of the job on a cluster, `flink run -py job.py --brokers ...`: hands the SQL over and ends.

`flink run -py job.py backfill PATH... --engine flink --history DIR` judges years of files instead; DIR has to be on
storage that every task manager sees under the same path.
"""

import sys

from sensorlib.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] if sys.argv[1:2] == ["backfill"] else ["stream", "--detached", *sys.argv[1:]]))
