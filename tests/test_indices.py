"""Indices against the examples and tables that their makers published."""

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import SettingError
from sensorlib.frames import average, energetic_mean
from sensorlib.indices import (
    PERIODS,
    US_BREAKPOINTS,
    US_ENDS,
    european_index,
    european_level,
    lden,
    noise_days,
    noise_year,
    nowcast,
    us_aqi,
    us_days,
    us_index,
)
from sensorlib.quality import FLAGS

BERLIN = "Europe/Berlin"


def hourly(values: object, start: str = "2026-03-02", value_type: str = "P2", sensor_id: int = 1) -> pd.DataFrame:
    "Fully covered hours of one sensor; NaN is an empty one."
    value = np.asarray(values, "float64")
    ts = pd.date_range(start, periods=len(value), freq="1h", tz="UTC")
    frame = pd.DataFrame({"sensor_id": sensor_id, "value_type": value_type, "ts": ts, "value": value})
    return frame.assign(count=24, coverage=np.where(np.isnan(value), 0.0, 1.0))


def noise(values: object, start: str = "2026-03-02 06:00") -> pd.DataFrame:
    "Hours of noise; from 7 in Berlin on, in winter."
    return hourly(values, start, "noise_LAeq")


def test_lden_of_the_directive() -> None:
    levels = pd.DataFrame({"Lday": [60.0, 60.0], "Levening": [55.0, 60.0], "Lnight": [50.0, np.nan]})
    assert lden(levels).tolist() == pytest.approx([60.0, np.nan], nan_ok=True)


def test_periods_fill_the_day() -> None:
    assert [(p.start, (p.start + p.hours) % 24, p.penalty) for p in PERIODS] == [(7, 19, 0), (19, 23, 5), (23, 7, 10)]


def test_noise_day_runs_from_seven_to_seven() -> None:
    day = noise_days(noise([60.0] * 12 + [55.0] * 4 + [50.0] * 8), BERLIN).set_index("day")
    assert day.index.tolist() == [pd.Timestamp("2026-03-02")]
    assert day.iloc[0].to_dict() == pytest.approx(
        {"sensor_id": 1, "Lday": 60, "Levening": 55, "Lnight": 50, "Lden": 60}
    )


def test_noise_of_a_period_is_averaged_by_energy() -> None:
    day = noise_days(noise([40.0, 70.0] * 12), BERLIN).iloc[0]
    assert day["Lday"] == pytest.approx(float(energetic_mean([40, 70])))


def test_clock_on_the_wall_decides_in_summer_too() -> None:
    in_july = noise_days(noise([60.0] * 12 + [55.0] * 4 + [50.0] * 8, "2026-07-02 05:00"), BERLIN)
    assert in_july[["Lday", "Levening", "Lnight"]].to_numpy().tolist() == [pytest.approx([60, 55, 50])]


@pytest.mark.parametrize("night", ["2026-03-28", "2026-10-24"])
def test_night_in_which_the_clock_changes_is_a_night(night: str) -> None:
    days = noise_days(noise([50.0] * 72, f"{night} 00:00"), BERLIN)
    assert days.set_index("day").loc[night, "Lnight"] == pytest.approx(50)


@pytest.mark.parametrize(("known", "whole"), [(6, True), (5, False)])
def test_night_needs_three_quarters_of_its_hours(known: int, whole: bool) -> None:
    night = [50.0] * known + [np.nan] * (8 - known)
    day = noise_days(noise([60.0] * 12 + [55.0] * 4 + night), BERLIN).iloc[0]
    assert (pd.notna(day["Lnight"]), pd.notna(day["Lden"])) == (whole, whole)


def test_sampled_hours_count_only_on_request() -> None:
    sampled = noise([50.0] * 24).assign(coverage=0.1)
    assert noise_days(sampled, BERLIN)["Lden"].isna().all()
    assert noise_days(sampled, BERLIN, coverage=0.05)["Lden"].tolist() == [pytest.approx(56.4, abs=0.01)]


def test_level_beyond_the_instrument_is_not_heard() -> None:
    ts = pd.date_range("2026-03-02 06:00", periods=24 * 40, freq="90s", tz="UTC")
    heard = pd.DataFrame({"sensor_id": 1, "value_type": "noise_LAeq", "ts": ts, "value": 50.0, "qc": 0})
    heard.loc[7, ["value", "qc"]] = [140.0, FLAGS["range"]]
    assert noise_days(average(heard), BERLIN)["Lden"].tolist() == [pytest.approx(56.4, abs=0.01)]


def test_year_is_the_energetic_mean_of_its_days() -> None:
    days = noise_days(noise([40.0] * 24 + [70.0] * 24), BERLIN)
    (year,) = noise_year(days).to_dict("records")
    assert year["days"] == 2
    assert year["Lnight"] == pytest.approx(66.99, abs=0.01)
    assert year["Lden"] == pytest.approx(66.99 + 6.40, abs=0.01)


def test_unknown_zone_is_refused() -> None:
    with pytest.raises(SettingError, match="Mars/Olympus"):
        noise_days(noise([50.0] * 24), "Mars/Olympus")


@pytest.mark.parametrize(
    ("value_type", "ends"), [("P2", [5, 15, 50, 90, 140]), ("P1", [15, 45, 120, 195, 270])], ids=["PM2.5", "PM10"]
)
def test_european_bands_of_2024(value_type: str, ends: list[float]) -> None:
    assert european_level(ends, value_type).tolist() == [1, 2, 3, 4, 5]
    assert european_level(np.array(ends) + 0.1, value_type).tolist() == [2, 3, 4, 5, 6]


def test_european_index_is_the_worst_of_both() -> None:
    both = pd.concat([hourly([4, 4, np.nan, np.nan]), hourly([10, 100, 200, np.nan], value_type="P1")])
    index = european_index(both)
    assert index["level"].tolist() == pytest.approx([1, 3, 5, np.nan], nan_ok=True)
    assert index["P2"].tolist() == pytest.approx([1, 1, np.nan, np.nan], nan_ok=True)


def test_us_example_of_the_technical_assistance_document() -> None:
    assert us_aqi([35.9], "P2") == [102]


@pytest.mark.parametrize("value_type", US_BREAKPOINTS)
def test_us_breakpoints_give_their_own_index(value_type: str) -> None:
    table = US_BREAKPOINTS[value_type]
    ends = np.array(table.highest)
    assert us_aqi(ends, value_type).tolist() == list(US_ENDS)
    assert us_aqi(ends[:-1] + table.step, value_type).tolist() == [end + 1 for end in US_ENDS[:-1]]


def test_us_concentrations_are_cut_and_not_rounded() -> None:
    assert us_aqi([9.0999, 35.4999, 325.5], "P2").tolist() == [50, 100, 500]
    assert us_aqi([54.99, 154.99], "P1").tolist() == [50, 100]


def test_us_index_never_falls() -> None:
    concentration = np.round(np.arange(0, 400, 0.1), 1)
    assert (np.diff(us_aqi(concentration, "P2")) >= 0).all()
    assert np.isnan(us_aqi([np.nan], "P2")).all()


@pytest.mark.parametrize(("known", "index"), [(18, 56), (17, None)])
def test_us_day_needs_eighteen_hours(known: int, index: int | None) -> None:
    day = us_days(hourly([12.0] * known + [np.nan] * (24 - known)), "UTC")
    assert [None if np.isnan(x) else x for x in day["aqi"]] == [index]


def test_nowcast_example_of_the_epa() -> None:
    past = [50, 80, 75, 90, 82, 53, 64, 74, 21, 10, 16, 13]
    assert nowcast(hourly(past))["nowcast"].iloc[-1] == pytest.approx(17.4, abs=0.05)


def plain_nowcast(past: list[float]) -> float:
    "NowCast of the last twelve hours, oldest first, as the EPA writes it step by step."
    newest = past[::-1][:12]
    if sum(not np.isnan(c) for c in newest[:3]) < 2:
        return np.nan
    known = [(age, c) for age, c in enumerate(newest) if not np.isnan(c)]
    low, high = min(c for _, c in known), max(c for _, c in known)
    factor = max(1 - (high - low) / high, 0.5)
    return sum(factor**age * c for age, c in known) / sum(factor**age for age, _ in known)


def test_nowcast_as_the_epa_writes_it_for_each_hour_of_two_sensors() -> None:
    random = np.random.default_rng(5)
    series = [np.where(random.random(60) < 0.25, np.nan, random.lognormal(2, 1, 60)) for _ in range(2)]
    frame = pd.concat([hourly(values, sensor_id=k) for k, values in enumerate(series)])
    expected = [plain_nowcast(list(values[: k + 1])) for values in series for k in range(60)]
    assert nowcast(frame)["nowcast"].tolist() == pytest.approx(expected, nan_ok=True)


def test_nowcast_of_clean_air_is_zero() -> None:
    assert nowcast(hourly([0.0] * 5))["nowcast"].iloc[-1] == 0


def test_us_index_of_now_is_the_worst_of_both() -> None:
    both = pd.concat([hourly([12.0] * 6), hourly([130.0] * 6, value_type="P1")])
    assert us_index(both)["aqi"].iloc[-1] == 88


@pytest.mark.parametrize("index", [european_index, us_index], ids=["european", "us"])
def test_five_minutes_have_no_index(index) -> None:
    ts = pd.date_range("2026-03-02", periods=3, freq="148s", tz="UTC")
    few = pd.DataFrame({"sensor_id": 1, "value_type": "P2", "ts": ts, "value": 80.0, "qc": 0})
    assert index(average(few)).iloc[:, -1].isna().all()


@pytest.mark.parametrize("index", [european_index, us_index, nowcast], ids=["european", "us", "nowcast"])
def test_frame_that_is_not_hourly_is_refused(index) -> None:
    hours = hourly([12.0] * 6)
    for wrong in (hours.drop(index=3), hours.assign(ts=hours["ts"] + pd.Timedelta("5min"))):
        with pytest.raises(SettingError, match="every hour"):
            index(wrong)


def test_nothing_gives_nothing() -> None:
    empty = hourly([])
    frames = [european_index(empty), us_index(empty), us_days(empty, "UTC"), noise_days(empty, BERLIN)]
    assert [len(frame) for frame in frames] == [0, 0, 0, 0]
