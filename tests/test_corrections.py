"""Corrections of particle readings: published numbers, and where they do not hold."""

import numpy as np
import pandas as pd
import pytest

from sensorlib.core import SettingError
from sensorlib.corrections import CORRECTIONS, correct, humidity_beside, koehler_growth
from sensorlib.quality import FLAGS

NOON = pd.Timestamp("2026-01-15 12:00", tz="UTC")


def reading(value_type: str, value: float, **changes: object) -> dict[str, object]:
    "One good reading of a box."
    sensor_type = "DHT22" if value_type == "humidity" else "SDS011"
    base = {"sensor_type": sensor_type, "location_id": 1, "value_type": value_type, "ts": NOON, "value": value, "qc": 0}
    return base | changes


def box(humidity: float, **changes: object) -> pd.DataFrame:
    "PM2.5 and PM10 of one box, and its humidity, which may be changed."
    return pd.DataFrame([reading("P2", 20.0), reading("P1", 40.0), reading("humidity", humidity, **changes)])


def test_growth_of_crilley_2018() -> None:
    assert koehler_growth(np.array([0, 50, 90]), 0.33).tolist() == pytest.approx([1, 1.2, 2.8])


@pytest.mark.parametrize(
    ("method", "fine", "coarse"),
    [
        ("koehler_continental", 20 / 1.4242, 40 / 1.4242),
        ("streibl", 20 / 1.5133, None),
        ("hackair", 20 / 1.0227, 40 / 1.1018),
    ],
)
def test_published_formulas_at_seventy_percent(method: str, fine: float, coarse: float | None) -> None:
    corrected = correct(box(70.0), method)["corrected"].tolist()
    assert corrected == pytest.approx([fine, np.nan if coarse is None else coarse, np.nan], rel=1e-3, nan_ok=True)


def test_none_is_the_default_and_the_raw_value_stays() -> None:
    raw = box(70.0)
    assert correct(raw) is raw
    pd.testing.assert_frame_equal(correct(raw, "streibl")[raw.columns], raw)


@pytest.mark.parametrize("method", CORRECTIONS)
def test_outside_its_domain_there_is_no_value(method: str) -> None:
    assert correct(box(95.0), method)["corrected"].notna().any()
    outside = [box(95.1), box(99.9), box(70.0, location_id=2), box(70.0, qc=FLAGS["range"])]
    outside += [box(70.0, ts=NOON + pd.Timedelta("11min"))]
    assert not any(correct(frame, method)["corrected"].notna().any() for frame in outside)


def test_formula_for_one_instrument_leaves_the_others_alone() -> None:
    other = box(70.0).replace({"sensor_type": {"SDS011": "SPS30"}})
    assert correct(other, "hackair")["corrected"].isna().all()
    assert correct(other, "koehler_continental")["corrected"].notna().sum() == 2


def test_humidity_is_the_nearest_in_time_of_the_same_place() -> None:
    rows = [reading("P2", 20.0)]
    rows += [
        reading("humidity", 60.0, ts=NOON - pd.Timedelta("3min")),
        reading("humidity", 70.0, ts=NOON + pd.Timedelta("2min")),
    ]
    rows += [reading("humidity", 80.0, location_id=2)]
    shuffled = pd.DataFrame(rows, index=[7, 3, 9, 5])
    assert humidity_beside(shuffled).to_dict() == {7: 70, 3: 60, 9: 70, 5: 80}


def test_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="'best'"):
        correct(box(70.0), "best")
