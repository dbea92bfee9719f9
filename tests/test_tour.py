"""The tour's command line: what it refuses, how it says so, and what an interruption leaves."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "tour.py"


@pytest.fixture(scope="module")
def tour():
    spec = importlib.util.spec_from_file_location("tour", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refused(tour, capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        tour.main(arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_tour_refuses_an_unknown_option_in_one_line(tour, capsys):
    assert "--bogus" in refused(tour, capsys, ["--bogus"])


def test_tour_refuses_a_folder_that_it_cannot_write_in_one_line(tour, capsys, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for out in (in_the_way, in_the_way / "below"):
        assert str(out) in refused(tour, capsys, ["--out", str(out)])


def test_tour_interrupted_leaves_no_half_written_figure(tour, tmp_path):
    class Interrupted:
        def savefig(self, path, **_):
            pathlib.Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

    path = tmp_path / "figure.png"
    with pytest.raises(KeyboardInterrupt):
        tour.save(Interrupted(), path)
    assert list(tmp_path.iterdir()) == []
    figure = plt.figure()
    tour.save(figure, path)
    plt.close(figure)
    whole = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        tour.save(Interrupted(), path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [whole]


@pytest.fixture
def told(tmp_path):
    """What the tour prints and the folder of its figures: those of a run just before, or of one."""
    if "EQUIPOISE_TOUR" in os.environ:
        text = pathlib.Path(os.environ["EQUIPOISE_TOUR"]).read_text()
        return text, pathlib.Path(os.environ["EQUIPOISE_FIGURES"])
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "figures")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return run.stdout, tmp_path / "figures"


@pytest.mark.slow
def test_tour_prints_eighty_lines_at_most_and_four_figures(told):
    text, folder = told
    lines = text.splitlines()
    assert 20 <= len(lines) <= 80
    assert max(map(len, lines)) <= 120
    figures = sorted(folder.iterdir())
    assert [path.suffix for path in figures] == [".png"] * 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


@pytest.mark.slow
def test_tour_rows_of_the_bound_add_up(told):
    number = r"(-?[\d.]+)"
    evidence = float(re.search(rf"log evidence {number}", told[0])[1])
    rows = re.findall(
        rf"reconstruction {number}, KL {number}, ELBO {number}, gap {number}", told[0]
    )
    assert len(rows) == 2
    for reconstruction, kl, elbo, gap in (map(float, row) for row in rows):
        assert abs(reconstruction - kl - elbo) < 2e-4  # three roundings to four decimals
        assert abs(elbo + gap - evidence) < 2e-4
