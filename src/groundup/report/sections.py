"""The parts of the page in their order."""

from groundup.report.accounts import bill_section, commands_section, dropped_section, runs_section
from groundup.report.accuracy import curves_section, data_section, differences_section, endpoints_section
from groundup.report.evidence import (
    categories_section,
    decide_section,
    disagreements_section,
    errors_section,
    overfitting_section,
)
from groundup.report.findings import findings_section
from groundup.report.parts import Material, Section
from groundup.report.published import published_section
from groundup.report.searches import search_section


def build_sections(material: Material) -> list[Section]:
    """All parts after the answer, in order; a part that has nothing to say says so or is left out."""
    builders = (
        differences_section,
        curves_section,
        endpoints_section,
        published_section,
        data_section,
        findings_section,
        search_section,
        bill_section,
        errors_section,
        disagreements_section,
        categories_section,
        overfitting_section,
        decide_section,
        runs_section,
        dropped_section,
        commands_section,
    )
    sections = (builder(material) for builder in builders)
    return [section for section in sections if section is not None]
