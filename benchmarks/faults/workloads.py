"""The commands that faults are tried on, in their smallest form, and uninterrupted runs of them.

Each command is repeated as it is after a fault: `--resume` continues a training run, `parse` keeps
the maps that are complete, and the others start again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.comparison import contents
from benchmarks.faults.processes import Ended, Fault, Forks
from pivl_distill.data.synthetic.dataset import write_dataset
from pivl_distill.data.synthetic.tiers import get_tier

CACHE = "cache"


@dataclass(frozen=True)
class Workload:
    """A command with its stages."""

    name: str
    arguments: tuple[str, ...]
    """`{people}` and `{done}` are the data set and the folder with the uninterrupted commands."""
    result: str
    """What is compared: a pattern in the working folder; the last match counts."""
    stages: dict[str, str]
    """Name and first function of each stage, in their order; the first one has no function."""
    code: int = 0
    """Exit code of the uninterrupted command."""


def _set(*assignments: str) -> tuple[str, ...]:
    return tuple(word for assignment in assignments for word in ("--set", assignment))


_TRAINING = ("--config", "quick", "--data", "market1501:{people}")

TEACH = Workload(
    "teach",
    (
        "teach",
        *_TRAINING,
        *_set("tuning.identity_epochs=3", "tuning.part_epochs=3", "stage2.epochs=3"),
        *_set("embedding_views=2"),
        *("--out", "teach", "--resume"),
    ),
    "teach",
    {
        "start": "",
        "reading crops": "pivl_distill.data.store:load_training_crops",
        "CLIP features": "teachers.image_features:encode_crops",
        "stage 1, identities": "teachers.tuning:tune_prompts",
        "stage 1, parts": "teachers.stage1_losses:part_loss",
        "encoding the bank": "teachers.teach:make_bank",
        "writing the bank": "pivl_distill.bank:PromptBank.save",
        "stage 2": "pivl_distill.training.stage2:train",
        "writing the teacher": "teachers.teacher:save_teacher",
        "embeddings": "teachers.embedding_file:save_embedding_file",
        "evaluation": "pivl_distill.retrieval.evaluation:evaluate_model",
        "summary": "pivl_distill.runs.run:Run.finish",
    },
)
STUDENT = Workload(
    "student",
    (
        "student",
        *_TRAINING,
        *("--arch", "test_efficientnet", "--pretrained", "none"),  # few layers: fast to export
        *_set("stage2.epochs=4", "distill.start_epochs=2"),
        *("--bank", "{done}/teach", "--out", "student", "--resume"),
    ),
    "student",
    {
        "start": "",
        "reading crops": "pivl_distill.data.store:load_training_crops",
        "distilling the start": "students.distill:distill_start",
        "stage 2": "pivl_distill.training.stage2_run:Stage2Run.train_and_evaluate",
        "writing the student": "students.student:save_student",
        "evaluation": "pivl_distill.retrieval.evaluation:evaluate_model",
        "summary": "pivl_distill.runs.run:Run.finish",
    },
)
EXPORT = Workload(
    "export",
    (
        *("export", "{done}/student", "--precision", "fp16,int8", "--rtx", "--batch", "1,2,4"),
        # The few crops are far from a measurement; the cosine starts the search of INT8.
        *("--budget", "fp16.mAP=5", "--budget", "int8.mAP=20", "--budget", "int8.rank1=20"),
        *("--budget", "int8.cosine=0.9918"),
    ),
    "runs/export-*",
    {
        "start": "",
        "float32": "export.onnx_export:write_onnx",
        "verification": "export.verification:Verifier.verify",
        "fp16": "export.fp16:write_fp16",
        "calibration": "export.calibration:measure_ranges",
        "INT8": "export.int8:write_int8_within_budget",
        "INT8 search": "export.int8:rank_by_sensitivity",
        "latency": "export.exporter:_measure_latency",
        "summary": "pivl_distill.runs.run:Run.finish",
        "engine build": "export.engines.builder:build_engine",
        "engine files": "export.engines.engine_info:write_sidecar",
        "engines' manifest": "export.engine_exporter:check_engines",
    },
    code=4,
)
PARSE = Workload(
    "parse",
    ("parse", "market1501:{people}", "--out", "maps"),
    "maps",
    {
        "start": "",
        "maps": "pivl_distill.parsing.map_folder:MapFolder.write",
        "list of maps": "pivl_distill.parsing.map_folder:MapFolder.finish",
        "statistics": "pivl_distill.parsing.parse_dataset:collect_statistics",
        "sheet": "pivl_distill.parsing.qa_sheet:write_qa_sheet",
    },
)
_EMBED_STAGES = {
    "start": "",
    "loading the export": "pivl_distill.runtime.extractor:Extractor.__init__",
    "embeddings": "pivl_distill.app.embed_folder:embed_folder",
    "summary": "pivl_distill.app.embed_folder:print_embedded",
}
_EMBED = ("embed", "{people}", "--export", "{done}/export", "--precision", "fp32", "--out")
EMBED_NPZ = Workload("embed .npz", (*_EMBED, "all.npz"), "all.npz", _EMBED_STAGES)
EMBED_PARQUET = Workload("embed .parquet", (*_EMBED, "all.parquet"), "all.parquet", _EMBED_STAGES)
EVALUATE = Workload(
    "evaluate",
    ("evaluate", "{done}/student", "--rerank", "--sheet", "sheet.png"),
    "sheet.png",
    {
        "start": "",
        "evaluation": "pivl_distill.app.targets:evaluate_target",
        "report": "pivl_distill.app.evaluation_report:Scored.print",
        "sheet": "pivl_distill.app.ranking_sheet:ranking_sheet",
    },
)
SYNTH = Workload(
    "synth",
    ("synth", "--tier", "tiny", "--out", "synthetic"),
    "synthetic",
    {
        "start": "",
        "rendering": "pivl_distill.data.synthetic.render:render",
        "description": "pivl_distill.data.synthetic.people:attributes",
        "report": "pivl_distill.app.report:print_synthetic",
    },
)
CHAIN = (TEACH, STUDENT, EXPORT)
"""Each needs the results of those before it."""
WORKLOADS = (*CHAIN, PARSE, EMBED_NPZ, EMBED_PARQUET, EVALUATE, SYNTH)


class Place:
    """A folder with the data set and an uninterrupted run of each command, `done`."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        self.people, self.done = folder / "people", folder / "done"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.people.is_dir():
            write_dataset(self.people, get_tier("tiny"), 0)

    def run(
        self,
        workload: Workload,
        folder: Path,
        fault: Fault | None = None,
        cache: Path | None = None,
    ) -> Ended:
        """Run the command in a working folder; its cache is there too unless named."""
        folder.mkdir(parents=True, exist_ok=True)
        words = [word.format(people=self.people, done=self.done) for word in workload.arguments]
        log = self.folder / "output.log"  # on another disk than the working folder may be
        return self.forks.run(words, folder, cache or folder / CACHE, log, fault)

    def reference(self, workload: Workload, fault: Fault | None = None) -> dict[str, str]:
        """Return the comparable contents of the uninterrupted command, which runs once.

        `fault` may only count. The commands that this one needs run before it.
        """
        marker = self.folder / f"{workload.name}.json"
        if not marker.is_file():
            if "{done}" in " ".join(workload.arguments):
                for needed in CHAIN[: CHAIN.index(workload) if workload in CHAIN else None]:
                    self.reference(needed)
            ended = self.run(workload, self.done, fault)
            if ended.code != workload.code:
                raise RuntimeError(f"{workload.name} ends with {ended.code}:\n{ended.output}")
            if workload.result == EXPORT.result:
                shutil.copytree(result_of(workload, self.done), self.done / "export")
            marker.write_text(json.dumps(contents(result_of(workload, self.done)), indent=1))
        return json.loads(marker.read_text())


def result_of(workload: Workload, folder: Path) -> Path:
    """Return the file or run that the command has written last in a working folder."""
    found = sorted(folder.glob(workload.result), key=lambda path: (len(path.name), path.name))
    return found[-1] if found else folder / workload.result
