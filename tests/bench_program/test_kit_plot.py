"""Plots: axes, where points and labels lie, and that what is written is a picture any reader can open."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import pairwise

import pytest
from bench.kit.axes import linear, logarithmic, spread
from bench.kit.svg import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, line_chart
from bench.kit.values import Curve
from hypothesis import given
from hypothesis import strategies as st

SVG = "{http://www.w3.org/2000/svg}"
POSITIVE = st.floats(1e-6, 1e12)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([8200, 8100, 6900], [0, 2000, 4000, 6000, 8000, 10000]),
        ([27000], [0, 10000, 20000, 30000]),
        ([0.7], [0, 0.2, 0.4, 0.6, 0.8]),
        ([-3, 4], [-4, -2, 0, 2, 4]),
        ([0, 0], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_linear_axis_begins_at_nothing_and_has_round_ticks(values: list[float], ticks: list[float]) -> None:
    assert linear(values, 0, 100).ticks == pytest.approx(tuple(ticks))


@pytest.mark.parametrize(
    ("values", "snug", "ticks"),
    [
        ([10, 1_000, 100_000], True, [10, 100, 1_000, 10_000, 100_000]),
        ([100, 9_000], True, [100, 200, 500, 1_000, 2_000, 5_000]),
        ([0.9, 400], False, [0.1, 1, 10, 100, 1_000]),
        ([3, 40], False, [2, 5, 10, 20, 50]),
        ([5], False, [5, 10]),
        ([0, -1], False, [1, 2]),
        ([], True, [1, 2]),
    ],
)
def test_logarithmic_axis_has_ticks_at_powers_of_ten(
    values: list[float], snug: bool, ticks: list[float]
) -> None:
    assert logarithmic(values, 0, 100, snug=snug).ticks == pytest.approx(tuple(ticks))


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.booleans())
def test_values_lie_on_their_axis_in_their_order(values: list[float], log: bool) -> None:
    axis = logarithmic(values, 10, 110, snug=False) if log else linear(values, 10, 110)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 - 1e-6 <= place <= 110 + 1e-6 for place in (*places, *map(axis.at, axis.ticks)))
    assert len(axis.ticks) >= 2
    assert len(axis.ticks) <= 20


def test_ten_times_as_much_is_as_far_anywhere_on_a_logarithmic_axis() -> None:
    axis = logarithmic([10, 100_000], 0, 400, snug=True)
    assert [axis.at(x) for x in (10, 100, 1_000, 10_000, 100_000)] == pytest.approx([0, 100, 200, 300, 400])
    assert axis.at(0) == 0


@given(st.lists(st.floats(84, 360), max_size=12))
def test_labels_are_kept_apart_in_their_order_and_within_bounds(wanted: list[float]) -> None:
    placed = spread(wanted, gap=17, low=84, high=360)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    heights = [placed[index] for index in order]
    assert all(after - before >= 17 - 1e-6 for before, after in pairwise(heights))
    assert all(84 - 1e-6 <= height <= 360 + 1e-6 for height in heights)


def test_labels_that_have_room_stay_where_they_are() -> None:
    assert spread([300, 100, 200], gap=17, low=84, high=360) == [300, 100, 200]


def curve(**changes: object) -> Curve:
    series = {"ours": [(10.0, 0.0), (1000.0, 50.0)], "<theirs> & co": [(10.0, 100.0), (1000.0, 100.0)]}
    fields: dict[str, object] = {
        "name": "c", "title": "A <title>", "x_label": "agents", "y_label": "us", "series": series, **changes,
    }  # fmt: skip
    return Curve(**fields)  # type: ignore[arg-type]  # the fields' types vary


def parsed(one: Curve) -> ET.Element:
    return ET.fromstring(line_chart(one))


def path_of(root: ET.Element, number: int) -> list[tuple[float, float]]:
    line = root.findall(f"{SVG}path[@class='line']")[number]
    pairs = (pair.split() for pair in line.attrib["d"].removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def words_of(root: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_points_lie_where_the_axes_say() -> None:
    root = parsed(curve())
    ours, theirs = path_of(root, 0), path_of(root, 1)
    assert [y for _, y in ours] == pytest.approx([BOTTOM, (TOP + BOTTOM) / 2])
    assert [y for _, y in theirs] == [TOP, TOP]
    assert [x for x, _ in ours] == [x for x, _ in theirs]
    assert LEFT == ours[0][0] < ours[1][0] < WIDTH
    dots = root.findall(f"{SVG}circle[@class='dot']")
    assert [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots] == [*ours, *theirs]


def test_points_are_drawn_from_left_to_right_whatever_their_order() -> None:
    given = curve(series={"a": [(1000.0, 1.0), (10.0, 2.0), (100.0, 3.0)]})
    xs = [x for x, _ in path_of(parsed(given), 0)]
    assert xs == sorted(xs)
    assert len(set(xs)) == 3


def test_every_line_is_named_at_its_end_beside_its_last_value() -> None:
    words = words_of(parsed(curve()))
    assert "50.0 ours" in words
    assert "100 <theirs> & co" in words
    assert {"A <title>", "agents", "us", "10", "100", "1k"} <= set(words)


def test_name_that_is_too_long_is_cut() -> None:
    (label,) = (text for text in words_of(parsed(curve(series={"x" * 99: [(1.0, 5.0)]}))) if "xx" in text)
    assert label == "5.00 " + "x" * 30 + "…"


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize(
    "series",
    [{}, {"empty": []}, {"point": [(5.0, 5.0)]}, {"zeros": [(0.0, 0.0), (1.0, 0.0)]}],
    ids=["no series", "no points", "one point", "zeros"],
)
def test_little_or_nothing_is_a_picture_too(
    series: dict[str, Sequence[tuple[float, float]]], log_x: bool, log_y: bool
) -> None:
    root = parsed(curve(series=series, log_x=log_x, log_y=log_y))
    assert "nan" not in ET.tostring(root, encoding="unicode")
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["C"]), max_size=60),
        st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=5),
        min_size=1,
        max_size=12,
    )
)
def test_everything_stays_within_the_picture(series: dict[str, list[tuple[float, float]]]) -> None:
    root = parsed(curve(series=series, log_y=True))
    for circle in root.iter(f"{SVG}circle"):
        assert LEFT - 1 <= float(circle.attrib["cx"]) <= WIDTH
        assert TOP - 1 <= float(circle.attrib["cy"]) <= BOTTOM + 1


def test_dark_readers_get_colours_of_their_own_and_text_no_series_colour() -> None:
    document = line_chart(curve())
    light, _, dark = document.partition("@media (prefers-color-scheme: dark)")
    for name in ("--ground", "--ink", "--grid", "--s0", "--s7"):
        assert f"{name}: #" in light
        assert f"{name}: #" in dark
    assert all("style" not in text.attrib for text in ET.fromstring(document).iter(f"{SVG}text"))
