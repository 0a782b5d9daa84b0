"""Make sensorlib/assets/outlines.geojson.gz: land, borders and country names for the maps.

The outlines are Natural Earth's, 1:50m, version 4.1.0, in the public domain (https://www.naturalearthdata.com);
they show who controls a territory in fact. They come from the npm package world-atlas 2.0.2, which holds them as
TopoJSON: every line once, so that the land has no seams and a border is the line that two countries share.

    python tools/outlines.py            # needs npm, and the network once
"""

import gzip
import hashlib
import json
import subprocess
import tarfile
import tempfile
from itertools import pairwise
from math import ceil, log2, sqrt
from pathlib import Path

PACKAGE = "world-atlas@2.0.2"
SHA256 = "04342cdc1e3016bcd7db1630de95684d67b79fe3c8c460321e87aef469502394"  # of countries-50m.json
TARGET = Path(__file__).resolve().parents[1] / "sensorlib" / "assets" / "outlines.geojson.gz"
DECIMALS = 2  # 0.01 degree is about a kilometre, what 1:50m can show
RENAMED = {"Macedonia": "North Macedonia", "eSwatini": "Eswatini"}  # since version 4.1.0


def fetch_topology() -> dict:
    "Get the package from npm, check it, and read its TopoJSON."
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            content = archive.extractfile("package/countries-50m.json").read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"countries-50m.json of {PACKAGE} is not the file that was checked: expected sha256 {SHA256}")
    return json.loads(content)


def decode_arc(arc: list, transform: dict) -> list:
    "Turn the steps of a TopoJSON arc into rounded degrees, without repeated points."
    (scale_x, scale_y), (shift_x, shift_y) = transform["scale"], transform["translate"]
    x, y, points = 0, 0, []
    for step_x, step_y in arc:
        x, y = x + step_x, y + step_y
        point = [round(x * scale_x + shift_x, DECIMALS), round(y * scale_y + shift_y, DECIMALS)]
        if not points or points[-1] != point:
            points.append(point)
    return points


def unwrap_ring(ring: list) -> list:
    "Let a ring that passes the 180th meridian go on beyond 180 degrees; close one around a pole along that pole."
    points, turn = [ring[0]], 0
    for (before, _), (lon, lat) in pairwise(ring):
        turn += 360 if lon - before < -180 else -360 if lon - before > 180 else 0
        points.append([round(lon + turn, DECIMALS), lat])
    if turn:
        pole = 90 if points[0][1] > 0 else -90
        points += [[points[-1][0], pole], [points[0][0], pole], points[0]]
    return points


def polygons_of(geometry: dict, arcs: list) -> list:
    "Polygons of a geometry as rings of degrees; a negative number is an arc backwards."
    parts = [geometry["arcs"]] if geometry["type"] == "Polygon" else geometry["arcs"]
    polygons = []
    for part in parts:
        rings = []
        for ids in part:
            ring: list = []
            for i in ids:
                ring += (arcs[i] if i >= 0 else arcs[~i][::-1])[1 if ring else 0 :]
            if len(ring) >= 4:
                rings.append(unwrap_ring(ring))
        if rings:
            polygons.append(rings)
    return polygons


def arc_ids(geometry: dict) -> set:
    "Numbers of the arcs of a geometry, whichever way they run."
    parts = [geometry["arcs"]] if geometry["type"] == "Polygon" else geometry["arcs"]
    return {i if i >= 0 else ~i for part in parts for ids in part for i in ids}


def label_of(name: str, polygons: list) -> dict:
    "A point in the middle of the largest polygon of a country, and the zoom from which its name fits."
    best = (0.0, 0.0, 0.0)
    for ring in (polygon[0] for polygon in polygons):
        crosses = [(a, b, a[0] * b[1] - b[0] * a[1]) for a, b in pairwise(ring)]
        area = sum(c for _, _, c in crosses) / 2
        if abs(area) > best[0]:
            lon = sum((a[0] + b[0]) * c for a, b, c in crosses) / (6 * area)
            lat = sum((a[1] + b[1]) * c for a, b, c in crosses) / (6 * area)
            best = (abs(area), lon, lat)
    area, lon, lat = best
    width_px = 512 / 360 * sqrt(area)  # of the country at zoom 0
    zoom = min(8, max(1, ceil(log2(50 / width_px))))
    point = {"type": "Point", "coordinates": [round(lon, DECIMALS), round(lat, DECIMALS)]}
    return {"type": "Feature", "properties": {"part": "name", "name": name, "zoom": zoom}, "geometry": point}


def main() -> None:
    "Write the asset."
    topology = fetch_topology()
    arcs = [decode_arc(arc, topology["transform"]) for arc in topology["arcs"]]
    countries = [g for g in topology["objects"]["countries"]["geometries"] if g.get("arcs")]
    uses = [i for country in countries for i in arc_ids(country)]
    shared = sorted({i for i in uses if uses.count(i) > 1})
    (land,) = topology["objects"]["land"]["geometries"]
    shapes = {
        "land": {"type": "MultiPolygon", "coordinates": polygons_of(land, arcs)},
        "border": {"type": "MultiLineString", "coordinates": [arcs[i] for i in shared]},
    }
    features = [{"type": "Feature", "properties": {"part": p}, "geometry": shape} for p, shape in shapes.items()]
    for country in countries:
        name = country["properties"]["name"]
        if polygons := polygons_of(country, arcs):
            features.append(label_of(RENAMED.get(name, name), polygons))
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False, separators=(",", ":"))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB, {len(features)} features")


if __name__ == "__main__":
    main()
