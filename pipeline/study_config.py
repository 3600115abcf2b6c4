"""Schema of `conf/study.yaml`: which study, how large, and where.

config = compose("study", STUDY_SCHEMAS, ["name=linear-limits"])
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require
from pipeline.studies.study import Scale


@dataclass(slots=True, kw_only=True)
class StudyConfig:
    name: str = field(default="all", metadata={"help": "name of a study, or all of them"})
    scale: Scale = field(default=Scale.laptop, metadata={"help": "laptop: minutes on two cores; gpu: the bigger twin"})
    seeds: int | None = field(default=None, metadata={"help": "seeds of each configuration; null: the study's own"})
    jobs: int = field(default=2, metadata={"help": "runs at once; they share cores and GPUs evenly"})
    options: list[str] = field(
        default_factory=list,
        metadata={"help": "options of training for all runs, as [logger=wandb,track.report=true]; the last word"},
    )
    dir: str = field(default="studies", metadata={"help": "folder of all studies"})
    data: str = field(default="data/studies", metadata={"help": "folder of their data sets"})

    def __post_init__(self) -> None:
        enough = self.seeds is None or self.seeds >= 2
        require(enough, f"seeds={self.seeds}: at least 2 wanted, or null; one seed has no spread to conclude from")
        require(self.jobs >= 1, f"jobs={self.jobs}: at least 1 wanted")


STUDY_SCHEMAS = {"root": StudyConfig}
