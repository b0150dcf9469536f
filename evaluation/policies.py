"""Evaluates the policies of a run, or baselines, and writes the report with its figures."""

import dataclasses
import math
import pathlib
import re
import time
import zlib
from collections.abc import Sequence
from typing import Any

from tether.data.files import check_writable, publish
from tether.data.sources import open_split
from tether.evaluation import figures, findings, report
from tether.evaluation.forced_reasoning import REASONING_MODES, ForcedReasoning
from tether.evaluation.judges import BASELINES, LEARNED, POLICIES, WORLDS, Evaluation, baseline, named
from tether.evaluation.provenance import provenance, stage_seconds
from tether.evaluation.report import PAIR, Results
from tether.evaluation.restore import read_run, restore
from tether.evaluation.shipped import open_shipped
from tether.evaluation.topview import Trace
from tether.evaluation.trained import learned_policies, missing_stages, remarks
from tether.evaluation.world_models import one_run
from tether.training import stages
from tether.training.config import Config
from tether.training.drives import NamedPolicy
from tether.training.models import Models, build
from tether.training.processes import cache_programs
from tether.training.scenes import DataConfig, PreparedRecords, data_directory
from tether.training.state import Learned, Progress
from tether.worldmodel.registry import build as build_model

BASELINES_BY_INTEREST = (*(name for name in BASELINES if name != "expert"), "expert")
QUOTED_SCENES = 4  # scenes whose sentences the report quotes
LONGEST_NAME = 100  # characters of a folder's name


def check_count(name: str, count: int | None) -> None:
    """Raises: ValueError for a count below 1."""
    if count is not None and count < 1:
        raise ValueError(f"{name}: expected at least 1, found {count}")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
      policies: names, or import paths of your own; None for all policies.
      judges: names of `judges.JUDGES`, or import paths; figures and listed events are under the first.
      split: of the data set.   data: another data set than the run's, or the starter set.
      scenes: number of scenes of the split, the first ones; the run's own number if None.
      temperature: of the learned policies, at least 0; 0 is greedy.
      reasoning: modes of `REASONING_MODES`: the learned policies are also evaluated on reasoning that is not their own.
      list_events: whether the report lists every scene in which a policy had an event, with its cause.
      trusted: modules or import paths of world models that a run may name, see `restore.read_run`.
    """

    policies: tuple[str, ...] | None = None
    judges: tuple[str, ...] = ("log_replay",)
    split: str = "test"
    data: str | None = None
    scenes: int | None = None
    temperature: float = 0.0
    reasoning: tuple[str, ...] = ()
    list_events: bool = False
    trusted: tuple[str, ...] = ()

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: expected a finite number, at least 0, found {self.temperature}")
        check_count("scenes", self.scenes)

    @property
    def folder(self) -> str:
        """Name of the folder that its report goes into; empty for the whole evaluation. See `folder_name`."""
        usual = dataclasses.asdict(Request())
        return folder_name({**dataclasses.asdict(self), "trusted": usual["trusted"]}, usual)


def evaluate_run(
    directory: str | pathlib.Path, request: Request = Request(), output: str | pathlib.Path | None = None
) -> str:
    """Evaluates a run's policies beside the baselines and writes the report into the run, or into `output`.

    A partial evaluation goes into a folder of its own in the run, `Request.folder`. The world model is measured only
    where all policies are evaluated.

    Returns: the report's headline.
    Raises: ValueError for a missing run, an unknown name, a policy that is not trained yet, an `output` that cannot be
      written or holds a larger report; `data.errors.DataError` for a missing data set; `SumoError` where the referee
      lacks SUMO or the scenes' traffic.
    """
    directory, began = pathlib.Path(directory), time.monotonic()
    output = directory / request.folder if output is None else pathlib.Path(output)
    config = with_data(read_run(directory, request.trusted), request.data)
    cache_programs(Config().run_directory)  # never beside a run of unknown origin: programs are code
    chosen = request.policies or tuple(BASELINES)
    check_names(request, directory)
    records, models = open_records(config, request.split, request.scenes), build(config)
    learned, progress = restore(directory, config, models, records)
    names = learned_policies(directory, config, progress, request.policies)
    policies = {name: baseline(name, config.simulator) for name in chosen if name not in LEARNED}
    policies |= learned_by_name(names, models, learned, request)
    evaluation = evaluation_of(policies, records, config, request)
    check_output(output, evaluation, request)
    spent = {
        "simulator_steps": progress.ledger.spent,
        "wall_s_by_stage": stage_seconds(directory / "metrics.jsonl"),
    }
    notes = remarks(config, learned, progress) if names else []
    fitted = request.policies is None and stages.world_model.STAGE.name not in missing_stages(config, progress)
    world_model = compare_models(config, models, learned, records) if fitted else {}
    return write_report(output, evaluation, config, request, progress, world_model, spent, began, notes)


def evaluate_without_run(request: Request, output: str | pathlib.Path) -> str:
    """Evaluates baselines and policies of your own, on the starter set or another data set, and writes the report.

    Learned policies are those of the shipped run (`shipped.py`); all policies then use that run's settings.

    Returns: the report's headline.
    Raises: ValueError for an unknown name, or a learned policy where none ships; otherwise as `evaluate_run`.
    """
    began, output = time.monotonic(), pathlib.Path(output)
    check_names(request)
    chosen = request.policies or tuple(BASELINES)
    names = [name for name in chosen if name in LEARNED]
    if request.reasoning and not names:
        raise ValueError("only learned policies have reasoning: name one, or a run, to force it")
    config, progress, own = Config(name="baseline"), Progress(), {}
    if names:
        config, models, learned, progress = open_shipped()
        own = learned_by_name(names, models, learned, request)
    config = with_data(config, request.data)
    cache_programs(Config().run_directory)
    policies = {name: baseline(name, config.simulator) for name in chosen if name not in LEARNED} | own
    evaluation = evaluation_of(policies, open_records(config, request.split, request.scenes), config, request)
    check_output(output, evaluation, request)
    return write_report(output, evaluation, config, request, progress, {}, {}, began)


def check_names(request: Request, *runs: pathlib.Path) -> None:
    """Checks the names of policies and judges before anything is imported. Args: runs: folders that are opened.

    Raises: ValueError for an unknown name, and for code in a run's folder.
    """
    for kind, names in ((POLICIES, request.policies or ()), (WORLDS, request.judges)):
        for name in names:
            kind.check_source(name, runs)


def folder_name(asked: dict[str, Any], usual: dict[str, Any]) -> str:
    """`eval-scenes-4-judges-reactive`: the settings that differ from the usual ones; empty where none does.

    Characters that a file's name should not have become `_`, and a long name is cut; a checksum then distinguishes
    names.
    """
    chosen = {name: value for name, value in asked.items() if value != usual[name]}
    whole = "".join(f"-{word}" for name, value in chosen.items() for word in (name, *items_of(value)))
    name = re.sub(r"[^\w.=+-]", "_", whole.replace("/", "-").replace("--", "-"))[:LONGEST_NAME]
    if not whole:
        return ""
    return f"eval{name}" if name == whole else f"eval{name}-{zlib.crc32(whole.encode()):08x}"


def items_of(value: Any) -> tuple[Any, ...]:
    """The values that follow a setting in a folder's name; none for a flag."""
    if isinstance(value, bool):
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def check_output(output: pathlib.Path, evaluation: Evaluation, request: Request) -> None:
    """Checks, before anything is rolled out, that the report can be written and replaces no larger one.

    Raises: ValueError where it cannot be written, or would replace a report on more scenes or judges, or, where
      policies are chosen, more policies.
    """
    check_writable(output)
    now = {"scenes": len(evaluation.records), "judges": len(evaluation.judges), "policies": len(evaluation.policies)}
    if request.policies is None:
        del now["policies"]
    report.keep_larger(output / "report.json", now, report.size_of)


def with_data(config: Config, directory: str | None) -> Config:
    """The config with another data set, all of its scenes, where one is named."""
    if directory is None:
        return config
    return dataclasses.replace(config, data=DataConfig(directory=directory, cached_scenes=config.data.cached_scenes))


def open_records(config: Config, split: str, scenes: int | None = None) -> PreparedRecords:
    """The first `scenes` of a split of the config's data set; the config's number if None.

    Raises: DataError for a missing data set or split; ValueError for more scenes than the split has, or less than one.
    """
    check_count("scenes", scenes)
    source = open_split(data_directory(config.data), split, config.spec)
    count = config.data.count(split, len(source)) if scenes is None else scenes
    return PreparedRecords(source, config.simulator, count, config.data.cached_scenes)


def learned_policy(name: str, models: Models, learned: Learned, temperature: float) -> NamedPolicy:
    """The imitation policy of a run, the best one that its rounds accepted, or its best accepted coach."""
    if name == "coach":
        return NamedPolicy(name, models.coach.deployed, learned.coach_best)
    params = {"imitation": learned.imitation, "post_trained": learned.best}[name]
    return NamedPolicy(name, models.vla.with_temperature(temperature), params, models.labels)


def learned_by_name(names: Sequence[str], models: Models, learned: Learned, request: Request) -> dict[str, NamedPolicy]:
    """The learned policies, and each of them on every requested mode of forced reasoning."""
    own = [learned_policy(name, models, learned, request.temperature) for name in names]
    own += [forced(policy, mode) for policy in own if policy.name != "coach" for mode in request.reasoning]
    return {policy.name: policy for policy in own}


def forced(policy: NamedPolicy, mode: str) -> NamedPolicy:
    """The same policy on reasoning that is not its own. Raises: ValueError for an unknown mode."""
    forcing = ForcedReasoning(policy.policy, named("reasoning", mode, REASONING_MODES))
    return dataclasses.replace(policy, name=f"{policy.name}{report.FORCED}{mode}", policy=forcing)


def evaluation_of(
    policies: dict[str, NamedPolicy], records: PreparedRecords, config: Config, request: Request
) -> Evaluation:
    """The evaluation of the policies on the scenes, with the config's sizes."""
    batch = min(config.evaluation.batch, len(records))
    return Evaluation(policies, records, request.judges, config.simulator, batch, config.rollout_steps, config.seed)


def compare_models(config: Config, models: Models, learned: Learned, records: PreparedRecords) -> dict[str, Any]:
    """The run's world model and the floors on the first batch of scenes."""
    floors = {name: (build_model(name, None, config.simulator), ()) for name in one_run.FLOORS}
    models = {config.world_model: (models.world_model, learned.model)} | floors
    some = [records[i] for i in range(min(config.evaluation.batch, len(records)))]
    return one_run.compare(models, some, config)


def write_report(
    output: pathlib.Path,
    evaluation: Evaluation,
    config: Config,
    request: Request,
    progress: Progress,
    world_model: dict[str, Any],
    spent: dict[str, Any],
    began: float,
    notes: Sequence[str] = (),
) -> str:
    """Rolls out all policies, then writes the report and its figures. Returns the headline.

    Args: world_model: as `one_run.compare` returns it.   notes: sentences before the headline, see `trained.remarks`.
    Raises: ValueError where `output` cannot be written; the report is then in a folder that the message names.
    """
    results = evaluation.results()
    judges = report.summarise(results)
    listed = list_events(evaluation, results) if request.list_events else []
    origin = provenance(config, request.split) | {"scenes": len(evaluation.records), "temperature": request.temperature}
    headline = " ".join([*notes, report.headline(judges, config.seed)])

    def write(folder: pathlib.Path) -> None:
        drawn, quoted = draw(folder, evaluation, results, judges, progress, config.evaluation.animations)
        parts = {
            "headline": headline,
            "remarks": list(notes),
            "judges": judges,
            "rounds": list(progress.rounds),
            "coach_rounds": list(progress.coach.rounds),
            "checks": list(progress.checks),
            "world_model": world_model,
            "figures": drawn,
            "sentences": [sentence for trace in quoted for sentence in findings.sentences(trace)],
            "events": listed,
            "provenance": origin | spent | {"evaluation_wall_s": round(time.monotonic() - began, 1)},
        }
        report.write(folder, finite(parts), results)

    publish(output, write)
    return headline


def finite(value: Any) -> Any:
    """The same tree with None in place of numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(
    output: pathlib.Path,
    evaluation: Evaluation,
    results: Results,
    judges: dict[str, Any],
    progress: Progress,
    count: int,
) -> tuple[dict[str, str], list[Trace]]:
    """Draws all figures, under the first judge.

    Returns: path (relative to the report) to caption, and the drawn traces of the post-trained policy.
    """
    judge = evaluation.judges[0]
    (output / "figures").mkdir()
    figures.policy_chart(judges[judge]["policies"], output / "figures" / "policies.png")
    drawn = {"figures/policies.png": f"Driving score and failures of every policy under {judge}."}
    for name, who, standing in (("coach_rounds", " of the coach", progress.coach), ("rounds", "", progress)):
        if standing.rounds:
            figures.rounds_chart(list(standing.rounds), output / "figures" / f"{name}.png")
            caption = f"Imagined against grounded return{who} by round, with the rule's decision."
            drawn[f"figures/{name}.png"] = caption
    if progress.checks:
        figures.loops_chart(list(progress.checks), output / "figures" / "loops.png")
        drawn["figures/loops.png"] = (
            "Open loop against closed loop, for every checkpoint driven on the validation split."
        )
    spoken = []
    for name, caption, pair, row in showcases(evaluation, results, count):
        traces = [evaluation.traces(judge, policy, [row])[0] for policy in pair]
        figures.animate(traces, output / "figures" / f"{name}.gif")
        figures.still(traces, output / "figures" / f"{name}.png")
        drawn[f"figures/{name}.gif"] = caption
        spoken += [trace for trace in traces if trace.policy == PAIR[0]]
    return drawn, spoken[:QUOTED_SCENES]


def showcases(evaluation: Evaluation, results: Results, count: int) -> list[tuple[str, str, tuple[str, ...], int]]:
    """The scenes to draw: file name, caption, policies side by side, row."""
    judge, policies = evaluation.judges[0], evaluation.policies
    scenes = []
    if all(name in policies for name in PAIR):
        for number, row in enumerate(findings.improvements(results, judge, count), 1):
            caption = f"Best improvement {number}: imitation failed, post-trained did not."
            scenes.append((f"improvement_{number}", caption, ("imitation", "post_trained"), row))
    yours = (name for name in policies if name not in BASELINES)
    subject = next(name for name in (*PAIR, *yours, *BASELINES_BY_INTEREST) if name in policies)
    beside = tuple(dict.fromkeys((subject, *(name for name in ("expert",) if name in policies))))
    for number, row in enumerate(findings.worst_failures(results, judge, subject, count), 1):
        caption = f"Worst remaining failure {number} of {figures.policy_name(subject)}."
        scenes.append((f"failure_{number}", caption, beside, row))
    return scenes


def list_events(evaluation: Evaluation, results: Results) -> list[dict[str, Any]]:
    """Every scene in which a policy had an event, with its cause, under the first judge."""
    judge, listed = evaluation.judges[0], []
    for policy in evaluation.policies:
        rows: Sequence[int] = findings.eventful(results, judge, policy)
        traces = evaluation.traces(judge, policy, rows)
        listed += [event for row, trace in zip(rows, traces, strict=True) for event in findings.events(trace, row)]
    return listed
