"""The chapter flow: every model through data, validation, training, evaluation and logging."""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.utilities.annotations import quote

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Profile, Settings
from chapterflow.data.build import Prepared
from chapterflow.environment import Project, configure, find_project
from chapterflow.errors import ChapterflowError, DiskFull, FetchError, StoreUnavailable, describe
from chapterflow.language import language
from chapterflow.loop import remote, steps
from chapterflow.loop.progress import tell_about
from chapterflow.loop.repetitions import compare_seeds, open_parent, summarise, with_seeds
from chapterflow.loop.run import Run
from chapterflow.loop.tables import (
    differences_markdown,
    results_markdown,
    seeds_line,
    seeds_markdown,
)
from chapterflow.loop.workers import Worker, active_workers
from chapterflow.models.catalog import FOLDER
from chapterflow.tracking.comparison import current_runs
from chapterflow.tracking.records import Comparison, Outcome
from chapterflow.tracking.runs import MODEL, MODEL_RUN, SEED_RUN, WORKERS, sweep
from chapterflow.tracking.session import Session
from chapterflow.types import Tell
from chapterflow.validation.verdict import Verdict
from pipelines.housekeeping import AT_THE_END, end_dead_flow_runs, sign_flow_run
from pipelines.prefect_server import leave_schedule


class ModelsFailed(ChapterflowError):
    """Some models failed; the others are done.

    Attributes:
        results: The document that a flow without failures returns.
    """

    def __init__(self, results: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        names = ", ".join(outcome.model for outcome in failed)
        super().__init__(f"{len(failed)} of {len(outcomes)} models failed: {names}")
        self.results = results
        codes = {outcome.exit_code for outcome in failed}
        self.exit_code = codes.pop() if len(codes) == 1 else 1


def _is_transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Tell whether trying again may help: a download, or a tracking server that did not answer."""
    return isinstance(error_of(state), FetchError | StoreUnavailable)


def error_of(state: State[Any]) -> BaseException | None:
    """Return what a task raised, or None where it completed."""
    if state.is_completed():
        return None
    error = state.result(raise_on_failure=False)
    return error if isinstance(error, BaseException) else RuntimeError(str(state))


#: The process that the model at hand runs in; None where it is this one.
_worker: ContextVar[Worker | None] = ContextVar("worker", default=None)


def take(step: Callable[..., Any], run: Run, *arguments: Any, **options: Any) -> Any:
    """Take a step of a run, in the model's worker if it has one."""
    tell = telling(*_subject(run))
    if worker := _worker.get():
        return worker.call(step, run, *arguments, tell=tell, **options)
    return step(run, *arguments, tell=tell, **options)


def _subject(run: Run | remote.Order) -> tuple[str, str]:
    """Return the line of a run in the display, and what tells its details from others there."""
    if run.run_type == SEED_RUN:
        return f"{run.model} seeds", f"seed {run.settings.seed}: "
    return run.model, ""


def telling(subject: str, part: str = "") -> Tell:
    """Tell the progress display of everything, and Prefect's log of each new step.

    Args:
        subject: A model or dataset.
        part: What each detail begins with.
    """
    display, logger = tell_about(subject), get_run_logger()
    last = ""

    def tell(step: str, detail: str) -> None:
        nonlocal last
        detail = part + detail
        display(step, detail)
        if step != last:
            logger.info("%s: %s: %s", subject, step, detail)
            last = step

    return tell


@task(
    task_run_name="prepare {dataset}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_is_transient,
)
def prepare(settings: Settings, dataset: str) -> Prepared:
    """Bring a dataset onto this machine."""
    return steps.prepare(find_project(), settings, dataset, tell=telling(dataset))


@task(task_run_name="validate {prepared.dataset}", cache_policy=NO_CACHE)
def validate(settings: Settings, prepared: Prepared, flow_run_id: str | None) -> Verdict:
    """Check a dataset against its suite."""
    return steps.validate(
        find_project(), settings, prepared, flow_run_id=flow_run_id, tell=telling(prepared.dataset)
    )


class Result:
    """A result that Prefect does not look into.

    It would take equal small values in the results of two models, such as a class name of one
    letter, for one value, and draw an edge between the models.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


# No argument or result of these tasks holds a path of this machine: any worker that shares the
# tracking store can take the next task.
@task(task_run_name="begin {run.label}", cache_policy=NO_CACHE)
def begin(run: Run, verdicts: list[Verdict], flow_run_id: str | None, force: bool) -> Run:
    """Find the finished run, continue the interrupted one, or start a new one."""
    begun: Run = take(
        steps.begin, run, verdicts, flow_run_id=flow_run_id, force=force, tags=_tags()
    )
    return begun


def _tags() -> dict[str, str]:
    workers = active_workers()
    return {
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.flow_run": str(runtime.flow_run.name),
        WORKERS: str(workers.count if workers else 1),
    }


@task(task_run_name="train {run.label}", cache_policy=NO_CACHE)
def train(run: Run) -> Result:
    """Train a model."""
    return Result(take(steps.train, run))


@task(task_run_name="evaluate {run.label}", cache_policy=NO_CACHE)
def evaluate(run: Run, training: Result) -> Result:
    """Score a model on the test split."""
    return Result(take(steps.evaluate, run, training.value))


@task(task_run_name="explain {run.label}", cache_policy=NO_CACHE)
def explain(run: Run, evaluation: Result) -> Result:
    """Draw what a model looks at."""
    return Result(take(steps.explain, run, evaluation.value))


@task(
    task_run_name="log {run.label}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_is_transient,
)
def log(run: Run, verdict: Verdict, evaluation: Result, explanation: Result | None) -> Outcome:
    """Log and register a model."""
    explained = explanation and explanation.value
    outcome: Outcome = take(steps.log, run, verdict, evaluation.value, explained)
    return outcome


@task(task_run_name="model {order.label}", cache_policy=NO_CACHE)
def model(worker: Worker, order: remote.Order, verdicts: list[Verdict]) -> Outcome:
    """Run a model on another machine, from look-up to registration."""
    outcome: Outcome = worker.call(remote.take, order, verdicts, tell=telling(*_subject(order)))
    return outcome


@task(task_run_name="compare", cache_policy=NO_CACHE)
def compare(settings: Settings, outcomes: list[Outcome]) -> Comparison:
    """Compare the newest runs of all models."""
    return steps.compare(find_project(), settings)


def _flow_run_name() -> str:
    parameters = runtime.flow_run.parameters
    models = parameters.get("models")
    return (
        f"{parameters.get('profile') or 'default'}: {', '.join(models) if models else 'all models'}"
    )


@flow(name="chapter", flow_run_name=_flow_run_name, persist_result=False, **AT_THE_END)
def chapter(
    models: list[str] | None = None,
    profile: Profile | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
    workers: int | None = None,
    seeds: int = 1,
) -> dict[str, Any]:
    """Run chapter models from data to registry. One failing model does not stop the others.

    Args:
        models: Names; all of `params.yaml` by default.
        profile: Profile; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this run.
        force: Train even what a finished run has done already.
        workers: Models to run side by side; by default as many as cores and memory allow.
        seeds: Number of seeds with which each model trains. The first is the seed of
            `params.yaml`; with the others, models are only scored.

    Returns:
        `profile`, `seconds`, and for each model what became of it; with several seeds also `seeds`
        and `seed_differences`.

    Raises:
        ModelsFailed: If a model failed, with the same document.
        ConfigError: If parameters or names are wrong; nothing was started.
    """
    started = time.monotonic()
    project, settings, names = open_flow(models, profile, overrides)
    # First: without its data, each model looks as if it had no finished run.
    datasets = _prepare(settings, names)
    with contextlib.ExitStack() as stack:
        # `chapterflow run` has started them while Prefect started; a schedule has not.
        if not (workers == 1 or active_workers()) and (
            made := steps.preload(
                project, settings, names, workers=workers, force=force, seeds=seeds
            )
        ):
            stack.enter_context(made)
        session = stack.enter_context(Session(project, settings))
        sweep(session.client, project, session.experiment_id)
        if seeds == 1 and not force and _nothing_to_do(project, settings, session, names):
            # A schedule would fill the store with runs of flows that did nothing.
            outcomes, *_ = _run_models(
                project, settings, names, datasets, session, None, force, seeds
            )
            if all(outcome.status == "reused" for outcome in outcomes):
                return document(settings.profile, time.monotonic() - started, outcomes)
            # Something is amiss: again, on record.
        flow_run_id = session.start_flow_run(
            f"{settings.profile} {time.strftime('%Y-%m-%d %H:%M:%S')}",
            {
                "prefect.flow_run_id": str(runtime.flow_run.id),
                "prefect.flow_run": str(runtime.flow_run.name),
            },
        )
        with session.ending_on_error(flow_run_id):
            outcomes, repetitions, over_seeds = _run_models(
                project, settings, names, datasets, session, flow_run_id, force, seeds
            )
            comparison, differences = _compare(settings, outcomes)
            results = document(settings.profile, time.monotonic() - started, outcomes)
            results |= over_seeds
            table = f"{results_markdown(outcomes)}\n{differences}{seeds_markdown(over_seeds)}"
            table += _report(project, settings, outcomes, comparison, flow_run_id)
            try:
                session.close_flow_run(flow_run_id, results, table)
            except (StoreUnavailable, DiskFull) as error:  # What became of the models is known.
                tell_about("flow")("not logged", str(error))
            every = [*outcomes, *repetitions]
            failed = any(outcome.status == "failed" for outcome in every)
            failure = ModelsFailed(results, every) if failed else None
            # The models are done, even if Prefect's server is lost.
            leave_schedule(failure.exit_code if failure else 0)
            with contextlib.suppress(httpx.HTTPError):
                create_markdown_artifact(
                    table, key="results", description="Results of the chapter flow"
                )
    if failure:
        raise failure
    return results


def open_flow(
    models: list[str] | None, profile: Profile | None, overrides: list[str] | None
) -> tuple[Project, Settings, list[str]]:
    """Return project, settings and models of a flow run, and put the run on record.

    Raises:
        ConfigError: If parameters or names are wrong; nothing was started.
    """
    project = find_project()
    configure(project)
    settings = load_settings(project.params, profile=profile, overrides=overrides or [])
    names = list(dict.fromkeys(models or settings.models))
    settings.check_names(names, settings.models, "model")
    sign_flow_run()
    end_dead_flow_runs()
    return project, settings, names


def _nothing_to_do(
    project: Project, settings: Settings, session: Session, names: Sequence[str]
) -> bool:
    """Tell whether a schedule has started the flow though every model has a finished run."""
    if runtime.deployment.id is None:
        return False
    finished = {run.data.tags[MODEL] for run in current_runs(project, settings, session, names)}
    return finished.issuperset(names)


def _run_models(
    project: Project,
    settings: Settings,
    names: list[str],
    datasets: dict[str, State[Prepared]],
    session: Session,
    flow_run_id: str | None,
    force: bool,
    seeds: int,
) -> tuple[list[Outcome], list[Outcome], dict[str, Any]]:
    """Return what became of the models, of their repetitions, and the latter's summary."""
    # An object made where a forgotten result lay would be taken for that result: all are kept.
    kept: list[Any] = []
    verdicts = _Verdicts(settings, datasets, flow_run_id, kept)
    workers = active_workers()
    if workers is None or seeds > 1:
        verdicts.make()
    several = with_seeds(settings, seeds)
    with contextlib.ExitStack() as stack:
        parents: dict[str, str] = {}

        def outcome_of(job: tuple[str, Settings]) -> Outcome:
            name, own = job
            needed = verdicts.of(name)
            broken = next((verdict for verdict in needed if not verdict.is_completed()), None)
            if broken:
                outcome = _failure(settings, name, error_of(broken))
                tell_about(name)(outcome.status, _summary(outcome))
                return outcome
            is_usual = own is settings
            run = Run(project, own, name, session, MODEL_RUN if is_usual else SEED_RUN)
            parent = flow_run_id if is_usual else parents[name]
            outcome = _run_model(run, needed, parent, force, kept)
            subject, part = _subject(run)
            tell_about(subject)(outcome.status, part + _summary(outcome))
            return outcome

        if seeds > 1 and flow_run_id is not None:
            for name in names:
                if all(verdict.is_completed() for verdict in verdicts.of(name)):
                    parents[name] = open_parent(Run(project, settings, name, session), flow_run_id)
                    stack.enter_context(session.ending_on_error(parents[name]))
        jobs = [(name, settings) for name in names]
        jobs += [(name, own) for own in several[1:] for name in parents]
        if workers is None:
            done = [outcome_of(job) for job in jobs]
        else:

            def in_worker(worker: Worker, job: tuple[str, Settings]) -> Outcome:
                _worker.set(worker)
                return outcome_of(job)

            places = _longest_first(jobs)
            in_order = workers.spread(
                in_worker, [jobs[place] for place in places], meanwhile=verdicts.make
            )
            done = [in_order[places.index(place)] for place in range(len(jobs))]
        every = [(name, own.seed, outcome) for (name, own), outcome in zip(jobs, done, strict=True)]
        documents = [
            summarise(session, parent, {seed: o for other, seed, o in every if other == name})
            for name, parent in parents.items()
        ]
    if seeds == 1:
        return done, [], {}
    for document in documents:
        tell_about(f"{document['model']} seeds")(*seeds_line(document))
    repetitions = [
        outcome.model_copy(update={"model": f"{name}, seed {seed}"})
        for name, seed, outcome in every[len(names) :]
    ]
    results = {"seeds": documents, "seed_differences": compare_seeds(documents)}
    return done[: len(names)], repetitions, results


def _longest_first(jobs: Sequence[tuple[str, Settings]]) -> list[int]:
    """Return the places of jobs, those with more trainings first: no worker waits at the end."""

    def trainings(place: int) -> int:
        name, settings = jobs[place]
        params = settings.params(name)
        return sum(variant.train for variant in params.beside.values()) + params.folds

    return sorted(range(len(jobs)), key=trainings, reverse=True)


def _prepare(settings: Settings, names: list[str]) -> dict[str, State[Prepared]]:
    """Prepare the datasets of models; return the last state of each."""
    # Prefect recognises by object identity which task a value comes from, and takes one string in
    # two records for the same value. A value that no task returned is quoted.
    quoted: Any = quote(settings)
    # In the order in which models need them: validation begins with the first.
    order = [names[place] for place in _longest_first([(name, settings) for name in names])]
    datasets = dict.fromkeys(d for name in order for d in settings.datasets_of(name))
    return {dataset: prepare(quoted, dataset, return_state=True) for dataset in datasets}


class _Verdicts:
    """The states of the validation of datasets that are prepared.

    Models start while those of other models' datasets are still missing.
    """

    def __init__(
        self,
        settings: Settings,
        datasets: dict[str, State[Prepared]],
        flow_run_id: str | None,
        kept: list[Any],
    ) -> None:
        self._settings, self._datasets = settings, datasets
        self._flow_run_id, self._kept = flow_run_id, kept
        self._verdicts: dict[str, Future[State[Verdict]]] = {name: Future() for name in datasets}

    def make(self) -> None:
        """Validate the datasets, once."""
        quoted: Any = quote(self._settings)
        try:
            for dataset, future in self._verdicts.items():
                if future.done():
                    continue
                ready: Any = self._datasets[dataset]
                if ready.is_completed():
                    ready = validate(quoted, ready, self._flow_run_id, return_state=True)
                self._kept.append(ready)
                tell_about(dataset)("checked" if ready.is_completed() else "failed", "")
                future.set_result(ready)
        finally:
            for future in self._verdicts.values():
                future.cancel()  # after an interruption; models would wait for ever

    def of(self, model: str) -> list[State[Verdict]]:
        """Wait for the verdicts on the datasets of a model, and return them."""
        return [self._verdicts[name].result() for name in self._settings.datasets_of(model)]


def _run_model(
    run: Run, verdicts: Any, flow_run_id: str | None, force: bool, kept: list[Any]
) -> Outcome:
    kept.append(run)

    def step(task: Any, *arguments: Any) -> Any:
        """Return a task's state; a failed one ends the model."""
        state: State[Any] = task(*arguments, return_state=True)
        kept.append(state)
        if not state.is_completed():
            raise _StepFailed(state)
        return state

    try:
        if (workers := active_workers()) and workers.cluster:
            order = remote.Order.of(run, flow_run_id=flow_run_id, force=force, tags=_tags())
            done: Outcome = step(model, quote(_worker.get()), quote(order), verdicts).result()
            return done
        with run.claim(tell_about(run.model)) as claim:
            begun = step(begin, quote(run), verdicts, flow_run_id, force)
            ready = begun.result()
            if ready.finished:
                reused: Outcome = take(steps.reuse, ready)
                return reused
            training = step(train, begun)
            evaluation = step(evaluate, begun, training)
            explanation = step(explain, begun, evaluation) if run.becomes_version else None
            claim.check()
            logged: Outcome = step(log, begun, verdicts[0], evaluation, explanation).result()
            return logged
    except _StepFailed as failed:
        return _failure(run.settings, run.model, error_of(failed.state))
    except ChapterflowError as error:  # of the claim
        return _failure(run.settings, run.model, error)


class _StepFailed(Exception):
    """A task of a model failed; its state says why."""

    def __init__(self, state: State[Any]) -> None:
        super().__init__(str(state))
        self.state = state


def _compare(settings: Settings, outcomes: list[Outcome]) -> tuple[Comparison | None, str]:
    """Return the comparison, and as markdown; where it fails, why: the models are done."""
    if all(outcome.status == "failed" for outcome in outcomes):
        return None, ""
    quoted: Any = quote(settings)
    state: Any = compare(quoted, outcomes, return_state=True)
    if error := error_of(state):
        return None, f"The comparison failed: {error}\n"
    comparison: Comparison = state.result()
    return comparison, differences_markdown(comparison.differences)


def _report(
    project: Project,
    settings: Settings,
    outcomes: Sequence[Outcome],
    comparison: Comparison | None,
    flow_run_id: str,
) -> str:
    """Write the page of all results, and return a line about it, or about why there is none.

    Models of data other than those of `params.yaml` (`run --data`) have a page of their own, below
    the chapter's, with all models of these data.
    """
    from chapterflow.page.report import write_report

    if all(outcome.status == "failed" for outcome in outcomes):
        return ""
    tell = tell_about("report")
    usual = load_settings(project.params, profile=settings.profile)
    own = sorted({o.dataset for o in outcomes if o.dataset != usual.dataset_of(o.model)})
    page = project.root / "report" / "-".join(own) / "index.html"
    models = comparison.models if comparison else [o for o in outcomes if o.status != "failed"]
    wanted = [str(outcome.run_id) for outcome in models if outcome.dataset in own]
    if own and not wanted:
        return ""
    if _shows(page, outcomes):
        tell("reused", page.as_uri())
        return (
            f"\nReport: [{page.name}]({page.as_uri()}), the file `{page}`; nothing has changed.\n"
        )
    try:
        made = write_report(
            project,
            settings,
            out=page.parent,
            wanted=wanted,
            comparison=comparison,
            flow_run_id=flow_run_id,
            tell=tell,
        )
    except Exception as error:  # The models are done all the same.
        tell("failed", str(error).partition("\n")[0])
        return f"\nThe report failed: {type(error).__name__}: {error}\n"
    tell("built", made.page.as_uri())
    # Browsers follow no link from Prefect's pages into the file system: the path is printed too.
    return (
        f"\nReport: [{made.artifact}]({made.page.as_uri()}), the file `{made.page}`; also with run "
        f"`{made.run_id}` in MLflow.\n"
    )


def _shows(page: Path, outcomes: Sequence[Outcome]) -> bool:
    """Return whether a page shows these very runs, none of them new, in the reader's language."""
    if any(outcome.status != "reused" for outcome in outcomes) or not page.is_file():
        return False
    text = page.read_text(encoding="utf-8")
    return f'<html lang="{language()}">' in text and all(
        str(outcome.run_id) in text for outcome in outcomes
    )


def _failure(settings: Settings, name: str, error: BaseException | None) -> Outcome:
    return Outcome(
        model=name,
        dataset=settings.dataset_of(name),
        status="failed",
        error=describe(error, FOLDER) if error else None,
        exit_code=getattr(error, "exit_code", 1),
    )


def _summary(outcome: Outcome) -> str:
    if outcome.status == "failed":
        return (outcome.error or "").partition("\n")[0]
    return outcome.summary() + (f", run {outcome.run_id}" if outcome.status == "reused" else "")


def document(profile: str, seconds: float, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the results as `chapterflow run --json` prints them."""
    return {
        "profile": profile,
        "seconds": round(seconds, 3),
        "models": [outcome.model_dump(exclude={"exit_code"}) for outcome in outcomes],
    }
