"""Methods side by side: every method at every budget with every seed, one joint measurement of latency, one page.

    OUT/plan.json                         what is compared; made first, it marks the folder as ours
    OUT/runs/<method>/<budget>/<seed>/    run folders as `compressor run` makes them; also runs/unscaled/<seed>/
    OUT/shared/<method>-<seed>/           what searches need not do again for another budget
    OUT/failures.json                     runs whose budget the method cannot meet
    OUT/latency.json                      all networks, measured in turns in one process
    OUT/comparison.json, .csv, .html      the outcome

Within a seed equal architectures that start from equal weights are trained once. Every step is a file, so that a
comparison can stop anywhere and go on.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.bench import measure_latencies
from compressor.data import DataSet, load_data
from compressor.errors import BudgetError, CompressorError, ExportError, RunError, TrainingError
from compressor.failures import interrupted
from compressor.files import copy_atomic, read_json, sha256_of, write_json
from compressor.pipeline import environment, run_folder
from compressor.pipeline.doctor import check_provider
from compressor.pipeline.lock import alone_in
from compressor.pipeline.records import FailuresRecord, LatencyRecord, damaged
from compressor.pipeline.run_log import RunLog, last_event
from compressor.pipeline.runner import Progress, Shared, run
from compressor.pipeline.scheduler import Executor, State, Task, run_tasks
from compressor.pipeline.stages.bench import measured_costs
from compressor.pipeline.sweep_jobs import UNSCALED, Job, Sweep, make_sweep
from compressor.recipe import Recipe, costs, method_of
from compressor.recipe.sections import DataConfig
from compressor.report import dig, metric_of, score_of, summarise, write_comparison
from compressor.search import Finetuning, Problem, SearchResult, search
from compressor.training.trainer import pick_device

_LAST: dict[str, Any] = {}  # the comparison that this worker works on
_TRAINED = ("training.json", "weights.safetensors")


def compare_methods(
    recipe: Recipe,
    methods: Sequence[str],
    budgets: Sequence[str],
    seeds: int,
    out: Path | str,
    *,
    resume: bool = False,
    progress: Progress = lambda stage, text, share: None,
    executor: Callable[[Path], Executor] | None = None,
    watch: Callable[[Sequence[JobState]], None] | None = None,
) -> dict[str, Any]:
    """Run methods at several budgets and compare what comes out.

    Args:
        recipe: model, data and training of all runs
        methods: names of search methods, with options such as "uniform:shortcut=convcut"
        budgets: shares such as "0.25x", or limits such as "params=37k"; see `make_sweep`
        seeds: how many runs of each, with the recipe's seed and those after it
        out: the folder of the comparison; must be empty or absent unless `resume`
        resume: go on in a folder that this comparison has begun
        progress: called with stage, text and share done
        executor: folder → what runs of the comparison run on side by side, see `compressor.pipeline.executors`; the
            folder, for files of its own, those of the recipe and the comparison's must be the same on all machines;
            None: one run after the other in this process
        watch: called with the state of every run, while they run side by side

    Returns:
        the content of comparison.json: every run, means and spreads, Pareto fronts

    Raises:
        CompressorError: see compressor.errors; of a run that cannot meet its budget, diverges or gives no valid file
            that is recorded instead
    """
    if executor is not None and multiprocessing.parent_process() is not None:
        raise RunError(
            "compare_methods: called again while a process of the pool starts, which imports the script; valid: a call "
            'under `if __name__ == "__main__":`'
        )
    sweep = make_sweep(recipe, methods, budgets, seeds)
    folder = Path(out)
    with alone_in(folder):
        _claim(folder, sweep, resume)
        return _SweepRun(sweep, folder, progress, executor, watch).run()


@dataclass(frozen=True)
class JobState:
    """How far a run of a sweep is.

    Attributes:
        name: of the run
        state: waiting, running or done
        stage: that it is in; "" if it has not begun
        text: what it does there
    """

    name: str
    state: State
    stage: str = ""
    text: str = ""


class _SweepRun:
    def __init__(
        self,
        sweep: Sweep,
        out: Path,
        progress: Progress,
        executor: Callable[[Path], Executor] | None = None,
        watch: Callable[[Sequence[JobState]], None] | None = None,
    ) -> None:
        self.sweep, self.out, self.progress = sweep, out, progress
        self._executor, self._watch = executor, watch
        self.log = RunLog(out / "log.jsonl")
        self._loaded: tuple[object, DataSet] | None = None
        self.failures = _read_failures(out / "failures.json", [job.folder for job in sweep.jobs])
        self._for_good = set(self.failures)  # a budget stays one that cannot be met, other runs are tried again
        self.twins: dict[str, str] = {}

    def load(self, config: DataConfig, *, seed: int, device: torch.device) -> DataSet:
        """Load images, or give those of the run before: runs go seed by seed."""
        key = config.model_dump_json(), seed, device
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = key, load_data(config, seed=seed, device=device)
        return self._loaded[1]

    def run(self) -> dict[str, Any]:
        if not (self.out / "latency.json").exists():
            check_provider(self.sweep.recipe.measured.provider)  # now, not after hours of training
        executor = None if self._executor is None else self._executor(self.out / "executor")  # bad settings end it now
        try:
            for job in self.sweep.jobs:
                # A budget that cannot be met is found at once; times are measured while nothing else runs here.
                quick = job.seed == self.sweep.seeds[0] and not method_of(job.recipe.search).trains
                if job.method != UNSCALED and (quick or (executor is not None and measured_costs(job.recipe))):
                    self._run(job, "search")
            if executor is not None:
                self._all_side_by_side(executor)
        finally:
            if executor is not None:
                executor.stop()
        for job in self.sweep.jobs:
            # A file that is above a measured limit is made smaller before all are measured in turns.
            self._run(job, "bench" if measured_costs(job.recipe) else "export")
        done = [job for job in self.sweep.jobs if job.folder not in self.failures]
        latency = self._latency(done)
        reports = {job.folder: self._report(job, latency) for job in done}
        record = self._record(reports, latency)
        write_comparison(record, self.out)
        return record

    def bring(self, place: int) -> tuple[str, bool] | None:
        """Bring one run up to its ONNX file, in a worker; returns why that fails, and whether it does so for good."""
        job = self.sweep.jobs[place]
        if job.folder not in self._for_good:
            self.failures.pop(job.folder, None)
        self._run(job, "export", keep=False)
        why = self.failures.get(job.folder)
        return None if why is None else (why, job.folder in self._for_good)

    def _all_side_by_side(self, executor: Executor) -> None:
        """Bring all runs up to their files; then nothing is left to do here but to read what was written."""
        jobs, tasks = self.sweep.jobs, self._tasks()
        names = {task.name: jobs[task.arguments[2]] for task in tasks}

        def look(states: Mapping[str, State]) -> None:
            found = [self._state(job, states.get(job.name, "done")) for job in jobs]
            done = sum(one.state == "done" for one in found)
            busy = ", ".join(f"{one.name} ({one.stage})" for one in found if one.state == "running")
            self.progress("train", f"{done} of {len(found)} runs done; {busy}", done / len(found))
            if self._watch is not None:
                self._watch(found)

        for name, failure in run_tasks(_bring, tasks, executor, look).items():
            if failure is not None:
                self._failed(names[name], *failure)

    def _tasks(self) -> list[Task]:
        """A task for every run; those that share what a search keeps come one after the other."""
        tasks: list[Task] = []
        last: dict[str, str] = {}
        for place, job in enumerate(self.sweep.jobs):
            if job.folder in self.failures:
                continue
            after = (last[job.work],) if job.work in last and method_of(job.recipe.search).trains else ()
            tasks.append(Task(job.name, (self.sweep, self.out.resolve(), place, Path.cwd()), after))
            last[job.work] = job.name
        return tasks

    def _state(self, job: Job, state: State) -> JobState:
        if state != "running":
            return JobState(job.name, state)
        last = last_event(self.out / job.folder / "log.jsonl")
        return JobState(job.name, state, str(last.get("stage", "")), str(last.get("text", "")))

    def _progress_of(self, job: Job) -> Progress:
        jobs = self.sweep.jobs
        head = f"run {jobs.index(job) + 1}/{len(jobs)} {job.name}"
        return lambda stage, text, share: self.progress(stage, f"{head}: {text}", share)

    def _run(self, job: Job, until: str, keep: bool = True) -> None:
        """Bring one run up to its search, its ONNX file or its measurements, or record why it has no result: its budget
        cannot be met, its training diverged, or its file is refused. What fails otherwise would fail in all runs.

        Args:
            job: the run
            until: its last stage
            keep: write to the comparison's folder that a budget cannot be met
        """
        if job.folder in self.failures:
            return
        folder, progress = self.out / job.folder, self._progress_of(job)
        method = _unscaled if job.method == UNSCALED else search
        shared = Shared(self.out / job.work, method, self.load)
        try:
            run(job.recipe, folder, resume=True, until="search", progress=progress, shared=shared)
            if until == "search":
                return
            self._borrow(job)
            run(job.recipe, folder, resume=True, until=until, progress=progress, shared=shared)
        except CompressorError as error:
            of_its_own = isinstance(error, BudgetError | TrainingError | ExportError)
            if job.method == UNSCALED or not of_its_own or interrupted():
                raise type(error)(f"{job.name}: {error}") from error
            self._failed(job, str(error), isinstance(error, BudgetError), keep)

    def _failed(self, job: Job, why: str, for_good: bool, keep: bool = True) -> None:
        """Note why a run has no result; the others go on."""
        self.failures[job.folder] = why
        if for_good:
            self._for_good.add(job.folder)
            if keep:
                lasting = {folder: said for folder, said in self.failures.items() if folder in self._for_good}
                write_json(self.out / "failures.json", lasting)

    def _borrow(self, job: Job) -> None:
        """Take the weights of an earlier run of the same network, if there is one."""
        folder = self.out / job.folder
        own = _identity(job, folder)
        for earlier in itertools.takewhile(lambda other: other is not job, self.sweep.jobs):
            other = self.out / earlier.folder
            # A run that was made smaller has another architecture since; one that runs side by side may not be trained.
            trained = all((other / name).exists() for name in (*_TRAINED, "architecture.json"))
            if earlier.seed == job.seed and trained and _identity(earlier, other) == own:
                break
        else:
            return
        self.twins[job.folder] = earlier.name
        if not all((folder / name).exists() for name in _TRAINED):
            run_folder.record(folder, "train", job.recipe)
            for name in _TRAINED:
                copy_atomic(other / name, folder / name)

    # latency -----------------------------------------------------------------------------------------------------

    def _latency(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """All networks measured in turns: medians of separate processes differ by half."""
        path, bench = self.out / "latency.json", self.sweep.recipe.measured
        files = {job.folder: self.out / job.folder / "model.onnx" for job in jobs}
        sums = {name: sha256_of(file) for name, file in files.items()}
        if path.exists():
            known = LatencyRecord.read(path).model_dump()
            if {name: one.get("sha256") for name, one in known["networks"].items()} == sums:
                return known
        self.progress("bench", f"measuring {len(files)} networks in turns, {bench.warmup + bench.runs} batches", None)
        with self.log.timing("bench"):
            measured = measure_latencies(list(files.values()), **dict(bench))
        networks = {
            name: one.to_json() | {"path": f"{name}/model.onnx"} for name, one in zip(files, measured, strict=True)
        }
        record = {"networks": networks, "machine": environment.machine(pick_device(self.sweep.recipe.device))}
        write_json(path, record)
        return record

    def _report(self, job: Job, latency: dict[str, Any]) -> dict[str, Any]:
        """The report of one run, with its part of the joint measurement."""
        folder = self.out / job.folder
        own = {"networks": {"result": latency["networks"][job.folder]}, "machine": latency["machine"]}
        place, made = folder / "latency.json", folder / "report.json"
        if not (place.exists() and read_json(place) == own):
            made.unlink(missing_ok=True)  # it may be of an earlier measurement
            run_folder.record(folder, "bench", job.recipe)
            run_folder.unseal(folder, place.name)
            write_json(place, own)
        if not run_folder.intact(folder, made.name):
            run(job.recipe, folder, resume=True, progress=self._progress_of(job))
        report: dict[str, Any] = read_json(made)
        return report

    # outcome -----------------------------------------------------------------------------------------------------

    def _record(self, reports: dict[str, dict[str, Any]], latency: dict[str, Any]) -> dict[str, Any]:
        rows = [self._row(job, reports.get(job.folder, {})) for job in self.sweep.jobs]
        first = next(iter(reports.values()))
        metric = metric_of(first)
        measured = next(iter(latency["networks"].values()))
        seconds: dict[str, float] = {}
        logs = [RunLog(self.out / job.folder / "log.jsonl") for job in self.sweep.jobs]
        for log in [*logs, self.log]:
            for stage, spent in (log.seconds() if log.path.exists() else {}).items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        return {
            "name": self.sweep.recipe.model.name,
            "recipe": self.sweep.recipe.model_dump(mode="json"),
            "methods": {job.method: job.recipe.search.model_dump(mode="json") for job in self._compared()},
            "budgets": list(self.sweep.budgets),
            "seeds": list(self.sweep.seeds),
            "dataset": first["dataset"],
            "runs": rows,
            "metric": {"name": metric.name, "better": "lower" if metric.lower else "higher"},
            "groups": summarise(rows, metric),
            "met": all(row["met"] is not False and row["error"] is None for row in rows),
            "measured": {
                key: measured[key] for key in ("batch", "provider", "threads", "warmup", "runs", "interleaved")
            },
            "machine": latency["machine"],
            "versions": first["versions"],
            "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        }

    def _compared(self) -> list[Job]:
        return [job for job in self.sweep.jobs if job.method != UNSCALED]

    def _row(self, job: Job, report: dict[str, Any]) -> dict[str, Any]:
        budget = {} if job.method == UNSCALED else report.get("budget", {})
        return {
            "method": job.method,
            "budget": job.budget,
            "seed": job.seed,
            "folder": job.folder,
            "error": self.failures.get(job.folder),
            **{name: report.get(name) for name, cost in costs().items() if cost.shown_in(report)},
            "fallback": report.get("fallback"),
            "accuracy": dig(report, "accuracy", "onnx"),
            "value": score_of(report),
            "samples": dig(report, "accuracy", "samples"),
            "latency_mean_ms": dig(report, "latency_ms", "mean"),
            "latency_median_ms": dig(report, "latency_ms", "median"),
            "latency_interval_ms": dig(report, "latency_ms", "interval"),
            **{key: budget.get(key) for key in ("limits", "met", "binding")},
            "same_network_as": self.twins.get(job.folder),
        }


def _bring(sweep: Sweep, out: Path, place: int, where: Path) -> tuple[str, bool] | None:
    """What a worker does; `where` is what relative paths of the recipe are relative to."""
    os.chdir(where)
    if _LAST.get("of") != (sweep, out):  # a worker keeps the images of its last run
        _LAST.update({"of": (sweep, out), "run": _SweepRun(sweep, out, lambda stage, text, share: None)})
    found: tuple[str, bool] | None = _LAST["run"].bring(place)
    return found


def _unscaled(problem: Problem, config: object) -> SearchResult:
    """A search method that changes nothing: trained weights stay as they are."""
    return SearchResult(
        problem.reference,
        {"iterations": []},
        weights=problem.given,
        finetuning=None if problem.given is None else Finetuning(0, 0.0),
    )


def _identity(job: Job, folder: Path) -> tuple[object, ...]:
    """What the weights after training depend on, within a comparison.

    A network that goes on from weights of the search is like no other; one that is taught is not one that is not.
    """
    taught = job.recipe.train.model_dump_json()
    own = job.folder if (folder / "start.safetensors").exists() else ""
    return job.seed, (folder / "architecture.json").read_text(encoding="utf-8"), own, taught


def _read_failures(path: Path, folders: Sequence[str]) -> dict[str, str]:
    found = FailuresRecord.read(path).root if path.exists() else {}
    if strange := set(found) - set(folders):
        raise damaged(path, f"{min(strange)!r} is no run of this comparison")
    return found


def _claim(folder: Path, sweep: Sweep, resume: bool) -> None:
    """Make a folder this comparison's, or go on in it.

    Raises:
        RunError: the folder is a file, holds a comparison (and not `resume`), holds something else, or was begun
            with other arguments or another recipe
    """
    path, wanted = folder / "plan.json", _fixed(sweep)
    run_folder.check_entries(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder")
    known = _as_now(read_json(path) if path.exists() else None, wanted, sweep)
    if known is None:
        if folder.exists() and any(not entry.name.endswith(".tmp") for entry in folder.iterdir()):
            raise RunError(f"{folder}: is not empty and holds no comparison; name another folder")
        write_json(path, wanted)
        return
    if not resume:
        raise RunError(f"{folder}: already holds a comparison; add --resume to go on with it, or name another folder")
    if changed := run_folder.difference(known, wanted):
        raise RunError(
            f"{path}: {', '.join(changed)} differs from what this comparison was begun with; change it back, or begin "
            "in another folder"
        )


def _as_now(found: Any, wanted: dict[str, Any], sweep: Sweep) -> dict[str, Any] | None:
    """The plan of a comparison, begun by an earlier version perhaps: what that did not know has its default; None: it
    is none.
    """
    own = ("methods", "budgets", "seeds")
    if not (isinstance(found, dict) and found.keys() <= wanted.keys() and all(name in found for name in own)):
        return None
    known = run_folder.with_new_keys(found, wanted, sweep.jobs[0].recipe)
    configs = {job.method: job.recipe.search for job in sweep.jobs}
    if isinstance(known["methods"], dict):
        known["methods"] = {
            name: run_folder.with_defaults(values, wanted["methods"].get(name, {}), configs[name])
            if isinstance(values, dict) and name in configs
            else values
            for name, values in known["methods"].items()
        }
    return known


def _fixed(sweep: Sweep) -> dict[str, Any]:
    """All that the outcome depends on, as JSON values."""
    jobs = [job for job in sweep.jobs if job.method != UNSCALED]
    own = ("search", "budget", "seed", "baselines")
    return {
        **{section: value for section, value in run_folder.used(jobs[0].recipe).items() if section not in own},
        "methods": {job.method: job.recipe.search.model_dump(mode="json") for job in jobs},
        "budgets": {job.budget: job.recipe.budget.model_dump(mode="json", exclude_none=True) for job in jobs},
        "seeds": list(sweep.seeds),
    }
