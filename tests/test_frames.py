"""Averages on regular grids: what counts, for how long, and how it is summed up."""

import time

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import READING_COLUMNS, VALUE_TYPES, SettingError
from sensorlib.feed import measurements
from sensorlib.frames import average, energetic_mean, statistic_of, steps
from sensorlib.quality import FLAGS, judge
from sensorlib.simulate import make_city, records

MIDNIGHT = pd.Timestamp("2026-03-02", tz="UTC")


def readings(seconds: object, value_type: str = "P2", values: object = 10.0, sensor_id: int = 1) -> pd.DataFrame:
    "Good readings of one sensor, so many seconds after midnight."
    ts = MIDNIGHT + pd.to_timedelta(np.asarray(seconds), unit="s")
    return pd.DataFrame({"sensor_id": sensor_id, "value_type": value_type, "ts": ts, "value": values, "qc": 0})


def town(hours: int = 5) -> pd.DataFrame:
    "Judged readings of a made town."
    made = records(make_city(sensors=60, seed=3), MIDNIGHT, MIDNIGHT + pd.Timedelta(hours=hours))
    return judge(measurements(made)).reindex(columns=list(READING_COLUMNS))


def slowly(frame: pd.DataFrame) -> pd.DataFrame:
    "Hourly averages, the plain way."
    rows = []
    for (sensor, name), series in frame[(frame["qc"] & 127) == 0].groupby(["sensor_id", "value_type"]):
        for hour, part in series.groupby(series["ts"].dt.floor("h")):
            values = part["value"].to_numpy()
            summed = {"mean": np.mean, "energetic": energetic_mean, "min": np.min, "max": np.max}[statistic_of(name)]
            rows.append((sensor, name, hour, summed(values), len(values)))
    return pd.DataFrame(rows, columns=["sensor_id", "value_type", "ts", "value", "count"])


def test_energetic_mean_along_an_axis() -> None:
    assert energetic_mean([40, 70]) == pytest.approx(66.99, abs=0.01)
    assert energetic_mean([[60, 60], [40, 70]], axis=1) == pytest.approx([60, 66.99], abs=0.01)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_every_value_type_of_the_table_has_a_statistic(value_type: str) -> None:
    assert average(readings([0, 100, 200], value_type, [1.0, 2.0, 4.0]))["count"].tolist() == [3]


def test_noise_is_summed_up_by_energy_maximum_and_minimum() -> None:
    names = ["noise_LAeq", "noise_LA_max", "noise_LA_min"]
    heard = pd.concat([readings([0, 148], name, [40.0, 70.0]) for name in names])
    assert average(heard).set_index("value_type")["value"].to_dict() == pytest.approx(
        {"noise_LAeq": 66.99, "noise_LA_max": 70, "noise_LA_min": 40}, abs=0.01
    )


def test_unknown_value_type_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="durP1"):
        average(readings([0, 148], "durP1"))


@pytest.mark.parametrize("window", ["0s", "500ms", "-1h"])
def test_window_must_be_whole_seconds(window: str) -> None:
    with pytest.raises(SettingError, match="whole seconds"):
        average(readings([0, 148]), window)


def test_same_as_the_plain_way_on_a_made_town() -> None:
    judged = town()
    fast = average(judged)
    both = slowly(judged).merge(fast[fast["count"] > 0], on=["sensor_id", "value_type", "ts"], how="outer")
    assert both["value_x"].to_numpy("float64") == pytest.approx(both["value_y"].to_numpy("float64"))
    assert both["count_x"].tolist() == both["count_y"].tolist()


def test_order_and_repeats_change_nothing() -> None:
    judged = town(hours=2)
    mixed = pd.concat([judged, judged.sample(500, random_state=1)]).sample(frac=1, random_state=2)
    key = ["sensor_id", "value_type", "ts"]
    first, second = (average(frame).sort_values(key, ignore_index=True) for frame in (judged, mixed))
    pd.testing.assert_frame_equal(first, second)


def test_gap_is_a_row() -> None:
    hours = average(readings(np.r_[0:3600:148, 4 * 3600 : 5 * 3600 : 148]))
    assert hours["ts"].tolist() == list(pd.date_range(MIDNIGHT, periods=5, freq="1h"))
    assert hours["value"].isna().tolist() == [False, True, True, True, False]
    assert hours["coverage"].tolist()[1:4] == [0, 0, 0]


def test_flagged_readings_do_not_count_and_advice_does() -> None:
    frame = readings(range(0, 3600, 148)).assign(qc=[FLAGS["range"]] * 5 + [FLAGS["indoor"]] * 20)
    frame["value"] = [9e9] * 5 + [10.0] * 20
    hour = average(frame).iloc[0]
    assert (hour["value"], hour["count"]) == (10, 20)
    assert hour["coverage"] == pytest.approx(20 * 148 / 3600)


def test_coverage_of_a_steady_sensor() -> None:
    day = average(readings(range(0, 86_400, 148)))
    assert day["coverage"].between(0.98, 1).all()
    lost = average(readings(range(0, 86_400, 148)).iloc[1::2])["coverage"]
    assert lost.between(0.98, 1).all()  # every 296 s is a beat of its own


def test_lost_report_costs_one_step() -> None:
    frame = readings(range(0, 3600, 100))
    assert average(frame.drop(index=[7, 8, 20]))["coverage"].tolist() == [pytest.approx(33 / 36)]


def test_coverage_of_bursts_is_the_time_listened() -> None:
    bursts = np.add.outer(np.arange(0, 86_400, 2220), np.arange(0, 300, 10)).ravel()
    day = average(readings(bursts, "noise_LAeq", 50.0), "1D").iloc[0]
    assert day["coverage"] == pytest.approx(300 / 2220, abs=0.002)


def test_reports_that_come_together_do_not_fill_the_hour_twice() -> None:
    twice = np.add.outer(np.arange(0, 3600, 148), [0, 1, 2]).ravel()
    assert average(readings(twice))["coverage"].max() <= 0.03


def test_lone_reading_has_a_value_and_covers_nothing() -> None:
    hour = average(readings([10])).iloc[0]
    assert (hour["value"], hour["count"], hour["coverage"]) == (10, 1, 0)
    assert steps(readings([10]))["step_s"].isna().all()


def test_no_readings_no_windows() -> None:
    assert average(readings([]).iloc[:0]).empty


def test_steps_see_the_beat_of_bursts_and_of_the_steady() -> None:
    bursts = np.add.outer(np.arange(0, 86_400, 2220), np.arange(0, 300, 10)).ravel()
    both = pd.concat([readings(bursts, sensor_id=8), readings(range(0, 9000, 148), sensor_id=9)])
    assert steps(both).set_index("sensor_id")["step_s"].to_dict() == {8: 10, 9: 148}


def test_real_noise_meter_in_bursts(shared_data) -> None:
    frame = pd.read_csv(shared_data / "archive" / "2026-02_laerm_sensor_94448_to_02-24.csv.gz", sep=";")
    level = pd.to_numeric(frame["noise_LAeq"])
    ts = pd.to_datetime(frame["timestamp"], utc=True)
    heard = pd.DataFrame({"sensor_id": 1, "value_type": "noise_LAeq", "ts": ts, "value": level, "qc": 0})
    assert steps(heard)["step_s"].tolist() == [10]
    assert 0.05 < average(heard, "1D")["coverage"].iloc[1:-1].median() < 0.15


def test_ten_million_readings_take_seconds() -> None:
    judged = town(hours=2)
    many = pd.concat([judged.assign(sensor_id=judged["sensor_id"] + 1000 * k) for k in range(1_000_000 // len(judged))])
    began = time.process_time()
    average(many)
    assert (time.process_time() - began) / len(many) < 5e-6
