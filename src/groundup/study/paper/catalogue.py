"""The built-in studies by name."""

from collections.abc import Callable

from groundup.config import did_you_mean
from groundup.errors import UsageError
from groundup.study.paper.enhanced import figure5, table3
from groundup.study.paper.low_data import figure7, figure7_10k, figure8, figure8_own
from groundup.study.paper.schedules import figure1, figure2, figure3, figure4, syncbn, table1, table2
from groundup.study.paper.setting import Sources
from groundup.study.paper.systems import figure6, keypoints, vgg
from groundup.study.paper.voc import voc
from groundup.study.study import Study

BUILT_IN: dict[str, Callable[[Sources], Study]] = {
    build.__name__: build
    for build in (
        figure1,
        figure2,
        figure3,
        figure4,
        figure5,
        figure6,
        figure7,
        figure7_10k,
        figure8,
        figure8_own,
        table1,
        table2,
        table3,
        syncbn,
        keypoints,
        vgg,
        voc,
    )
}
"""Each gives its study at full scale."""


def summary(name: str) -> str:
    """What a built-in study shows, in one line."""
    return (BUILT_IN[name].__doc__ or "").strip().splitlines()[0]


def built_in(name: str, sources: Sources) -> Study:
    """The study of that name at full scale.

    Raises:
        UsageError: there is none.
    """
    if name not in BUILT_IN:
        raise UsageError(
            f"no study '{name}'{did_you_mean(name, list(BUILT_IN))}; `groundup study list` names them"
        )
    return BUILT_IN[name](sources)
