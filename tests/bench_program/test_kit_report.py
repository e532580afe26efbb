"""The benchmarks' report: how figures are written, the page, the files, the index over all pages."""

import json
from pathlib import Path

import pytest
from bench.kit.index import index, write_index
from bench.kit.report import Aim, Curve, Result, Table, markdown, markdown_table, shown, write
from bench.kit.values import short
from rich.console import Console

from broker.bench.tables import Cell, text_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("as it is", "as it is"),
        (0, "0"),
        (1234567, "1,234,567"),
        (-12345, "-12,345"),
        (0.0, "0"),
        (8213.4, "8,213"),
        (99.96, "100"),
        (99.94, "99.9"),
        (12.345, "12.3"),
        (1.0, "1.00"),
        (-1.236, "-1.24"),
        (0.03456, "0.0346"),
        (0.0000001, "0.000000"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_cells_have_three_digits_that_count(value: Cell, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (250, "250"), (1500, "1.5k"), (20_000, "20k"), (3e6, "3M"), (2e9, "2G")],
)
def test_numbers_of_axes_are_short(value: float, text: str) -> None:
    assert short(value) == text


def result(**changes: object) -> Result:
    fields: dict[str, object] = {
        "name": "sample",
        "title": "A sample",
        "command": "python -m bench.sample",
        "environment": {"commit": "abc1234", "cores": "2", "load before": "0.1"},
        "seconds": 12.3,
        "tables": [Table("Rates", ["", "messages/s"], [["product", 8213.4], ["a|b", None]], "a note")],
        "curves": [Curve("growth", "Growth", "agents", "us", {"us": [(10, 1.5), (100, 2.5)]})],
        "aims": [Aim("rate", "10,000/s", "8,213/s", met=False), Aim("p50", "2 ms", "1 ms", met=True)],
        "notes": ["something to know"],
        **changes,
    }
    return Result(**fields)  # type: ignore[arg-type]  # the fields' types vary, msgspec does not care


PAGE = """\
# A sample

## Aims

| aim | wanted | measured | met |
| --- | --- | --- | --- |
| rate | 10,000/s | 8,213/s | NO |
| p50 | 2 ms | 1 ms | yes |

## Rates

|  | messages/s |
| --- | ---: |
| product | 8,213 |
| a\\|b |  |

a note

![Growth](sample-growth.svg)

- something to know

`python -m bench.sample`, 12 s. commit: abc1234; cores: 2; load before: 0.1.
"""


def test_page_has_aims_tables_plots_notes_and_how_to_repeat_it() -> None:
    assert markdown(result()) == PAGE


def test_what_is_wrong_stands_first_on_the_page() -> None:
    page = markdown(result(wrong=["3 messages missing"]))
    assert page.startswith("# A sample\n\n**Wrong: 3 messages missing**\n\n## Aims")


def test_column_with_a_word_in_it_is_not_aligned_as_numbers() -> None:
    table = Table("", ["n", "mixed", "empty"], [[1, 2, None], [2.5, "none", None]])
    assert markdown_table(table)[0].splitlines()[1] == "| ---: | --- | --- |"


def test_result_is_written_as_page_json_and_plots_the_same_every_time(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "still"
    write(result(), out)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    write(result(), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    assert sorted(first) == ["sample-growth.svg", "sample.json", "sample.md"]
    written = json.loads(first["sample.json"])
    assert written["tables"][0]["rows"][0] == ["product", 8213.4]
    assert written["curves"][0]["series"] == {"us": [[10, 1.5], [100, 2.5]]}


def test_terminal_shows_what_the_page_says() -> None:
    console = Console(width=100, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115  # for the test
    with console.file:
        console.print(shown(result().tables[0]))
    text = console.export_text()
    assert "8,213" in text
    assert "a note" in text


def test_index_names_every_aim_and_links_to_pages_and_plots() -> None:
    page = index([result(), result(name="other", title="Another", aims=[], curves=[])], {})
    assert "| [A sample](sample.md) | rate | 10,000/s | 8,213/s | **no** |" in page
    assert "| [A sample](sample.md) | p50 | 2 ms | 1 ms | yes |" in page
    assert "1 of 2 met." in page
    assert "[Growth](sample-growth.svg)" in page
    assert "| [Another](other.md) |" in page
    assert "failed" not in page


def test_index_says_which_programs_failed() -> None:
    assert "**other failed with exit code 130.**" in index([result()], {"other": 130})


def test_index_leaves_out_what_was_never_measured_or_is_half_written(tmp_path: Path) -> None:
    write(result(), tmp_path)
    (tmp_path / "broken.json").write_text('{"name": "broken"')
    (tmp_path / "strange.json").write_text("{}")
    write_index(tmp_path, ["absent", "broken", "strange", "sample"], {})
    page = (tmp_path / "README.md").read_text()
    assert "sample.md" in page
    assert "broken" not in page
    assert "strange" not in page


def test_index_has_the_order_it_was_given(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(result(name=name, title=name), tmp_path)
    write_index(tmp_path, ["b", "a"], {})
    page = (tmp_path / "README.md").read_text()
    assert page.index("(b.md)") < page.index("(a.md)")
