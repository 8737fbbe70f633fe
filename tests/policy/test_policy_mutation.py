"""The cases notice when the code that decides is changed: the tests of the verdict are themselves tested."""

import pytest

from tests.policy.policy_mutants import Mutant, changed, killer, mutants, path_of, reached

KILLED_AT_LEAST = 0.9


@pytest.mark.parametrize("module", changed())
def test_at_least_nine_of_ten_mutants_are_caught_and_the_unchanged_module_is_not(module: str) -> None:
    order = list(reached())
    path = path_of(module)
    unchanged = Mutant(module=module, line=0, change="none", code=compile(path.read_text(), str(path), "exec"))
    assert killer(unchanged, order) is None
    made = list(mutants(module))
    survivors = [mutant for mutant in made if killer(mutant, order) is None]
    killed = len(made) - len(survivors)
    print(f"{module}: {killed} of {len(made)} mutants caught")
    for mutant in survivors:
        print(f"  survives: {module}.py:{mutant.line}: {mutant.change}")
    assert len(made) >= 4
    assert killed >= KILLED_AT_LEAST * len(made)
