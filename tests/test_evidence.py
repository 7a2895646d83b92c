"""What README and docs claim has a command that measures it, and the page of measurements says what is old."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MODULE = """\
\"\"\"What it does.\"\"\"


def double(x):
    \"\"\"Of a number.\"\"\"
    return 2 * x  # why
"""
# It goes on with what its file has, as experiments do.
COUNTING = """\
import json, os, subprocess, sys, time
from pathlib import Path

import tiny

path = Path(__file__).with_suffix(".json")
found = json.loads(path.read_text()) if path.exists() else {"rows": [], "by": []}
rows, kept = found["rows"], found["by"]
for number in range(len(rows), int(sys.argv[1])):
    time.sleep(float(sys.argv[2]) if number else 0)
    rows.append(tiny.double(number))
    head = subprocess.check_output(["git", "rev-parse", "--short=7", "HEAD"], text=True).strip()
    kept.append(os.getpid())
    told = {"rows": rows, "by": kept, "commit": head, "date": "2026-11-30", "machine": {"cpu": "one"}}
    path.with_suffix(".part").write_text(json.dumps(told))
    path.with_suffix(".part").replace(path)
"""


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import evidence

    evidence.look_again()
    return evidence


@pytest.fixture
def project(evidence, monkeypatch, tmp_path):
    """A repository with a package of one module and an experiment that counts to three in no time."""
    root = tmp_path / "project"
    (root / "experiments").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "tiny.py").write_text(MODULE)
    (root / "setup.cfg").write_text("[metadata]\nname = tiny\nversion = 1\n[options]\npy_modules = tiny\n")
    (root / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")
    (root / "experiments" / "counting.py").write_text(COUNTING)
    (root / "experiments" / "evidence.yaml").write_text(table("counting.py 3 0"))
    commit(root, "begin")
    table_module = sys.modules["evidence_table"]
    monkeypatch.setattr(table_module, "ROOT", root)
    monkeypatch.setattr(table_module, "TABLE", root / "experiments" / "evidence.yaml")
    monkeypatch.setattr(evidence, "PAGE", root / "docs" / "measured.md")
    monkeypatch.setattr(evidence.tables, "write", lambda: (root / "docs" / "tables").write_text("written"))
    return root


def table(command):
    one = {"run": command, "minutes": 1, "areas": ["module"], "claims": ["docs/results.md#counting"]}
    return yaml.safe_dump({"areas": {"module": ["tiny.py"]}, "experiments": {"counting": one}})


def commit(root, message, only="."):
    git = ["git", "-C", str(root), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    if not (root / ".git").exists():
        subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", only], check=True)
    subprocess.run([*git, "commit", "-q", "-m", message], check=True)
    return subprocess.check_output([*git, "rev-parse", "--short=7", "HEAD"], text=True).strip()


def measured(root):
    return json.loads((root / "experiments" / "counting.json").read_text())


def run(evidence, root, minutes=1.0, anew=False, names=()):
    evidence.look_again()
    return evidence.run(list(names), minutes, root / "runs", anew)


def test_every_file_of_numbers_has_its_command_and_every_command_its_script(evidence):
    known = evidence.experiments()
    files = {path.stem for path in (ROOT / "experiments").glob("*.json")}
    assert files <= set(known)
    for experiment in known.values():
        assert all((ROOT / path).exists() for path in experiment.paths), experiment.paths
        assert experiment.minutes > 0
        assert experiment.claims


def test_a_claim_stands_where_the_table_says(evidence):
    for experiment in evidence.experiments().values():
        script = Path(experiment.script).name
        for name, section in experiment.claims:
            page = ROOT / name
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
            assert not section or section in slugs, (name, section)
            if experiment.numbers() is not None and name != "README.md":
                assert script in page.read_text(encoding="utf-8"), (script, name)


def test_the_commands_that_pages_name_are_those_of_the_table(evidence):
    known = {experiment.script for experiment in evidence.experiments().values()}
    tools = {"experiments/evidence.py", "experiments/picture.py", "experiments/probe.py"}
    for page in PAGES:
        named = set(re.findall(r"experiments/\w+\.py", page.read_text(encoding="utf-8")))
        assert named <= known | tools, page


def test_the_page_of_measurements_says_what_is_old(evidence):
    if any(experiment.since() == "unknown" for experiment in evidence.experiments().values()):
        pytest.skip("this checkout has not the history that numbers are dated by")
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(), "python experiments/evidence.py page writes it"


def test_numbers_are_old_once_the_code_reads_otherwise(evidence, project):
    (experiment,) = evidence.experiments().values()
    assert experiment.since() == "never"
    assert run(evidence, project)
    assert measured(project)["rows"] == [0, 2, 4]
    assert experiment.since() == "same"
    assert 0 <= measured(project)["minutes"] < 1
    assert '"rows": [0, 2, 4]' in (project / "experiments" / "counting.json").read_text()
    assert "1 of 1 are of today's code" in evidence.page()
    assert (project / "docs" / "tables").read_text() == "written"

    (project / "tiny.py").write_text(MODULE.replace("  # why", "  # for a reason").replace("Of a number", "Of any"))
    run(evidence, project)
    assert experiment.since() == "same"
    (project / "tiny.py").write_text(MODULE.replace("2 * x", "3 * x"))
    evidence.look_again()
    assert experiment.since() == "changed"
    assert "| changed |" in evidence.page()


def test_lists_of_numbers_take_a_line_and_nothing_else_changes(evidence):
    one = {
        "a": [1, -2.5, 3e-07],
        "b": ["x, y", 1],
        "c": [],
        "d": [[1, 2], [3]],
        "e": [{"f": [0]}],
        "g": [True, None],
        "h": "[1",
    }
    text = sys.modules["evidence_bench"].readable(one)
    assert json.loads(text) == one
    assert '"a": [1, -2.5, 3e-07]' in text
    assert '"f": [0]' in text


def test_what_is_only_said_of_code_is_not_code():
    sys.path.insert(0, str(ROOT / "experiments"))
    from evidence_table import code_of

    before = 'class A(B):\n    """Words."""\n    rate: float = Field(1, gt=0, description="old")\n'
    before += "    size = 2\n    f(description=3)\n"
    after = before.replace("Words", "More").replace("old", "new").replace("= 2", '= Field(2, description="x")  # why')
    assert code_of(before) == code_of(after)
    for here, there in (("gt=0", "ge=0"), ("Field(1", "Field(2"), ("= 2", "= Field(3)"), ("n=3", "n=4")):
        assert code_of(before) != code_of(before.replace(here, there))


def test_what_was_never_committed_is_old(evidence, project):
    run(evidence, project)
    told = measured(project)
    (project / "experiments" / "counting.json").write_text(json.dumps({**told, "commit": told["commit"] + "-dirty"}))
    (experiment,) = evidence.experiments().values()
    assert experiment.since() == "changed"


def test_the_last_commit_is_measured_and_not_what_changes_meanwhile(evidence, project, capsys):
    first = evidence.head()
    (project / "tiny.py").write_text(MODULE.replace("2 * x", "5 * x"))
    assert not run(evidence, project)  # what is measured is old already
    assert measured(project)["rows"] == [0, 2, 4]
    assert measured(project)["commit"] == first
    second = commit(project, "five")
    (experiment,) = evidence.experiments().values()
    evidence.look_again()
    assert experiment.since() == "changed"
    assert run(evidence, project)  # it was done at the first
    assert (measured(project)["rows"], measured(project)["commit"]) == ([0, 5, 10], second)
    assert f"measuring commit {second}\n" in capsys.readouterr().out


def test_what_began_at_a_commit_goes_on_there(evidence, project, capsys):
    (project / "experiments" / "evidence.yaml").write_text(table("counting.py 40 0.2"))
    first = commit(project, "slower")
    assert not run(evidence, project, minutes=1 / 60)
    (project / "tiny.py").write_text(MODULE.replace("2 * x", "5 * x"))
    second = commit(project, "five")
    assert not run(evidence, project, minutes=1 / 60)
    assert f"measuring commit {first}, not {second}: --anew takes that" in capsys.readouterr().out
    assert not run(evidence, project, minutes=1 / 60, anew=True)
    assert f"measuring commit {second}\n" in capsys.readouterr().out


def test_other_arguments_make_numbers_old(evidence, project):
    run(evidence, project)
    (project / "experiments" / "evidence.yaml").write_text(table("counting.py 4 0"))
    (experiment,) = evidence.experiments().values()
    assert experiment.since() == "changed"


def test_a_new_file_of_an_area_makes_numbers_old(evidence, project):
    given = yaml.safe_load(table("counting.py 3 0"))
    given["areas"]["module"] = ["tiny.py", "more/"]
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given))
    commit(project, "an area")
    run(evidence, project)
    (experiment,) = evidence.experiments().values()
    evidence.look_again()
    assert experiment.since() == "same"
    (project / "more").mkdir()
    (project / "more" / "new.py").write_text("X = 1\n")
    evidence.look_again()
    assert experiment.since() == "changed"


def test_what_a_script_imports_beside_itself_belongs_to_it(evidence):
    assert sys.modules["evidence_table"].scripts("experiments/headline.py") == {
        "experiments/headline.py",
        "experiments/cifar10_vgg11.py",
    }


def test_the_folder_of_others_is_left_alone(evidence, project):
    (project / "runs").mkdir()
    (project / "runs" / "precious").write_text("mine")
    run(evidence, project)
    run(evidence, project, anew=True)
    assert (project / "runs" / "precious").read_text() == "mine"
    (project / "site").mkdir()
    (project / "site" / "precious").write_text("mine")
    with pytest.raises(evidence.RunError, match="its site are not of"):
        evidence.run([], 1, project, False)
    assert (project / "site" / "precious").read_text() == "mine"


def test_what_was_cut_off_before_the_first_experiment_begins_again(evidence, project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")  # pip fails
        with pytest.raises(subprocess.CalledProcessError):
            run(evidence, project)
    assert run(evidence, project)
    assert measured(project)["rows"] == [0, 2, 4]


def test_two_do_not_measure_at_once(evidence, project):
    with evidence.alone_in(project / "runs"), pytest.raises(evidence.RunError, match="another process"):
        run(evidence, project)


def test_tables_that_cannot_be_made_end_nothing(evidence, project, monkeypatch, capsys):
    def failing():
        raise evidence.tables.TableError("table one: its numbers are not whole")

    monkeypatch.setattr(evidence.tables, "write", failing)
    assert run(evidence, project)
    assert "table one" in capsys.readouterr().out
    assert "| same |" in evidence.PAGE.read_text()


def test_what_an_experiment_began_ends_with_it(evidence, project):
    (project / "experiments" / "counting.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    commit(project, "a child")
    assert not run(evidence, project, minutes=4 / 60)
    begun = [int(line) for line in (project / "runs" / "logs" / "counting.log").read_text().split() if line.isdigit()]
    assert begun
    for number in begun:
        for _ in range(100):
            if not running(number):
                break
            time.sleep(0.1)
        assert not running(number)


def running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_experiment_whose_time_is_up_goes_on_later(evidence, project, capsys):
    (project / "experiments" / "evidence.yaml").write_text(table("counting.py 7 1"))
    commit(project, "slower")
    assert not run(evidence, project, minutes=4 / 60)
    assert "to be gone on with" in capsys.readouterr().out
    assert not (project / "experiments" / "counting.json").exists()
    kept = project / "runs" / "code" / "experiments" / "counting.json"
    begun = json.loads(kept.read_text())["by"]
    assert 0 < len(begun) < 7
    assert run(evidence, project)
    assert measured(project)["rows"] == [0, 2, 4, 6, 8, 10, 12]
    assert measured(project)["by"][: len(begun)] == begun
    assert len(set(measured(project)["by"])) == 2


def test_one_that_cannot_go_on_waits_for_its_minutes(evidence, project, capsys):
    given = yaml.safe_load(table("counting.py 3 0"))
    given["experiments"]["counting"] |= {"pieces": False, "minutes": 2}
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given))
    commit(project, "whole")
    assert not run(evidence, project, minutes=1)
    assert "left for later: it cannot be interrupted, and may take 2 minutes" in capsys.readouterr().out
    assert run(evidence, project, minutes=3)


def test_one_that_fails_is_told_and_hides_no_other(evidence, project, capsys):
    entry = yaml.safe_load(table("counting.py 3 0"))
    missing = {**entry["experiments"]["counting"], "run": "nowhere.py"}
    peer = {**missing, "run": "counting.py PYTHON_OF_A_PEER"}
    entry["experiments"] = {"nowhere": missing, "peer": peer, **entry["experiments"]}
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(entry, sort_keys=False))
    commit(project, "broken")
    assert not run(evidence, project)
    printed = capsys.readouterr().out
    assert "nowhere: failed: exit code 2" in printed
    assert "peer: left out: the environment variable PYTHON_OF_A_PEER names no Python" in printed
    assert measured(project)["rows"] == [0, 2, 4]


def test_a_name_that_is_none_is_refused():
    command = [sys.executable, str(ROOT / "experiments" / "evidence.py"), "run", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no such experiment: nothing; valid: quickstart" in done.stderr


def test_what_failed_is_tried_again_once_it_is_mended(evidence, project):
    right = (project / "experiments" / "counting.py").read_text()
    (project / "experiments" / "counting.py").write_text("raise SystemExit(3)\n")
    commit(project, "broken")
    assert not run(evidence, project)
    assert not run(evidence, project)
    (project / "experiments" / "counting.py").write_text(right)
    mended = commit(project, "mended")
    assert run(evidence, project)
    assert measured(project)["commit"] == mended


def test_what_failed_goes_on_until_its_code_is_mended(evidence, project):
    failing = (
        COUNTING + "    if number == 1 and (path.parents[3] / 'in-the-way').exists():\n        raise SystemExit(3)\n"
    )
    (project / "experiments" / "counting.py").write_text(failing)
    first = commit(project, "fails where another is in the way")
    (project / "in-the-way").touch()
    assert not run(evidence, project)
    (project / "in-the-way").unlink()
    (project / "readme").write_text("more")
    (project / "tiny.py").write_text(MODULE.replace("2 * x", "5 * x"))  # not committed: it mends nothing
    commit(project, "another page", only="readme")
    run(evidence, project)
    assert (measured(project)["rows"], measured(project)["commit"]) == ([0, 2, 4], first)
    assert len(set(measured(project)["by"])) == 2


def test_what_failed_begins_anew_with_other_arguments(evidence, project):
    (project / "experiments" / "counting.py").write_text(COUNTING + "    sys.exit(3 if sys.argv[1] == '3' else 0)\n")
    commit(project, "three are too many")
    assert not run(evidence, project)
    assert not run(evidence, project)
    (project / "experiments" / "evidence.yaml").write_text(table("counting.py 1 0"))
    mended = commit(project, "one is enough", only="experiments/evidence.yaml")
    assert run(evidence, project)
    assert (measured(project)["rows"], measured(project)["commit"]) == ([0], mended)


def test_beginning_anew_spares_what_others_have_begun(evidence, project):
    given = yaml.safe_load(table("counting.py 40 0.2"))
    given["experiments"]["quick"] = {**given["experiments"]["counting"], "run": "quick.py"}
    (project / "experiments" / "quick.py").write_text(COUNTING.replace("int(sys.argv[1])", "1"))
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    commit(project, "two")
    assert not run(evidence, project, minutes=3 / 60, names=["counting"])
    kept = project / "runs" / "code" / "experiments" / "counting.json"
    begun = json.loads(kept.read_text())["by"]
    with pytest.raises(evidence.RunError, match=r"minutes of counting in .*: name counting too, or another --folder"):
        run(evidence, project, anew=True, names=["quick"])
    assert json.loads(kept.read_text())["by"] == begun
    assert not run(evidence, project, minutes=3 / 60, anew=True, names=["quick", "counting"])
    assert json.loads(kept.read_text())["by"] != begun


PROBE = """\
import json, sys
import tiny

print(json.dumps({"small": {"double of two": str(tiny.double(2)), "of three": str(tiny.double(3))}}))
"""


def test_code_that_small_runs_see_nothing_of_makes_nothing_old(evidence, project, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["evidence_table"], "PROBED", project / "probes" / "found.json")
    (project / "experiments" / "probe.py").write_text(PROBE)
    commit(project, "a probe", only="experiments")
    run(evidence, project)
    (experiment,) = evidence.experiments().values()

    def since(code):
        (project / "tiny.py").write_text(code)
        commit(project, "other code", only="tiny.py")
        evidence.look_again()
        return experiment.since()

    assert since(MODULE.replace("2 * x", "x + x")) == "changed"
    assert evidence.probe("HEAD~1", project / "probe")
    assert experiment.since() == "same bits"
    assert "1 of 1 are of today's code" in evidence.page()
    assert "| same bits |" in evidence.page()
    assert run(evidence, project)  # nothing is left to measure
    assert since(MODULE.replace("2 * x", "x + x + 0")) == "changed"
    assert evidence.probe("HEAD~1", project / "probe")  # one change after the other
    assert experiment.since() == "same bits"
    assert since(MODULE.replace("2 * x", "3 * x")) == "changed"
    assert not evidence.probe("HEAD~1", project / "probe")
    assert "small: double of two, of three differ" in capsys.readouterr().out
    assert experiment.since() == "changed"
    assert since(MODULE.replace("2 * x", "x + x + 0")) == "same bits"
    given = yaml.safe_load((project / "experiments" / "evidence.yaml").read_text())
    given["experiments"]["counting"]["times"] = True
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given))
    (experiment,) = evidence.experiments().values()
    assert experiment.since() == "changed"


def test_one_waits_for_those_whose_runs_it_needs(evidence, project):
    given = yaml.safe_load(table("counting.py 3 0"))
    one = given["experiments"]["counting"]
    given["experiments"] = {"after": {**one, "needs": ["counting"]}, "counting": {**one, "run": "counting.py 60 1"}}
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    commit(project, "two")
    bench, every = evidence.Bench(project / "runs"), evidence.experiments()
    assert [one.name for one in evidence._ordered([every["after"]], every)] == ["counting", "after"]
    assert bench.run(every["after"], 1) == "left for later: it needs the runs of counting"
    assert bench.run(every["counting"], 2 / 60) == "to be gone on with"
    assert bench.run(every["after"], 1) == "left for later: it needs the runs of counting"


def test_what_waits_is_not_forgotten_for_a_later_commit(evidence, project):
    given = yaml.safe_load(table("counting.py 40 0.2"))
    given["experiments"]["quick"] = {**given["experiments"]["counting"], "run": "quick.py"}
    quick = COUNTING.replace("int(sys.argv[1])", "1").replace("float(sys.argv[2])", "0")
    (project / "experiments" / "quick.py").write_text(quick)
    (project / "experiments" / "evidence.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    first = commit(project, "two")
    evidence.look_again()
    assert not evidence.run(["counting"], 3 / 60, project / "runs", anew=False)
    assert evidence.run(["quick"], 1, project / "runs", anew=False)
    (project / "readme").write_text("more")
    commit(project, "later")
    evidence.run(["quick"], 1, project / "runs", anew=False)
    assert json.loads((project / "runs" / "state.json").read_text())["commit"] == first
