"""Every overlay, and the compositions, keep every rule; and each rule notices when it is broken."""

import pytest

import links
import pods
from binaries import facts
from manifests import renders
from mutations import MUTATIONS
from schemas import schema

RULES = {rule.__name__: rule for rule in [schema, *pods.RULES, *links.RULES]}
RENDERS = renders()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("deployed", RENDERS)
def test_keeps(deployed, rule):
    assert not list(RULES[rule](RENDERS[deployed], facts()))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_notices(mutation):
    broken = mutation.applied(RENDERS[mutation.render])
    assert list(RULES[mutation.rule](broken, facts())), "the rule finds nothing wrong"


def test_every_rule_has_a_mutation():
    assert {mutation.rule for mutation in MUTATIONS} == RULES.keys()
