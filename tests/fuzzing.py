"""Generated input: how much of it, and what it is made of."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from conftest import SHARED_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensorlib.archive import open_files
from sensorlib.core import NAME_LENGTH, Reading

FULL = os.environ.get("FUZZ") == "full"  # `make fuzz`; else the cut of `make test`, always the same one


def inputs(cut: int, full: int) -> Callable[[Any], Any]:
    "Say how many inputs a property gets in `make test`, and how many in `make fuzz`."
    return settings(
        max_examples=full if FULL else cut,
        derandomize=not FULL,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


GOOD = {
    "id": 1, "sampling_rate": None, "timestamp": "2024-03-05 06:00:00",
    "location": {"id": 7, "latitude": "47.37", "longitude": "8.54", "altitude": "408.0", "country": "CH", "indoor": 0, "town": "Zürich"},
    "sensor": {"id": 81, "pin": "1", "sensor_type": {"id": 14, "name": "SDS011", "manufacturer": "Nova Fitness"}},
    "sensordatavalues": [
        {"id": 10, "value": "14.20", "value_type": "P1"},
        {"id": 11, "value": "9.80", "value_type": "P2"},
    ],
}  # fmt: skip
ENRICHED = GOOD | {"country_abb": "CH", "place": "Zürich", "cell": "47.3_8.5", "fetched_at": "2024-03-05T06:01:00Z"}
DAY_FILE = (
    b"sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
    b"81;SDS011;7;47.37;8.54;2024-03-05T06:00:00;14.20;;;9.80;;\n"
    b'81;"SDS 011";7;47.37;8.54;2024-03-05T06:02:28;15.20;;;9.90;;\n'
    b"81;SDS011;7;47.37;8.54;2024-03-05T06:04:56;;;;unknown;;\n"
)


def drawn(strategy: st.SearchStrategy[Any], cut: int, full: int) -> list[Any]:
    "Many examples at once, for what is too slow to be asked one by one."
    found: list[Any] = []

    @given(strategy)
    @inputs(cut, full)
    def collect(made: Any) -> None:
        found.append(made)

    collect()
    return found


def answers() -> list[bytes]:
    "Answers in every form that the feed and its mirrors have."
    three = [{**GOOD, "id": number} for number in (1, 2, 3)]
    lines = [json.dumps(record, ensure_ascii=False) for record in three]
    texts = [json.dumps(three), "\n".join(lines), "\r\n".join(lines), ",\n".join(lines), json.dumps(three, indent=1)]
    return [text.encode() for text in texts]


@lru_cache(maxsize=1)
def published() -> dict[str, list[bytes]]:
    "The first 3 kB of every published answer, and of some day files; none where they are absent."
    found: dict[str, list[bytes]] = {"json": [], "csv": []}
    for name in ("api", "odd", "archive"):
        for path in sorted((SHARED_DATA / name).glob("*")):
            plain = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else b""
            members = [plain] if plain else [data for _, (_, data) in zip(range(9), open_files(path), strict=False)]
            found["csv" if name == "archive" else "json"] += [member[:3000] for member in members]
    return found


NASTY = [
    *(character.encode() for character in ' \t\n\r"\\{}[],:;=-+.0é\x00\x1f\x7f\u0085\u00a0\u2028\u202e\ufeff'), b"\xff", b"\xed\xa0\x80", b"\xc3", b"\r\n",
    b"[" * 1500, b"[" * 900 + b"]" * 900, b'{"a":' * 400, b'{"a":' * 150 + b"1" + b"}" * 150, b"9" * 5000, b"1e999", b"-1e-999", b"NaN", b"-Infinity", b"null", b"true", b"0x1F",
    b'"\\ud800"', b'"\\ud83d\\ude00"', b'"sensordatavalues"', b"'", b"''", b"--", b"sensor_id;timestamp\n", b"</html>", "👩‍👩‍👧".encode(), b"A" * 70_000,
]  # fmt: skip


def _some(items: list[Any]) -> st.SearchStrategy[Any]:
    "One of some items, which are too long to be told."
    return st.integers(0, len(items) - 1).map(items.__getitem__)


EDIT = st.tuples(
    st.integers(0, 2**16), st.sampled_from([0, 0, 1, 2, 7, 60, 4096]), _some(NASTY) | st.binary(max_size=4)
)
DRESSES: list[Callable[[bytes], bytes]] = [
    *[bytes] * 8,
    lambda data: data + data,
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.decode(errors="replace").encode("utf-16"),
    lambda data: data.decode(errors="replace").encode("latin-1", "replace"),
    lambda data: bytes(byte ^ 0x20 for byte in data),
    lambda data: data[::-1],
]


def edited(
    data: bytes, edits: list[tuple[int, int, bytes]], cut: int = 100, dress: Callable[[bytes], bytes] = bytes
) -> bytes:
    "Bytes in which some were overwritten, and of which only so many per cent came."
    for place, length, new in edits:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + length :]
    return dress(data[: len(data) * cut // 100])


def spoilt(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    "Some of these bytes, overwritten, cut and recoded; or any bytes at all."
    cuts = st.sampled_from([100, 100, 100, 100, 99, 50, 10])
    parts = st.tuples(_some(pieces), st.lists(EDIT, max_size=4), cuts, st.sampled_from(DRESSES))
    return st.one_of(*[parts.map(lambda found: edited(*found))] * 4, st.binary(max_size=200))


def spoilt_answers() -> st.SearchStrategy[bytes]:
    "Answers of the feed that something happened to."
    return spoilt(answers() + published()["json"])


def spoilt_day_files() -> st.SearchStrategy[bytes]:
    "Day files that something happened to."
    return spoilt([DAY_FILE, DAY_FILE.replace(b";", b","), *published()["csv"]])


def almost_plain_day_files() -> st.SearchStrategy[bytes]:
    "Day files of whole rows, in which little happened."
    whole = [piece[: piece.rfind(b"\n") + 1] for piece in published()["csv"]]
    cells = [
        b"",
        b" ",
        b"0",
        b"NULL",
        b"nan",
        b"-",
        b"1e5",
        b"#",
        b"'",
        b"\\",
        b"\t",
        b"\x1c",
        b"\r",
        b"\n",
        b";",
        b"\n;\n",
    ]
    edits = st.tuples(
        st.integers(0, 2**16), st.sampled_from([0, 1, 2, 7]), st.sampled_from(cells) | st.binary(max_size=2)
    )
    parts = st.tuples(_some([DAY_FILE.replace(b'"', b""), *whole]), st.lists(edits, max_size=2))
    return parts.map(lambda found: edited(*found))


NAMES = st.text(st.characters(codec="utf-8"), max_size=12) | st.text(
    ",= \\\"'\n\t\r\x00\u2028é東👩\u200d\u202eא", max_size=12
)
NUMBERS = [
    "12.30", "-0", "+7", ".5", "5.", "007", "1e5", "1E-3", "5e-99", "9007199254740993", "1" * 60, "1" * 61, "1e99", "1e100", "", " ", ".", "1 ", "1\n", "1\r",
    "12\u2028", "\u00a01", "1_000", "1,5", "--1", "0x10", "1d", "1f", "NaN", "-inf", "Infinity", "٣", "１", "unknown", "999.9", "-147.58", "1\x00",
]  # fmt: skip
TIMES = [
    "2017-08-10T11:23:41", "2024-02-29 12:00:00.5Z", "2099-12-31 23:59:59", "2000-01-01 00:00:00+00:00", "2024-03-06 06:01:00", "2023-02-29 12:00:00",
    "1999-12-31 23:59:59", "2024-03-05 24:00:00", "2024-03-05 06:00:00\n", "2024-03-05T06:00:00+02:00", "٢٠٢٤-03-05 06:00:00", "2024-03-05T06:00:00Z", "",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 81, -1, 2**63, 10**18, 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(NUMBERS),
    st.sampled_from(TIMES),
    NAMES,
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)


MISSING = object()


def _mostly(good: Any, *odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*[st.just(good)] * 6, *odd, JSON, st.just(MISSING))


def _fields(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields).map(lambda made: {k: v for k, v in made.items() if v is not MISSING})


TYPES = ["P1", "P2", "temperature", "pressure", "pressure_at_sealevel", "noise_LAeq", "mood", "p1", ""]
VALUE = _fields(
    value=_mostly("9.80", st.sampled_from(NUMBERS), SCALARS),
    value_type=st.sampled_from(TYPES) | _mostly("P1", NAMES),
)
RECORDS = _fields(
    id=_mostly(1, st.integers(1, 5)),
    timestamp=_mostly("2024-03-05 06:00:00", st.sampled_from(TIMES)),
    sensor=_mostly(
        GOOD["sensor"],
        _fields(
            id=_mostly(81, st.sampled_from(NUMBERS)), sensor_type=_mostly({"name": "PPD42NS"}, _fields(name=NAMES))
        ),
    ),
    location=_mostly(
        GOOD["location"],
        _fields(**dict.fromkeys(("id", "latitude", "longitude", "altitude", "indoor", "country"), SCALARS)),
    ),
    sensordatavalues=_mostly(GOOD["sensordatavalues"], *[st.lists(VALUE | SCALARS, max_size=3)] * 4),
    country_abb=_mostly("CH", NAMES),
    place=_mostly("Zürich", NAMES),
    cell=_mostly("47.3_8.5", NAMES),
    fetched_at=_mostly("2024-03-05T06:01:00Z", st.sampled_from(TIMES)),
)

_LETTERS = [
    st.characters(),
    st.sampled_from(",= \\\"'\n\t\r\x00\x7f\u0085\u2028é東👩\u200d\ufe0f\u202eא\ud800"),
    st.sampled_from(", =\\"),
]
LABELS = st.one_of(st.none(), *[st.text(letters, max_size=size) for letters in _LETTERS for size in (8, 8, 200)])
EDGES = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1 + 0.2, 1e16, 1e22]
DECIMALS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(EDGES)
IDS = st.integers(1, 10**18 - 1)
READINGS = st.builds(
    Reading,
    sensor_id=IDS,
    ts=st.integers(946_684_800, 4_102_444_799).map(lambda second: datetime.fromtimestamp(second, UTC)),
    kind=st.just("particulates"),
    value_type=st.sampled_from(["P0", "P1", "P2", "P4"]),
    value=DECIMALS,
    qc=st.integers(0, 4095),
    record_id=st.none() | IDS,
    sensor_type=LABELS,
    location_id=st.none() | IDS,
    lat=st.none() | DECIMALS,
    lon=st.none() | DECIMALS,
    altitude=st.none() | DECIMALS,
    indoor=st.none() | st.booleans(),
    country=LABELS,
    place=LABELS,
    cell=LABELS,
)


def _message(record: dict[str, Any], ascii: bool, indent: int | None) -> bytes:
    return json.dumps(record, ensure_ascii=ascii, indent=indent).encode()


_WHOLE = st.builds(_message, RECORDS, st.booleans(), st.sampled_from([None, None, 1]))
_SPOILT = st.builds(edited, _WHOLE | st.just(_message(ENRICHED, False, None)), st.lists(EDIT, min_size=1, max_size=2))
MESSAGES = st.one_of(
    _WHOLE, _WHOLE, _WHOLE, _WHOLE, _SPOILT, _SPOILT, st.binary(max_size=60), st.text(max_size=30).map(str.encode)
)


def _refuse(text: str) -> Any:
    raise ValueError(text[:20])


def _within_limits(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _refuse("name") if any(len(name) > 50_000 for name, _ in pairs) else dict(pairs)


def _int(text: str) -> int:
    return _refuse(text) if len(text.lstrip("-")) > 1000 else int(text)


def _float(text: str) -> float:
    exponent = int(text.lower().partition("e")[2] or 0)  # Java has 32 bits for it
    return _refuse(text) if len(text) > 1000 or abs(exponent) > 2 * 10**9 else float(text)


def as_object(message: bytes) -> dict[str, Any] | None:
    "The one JSON object that a message is, as Flink's parser takes it; None for anything else."
    try:
        found = json.loads(
            message.decode(),
            parse_constant=_refuse,
            parse_int=_int,
            parse_float=_float,
            object_pairs_hook=_within_limits,
        )
    except (ValueError, RecursionError):
        return None
    values = found.get("sensordatavalues") if isinstance(found, dict) else None
    if isinstance(values, list) and values:  # what is no object in a list is passed over; of nothing else one is left
        found["sensordatavalues"] = [value for value in values if isinstance(value, dict)] or [None]
    return found if isinstance(found, dict) else None


def same_text(text: str) -> str:
    "A text, but for how Python and Java write the numbers in it."
    composite = text.startswith(("[", "{"))
    with suppress(ValueError):
        text = json.dumps(json.loads(text, parse_constant=str), ensure_ascii=False)
    if composite and len(text) >= NAME_LENGTH:  # cut at a place that depends on how its numbers are written
        return "long"
    return text.encode(errors="replace").decode()


@contextmanager
def raised_recursion_limit() -> Iterator[None]:
    "Let Python go as deep as Java does."
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    yield
    sys.setrecursionlimit(before)
