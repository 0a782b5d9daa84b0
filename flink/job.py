"""Entry of the job on a cluster, `flink run -py job.py --brokers ...`: the same command as `sensorlib stream`."""

import sys

from sensorlib.cli import main

if __name__ == "__main__":
    sys.exit(main(["stream", *sys.argv[1:]]))
