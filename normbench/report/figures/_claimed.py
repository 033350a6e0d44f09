"""The claim that a figure is about, or why it is not drawn. Pure."""

from normbench.claim import Claim
from normbench.report.figures import NotDrawn
from normbench.report.study import Study


def claim_of(study: Study) -> Claim:
    """Raises NotDrawn where the runs test no claim."""
    if study.options.claim is None:
        raise NotDrawn("needs a claim that the runs test, found none; normbench reproduce makes some")
    return study.options.claim
