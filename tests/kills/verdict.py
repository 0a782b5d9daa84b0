"""Reading by reading: what was said, what the topics hold, what the store holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pandas as pd

from sensorlib.core import DEAD_TOPIC, KIND_TOPICS, RAW_TOPIC, Reading, parse_time

from .load import KEY

_WHAT = ["value", "lat", "lon"]


@dataclass(frozen=True)
class Verdict:
    "What became of one load."

    said: int  # Readings
    stored: int  # Rows of the store
    lost: int  # Said, and not stored
    doubled: int  # Stored more than once
    changed: int  # Stored with another value or position than was said, or with another verdict than the stream's last
    alien: int  # Stored, and never said
    dead: int  # Dead letters
    resent: int  # Values that are on `sensor.raw` again
    repeated: int  # Readings that are on the topics of the kinds again
    rejudged: int  # Readings whose repetition carries another verdict

    def is_clean(self) -> bool:
        "Whether each reading is stored once, as it was said."
        return (self.lost, self.doubled, self.changed, self.alien, self.dead) == (0, 0, 0, 0, 0)


def values_on_raw(
    messages: Sequence[bytes],  # Of `sensor.raw`
    span: tuple[int, int],  # Times that count, Unix seconds
) -> int:
    "Count the values of a load on `sensor.raw`."
    count = 0
    for message in messages:
        record = msgspec.json.decode(message)
        moment = parse_time(record["timestamp"])
        if moment is not None and span[0] <= moment.timestamp() < span[1]:
            count += len(record["sensordatavalues"])
    return count


def judged(
    messages: Sequence[bytes],  # Of the kinds' topics, of each topic in their order
    span: tuple[int, int],  # Times that count, Unix seconds
) -> pd.DataFrame:  # One row a message
    "Read what the stream said of the readings of a load."
    decode = msgspec.json.Decoder(Reading).decode
    rows = [(r.sensor_id, r.value_type, r.ts, r.qc) for r in map(decode, messages)]
    frame = pd.DataFrame([r for r in rows if span[0] <= r[2].timestamp() < span[1]], columns=[*KEY, "judged"])
    return frame.assign(ts=pd.to_datetime(frame["ts"], utc=True))


def compare(
    truth: pd.DataFrame,  # As `CityFeed.truth` gives it
    stored: pd.DataFrame,  # As `Kept.rows` gives it
    verdicts: pd.DataFrame,  # As `judged` gives it
    raw: int,  # Values on `sensor.raw`
    dead: int,  # Dead letters
) -> Verdict:
    "Compare what was said with what is kept."
    assert not truth.duplicated(KEY).any()
    last = verdicts.drop_duplicates(KEY, keep="last")
    once = stored.drop_duplicates(KEY)
    both = truth.merge(once, on=KEY, suffixes=("", "_kept")).merge(last, on=KEY, how="left")
    differs = both["qc"] != both["judged"]
    for name in _WHAT:
        differs |= both[name] != both[f"{name}_kept"]
    return Verdict(
        said=len(truth),
        stored=len(stored),
        lost=len(truth) - len(both),
        doubled=len(stored) - len(once),
        changed=int(differs.sum()),
        alien=len(once) - len(both),
        dead=dead,
        resent=raw - len(truth),
        repeated=len(verdicts) - len(last),
        rejudged=int((verdicts.groupby(KEY)["judged"].nunique() > 1).sum()),
    )


TOPICS = (RAW_TOPIC, DEAD_TOPIC, *KIND_TOPICS)
