"""The table that the benchmarks share, and the script that gathers their rows."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def shared(monkeypatch):
    """The modules `_table` and `_gather`, imported as the benchmarks import them."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delitem(sys.modules, "_table", raising=False)
    import _gather
    import _table

    return _table, _gather


def test_a_ratio_above_one_means_better(shared):
    table, _ = shared
    assert table.row("a", 2.0, "s", 6.0, "peer")["ratio"] == 3
    assert table.row("a", 6.0, "images/s", 2.0, "peer", better="more")["ratio"] == 3
    assert table.row("a", 0.0, "s", 6.0, "peer")["ratio"] is None  # not infinite: JSON has none
    assert table.row("a", 2.0, "s")["ratio"] is None
    with pytest.raises(ValueError, match="expected 'less' or 'more'"):
        table.row("a", 2.0, "s", 6.0, "peer", better="most")
    assert table.package("numpy").startswith("numpy 2") and table.package("no-such") is None


def test_the_table_shows_every_row(shared):
    table, _ = shared
    lines = table.table([table.row("fast", 0.5, "s", 1.0, "slow 1.0"),
                         table.row("large", 12345.6, "MB")]).splitlines()
    assert lines[2] == "| fast | 0.5 | 1 | s | 2 | slow 1.0 |"
    assert lines[3] == "| large | 12,346 | – | MB | – | – |"


def test_rows_of_all_scripts_are_gathered_and_a_failure_is_named(shared, tmp_path, capfd):
    _, gather = shared
    script = "import _table\ndef rows(): return [_table.row({!r}, {}, 's', 8, 'p')]\n"
    for name, ours in (("row_a", "2"), ("row_b", "1 / 0"), ("row_c", "4")):
        (tmp_path / f"{name}.py").write_text(script.format(name, ours))
    (tmp_path / "helper.py").write_text("")
    found = gather.scripts(tmp_path)
    assert list(found) == ["row_a", "row_b", "row_c"]
    assert gather.gather(found.values(), tmp_path / "out" / "bench.json") == ["row_b"]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert found.keys() == {"rows", "machine"}
    assert [(r["name"], r["ratio"]) for r in found["rows"]] == [("row_a", 4), ("row_c", 2)]
    assert set(found["rows"][0]) == {"name", "ours", "peer", "peer_name", "unit", "ratio"}
    assert "| row_a | 2 | 8 | s | 4 | p |" in capfd.readouterr().out


def test_every_benchmark_is_explained(shared):
    _, gather = shared
    page = (HERE / "README.md").read_text()
    assert {"glm", "betas", "streaming"} <= set(gather.scripts())
    for name, path in gather.scripts().items():
        assert f"`{path.name}`" in page, name
