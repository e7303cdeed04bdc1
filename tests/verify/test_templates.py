"""Templates of dataset.json come with the package."""

import json

import pytest

from odiff.dataset import parse_description
from odiff.errors import UsageError
from odiff.experiment_planning.label_templates import read_template, template_names
from odiff.experiment_planning.verify_command import main
from odiff.phantom.study import JOINTS

DIAGNOSES = {
    "knee": ("ACL", "PCL", "MM", "LM", "MCL", "LCL", "PD", "EFFU"),
    "ankle": ("ATFL", "CFL", "ATR", "OLT"),
    "shoulder": ("SSP", "ISP", "SSC", "LHBT", "AC", "GHJ", "LHBT_EFFU", "SASD"),
}


@pytest.mark.parametrize("name", DIAGNOSES)
def test_a_template_is_a_valid_description_with_the_abbreviations_of_the_paper(name):
    description = parse_description(json.loads(read_template(name)), name)
    assert (description.joint, description.diagnoses) == (name, DIAGNOSES[name])
    assert set(JOINTS[name].diagnoses) <= set(description.diagnoses), "phantom and template use one vocabulary"


def test_the_knee_has_eleven_structures_named_as_in_the_phantom():
    labels = parse_description(json.loads(read_template("knee")), "knee").labels
    assert len(labels) == 12
    assert set(labels) == set(JOINTS["knee"].labels)


@pytest.mark.parametrize("name", DIAGNOSES)
def test_the_command_prints_nothing_else_to_stdout(name, capsys):
    assert main(["--template", name]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["joint"] == name
    assert printed.endswith("}\n")


def test_unknown_templates_are_errors_that_list_the_known(capsys):
    assert template_names() == sorted(DIAGNOSES)
    with pytest.raises(UsageError, match="hip: no such template; known are ankle, knee, shoulder"):
        read_template("hip")
    assert main(["--template", "hip"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [[], ["1", "--template", "knee"]])
def test_a_dataset_or_a_template_but_not_both(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
