"""The paper's six findings, each judged as a claim about one study. No torch.

Paper: He, Girshick, Dollar 2019, Rethinking ImageNet Pre-training (arXiv 1811.08883). Its findings are
about COCO and its schedules; here they are asked of the data, the lengths and the shares of the data that a
study has (`study.paper_claims` says how).
"""

from dataclasses import dataclass, replace

from groundup.errors import UsageError
from groundup.study.claim_ground import Claim, Ground, Lacking, Measure, is_complete, survey
from groundup.study.claims import Mark, mark_of, p_value_of
from groundup.study.difference import holm
from groundup.study.paper_claims import CLAIMS
from groundup.study.results import StudyResults
from groundup.study.samples import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFinding:
    """What the paper says."""

    number: int
    title: str
    says: str
    """With its numbers, box AP on COCO val2017."""
    where: str
    """Part of the paper."""


PAPER = (
    PaperFinding(
        number=1,
        title="Training from scratch is possible",
        says="Mask R-CNN R50 with GN ends at 41.3 AP from scratch, at 41.1 pre-trained (6x)",
        where="table 1",
    ),
    PaperFinding(
        number=2,
        title="It needs more iterations",
        says="R50: scratch is behind by 3.5 AP at 2x, by 1.3 at 3x, by 0.3 at 4x, and level at 6x",
        where="table 1",
    ),
    PaperFinding(
        number=3,
        title="It is no worse, given data and a long schedule",
        says="at 6x scratch is ahead by 0.2 AP (R50) and 0.5 AP (R101); at 35k images both have 36.3 AP",
        where="table 1 and the experiments with less data",
    ),
    PaperFinding(
        number=4,
        title="Pre-training is faster",
        says="R50 at 2x: 40.3 AP pre-trained, 36.8 from scratch, which comes to 40.6 at 4x",
        where="table 1",
    ),
    PaperFinding(
        number=5,
        title="Pre-training does not reduce overfitting, unless data is very small",
        says="10k images: 25.9 AP from scratch, 26.0 pre-trained; 1k images: 3.5 and 9.9",
        where="the experiments with less data",
    ),
    PaperFinding(
        number=6,
        title="Pre-training helps less where localization counts",
        says="scratch minus pre-trained is +0.1 in AP50 and +1.0 in AP75 (R50), +0.3 and +0.8 (R101)",
        where="table 2",
    ),
)
"""Source: the paper's tables, as seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding of the paper on the data of a study."""

    number: int
    title: str
    paper: str
    source: str
    mark: Mark
    provisional: bool
    """One seed in an arm, or runs missing: not the last word."""
    sentence: str
    """What this study says, with numbers; or what it lacks."""
    beside: list[str]
    """What belongs to it and is not part of the mark."""
    measures: list[Measure]
    """The first is what the claim is about."""
    p_value: float | None
    """Corrected for the findings being several (Holm); None where nothing could be judged."""


def state_findings(results: StudyResults, samples: Samples) -> list[Finding]:
    """The six findings in the question's kind, as far as the study has come.

    None where its arms are not scratch and pre-trained. Claims whose runs are not done yet are counted in the
    correction, those that are not asked are not.
    """
    ground = survey(results, samples)
    if ground is None:
        return []
    claims: dict[int, Claim | Lacking] = {}
    for paper, state in zip(PAPER, CLAIMS, strict=True):
        try:
            claims[paper.number] = state(ground)
        except Lacking as lack:
            claims[paper.number] = lack
        except UsageError as error:  # an endpoint that is undefined on these images
            claims[paper.number] = Lacking(str(error))
    corrected = holm(
        {
            str(number): 1.0 if isinstance(claim, Lacking) else p_value_of(claim.requirements, ground.alpha)
            for number, claim in claims.items()
            if isinstance(claim, Claim) or claim.planned
        }
    )
    return [judged(ground, paper, claims[paper.number], corrected.get(str(paper.number))) for paper in PAPER]


def judged(ground: Ground, paper: PaperFinding, claim: Claim | Lacking, p_value: float | None) -> Finding:
    """The finding with its mark."""
    finding = Finding(
        number=paper.number,
        title=paper.title,
        paper=paper.says,
        source=f"He, Girshick, Dollar 2019, {paper.where}",
        mark="undecided",
        provisional=True,
        sentence=f"Not judged: {claim}.",
        beside=[],
        measures=[],
        p_value=None,
    )
    if isinstance(claim, Lacking):
        if claim.planned:
            return finding
        return replace(finding, mark="not asked", provisional=False, sentence=f"Not asked: {claim}.")
    assert p_value is not None, "every claim that is made is in the correction"
    one_seed = any(one.difference.image_only for one in claim.requirements)
    return replace(
        finding,
        mark=mark_of(claim.requirements, p_value, ground.alpha),
        provisional=one_seed or not is_complete(ground, claim.points),
        sentence=claim.sentence,
        beside=list(claim.beside),
        measures=list(claim.measures),
        p_value=p_value,
    )
