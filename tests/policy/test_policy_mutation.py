"""The cases notice when the code that decides is changed: the tests of the verdict are themselves tested."""

from types import CodeType

import pytest

from tests.policy import policy_cases, policy_mutants

KILLED_AT_LEAST = 0.9

COMPILED: dict[str, CodeType] = {
    module: compile(policy_mutants.path_of(module).read_text(), str(policy_mutants.path_of(module)), "exec")
    for module in policy_mutants.MODULES
}


def test_unchanged_modules_survive() -> None:
    unchanged = policy_mutants.Mutant(module="judge", line=0, change="none", code=COMPILED["judge"])
    assert policy_mutants.killer(unchanged, COMPILED, list(policy_cases.CASES)) is None


@pytest.mark.parametrize("module", policy_mutants.MUTATED)
def test_at_least_nine_of_ten_mutants_are_caught(module: str) -> None:
    order = list(policy_cases.CASES)
    mutants = list(policy_mutants.mutants(module))
    survivors = [mutant for mutant in mutants if policy_mutants.killer(mutant, COMPILED, order) is None]
    killed = len(mutants) - len(survivors)
    print(f"{module}: {killed} of {len(mutants)} mutants caught")
    for mutant in survivors:
        print(f"  survives: {module}.py:{mutant.line}: {mutant.change}")
    assert len(mutants) >= 5
    assert killed >= KILLED_AT_LEAST * len(mutants)
