"""Random numbers belong to a probe, a trial and a purpose."""

import torch

from invmm_gate.measure.distributions import stream


def first(*key: str | int, root_seed: int = 0) -> float:
    return torch.randn((), generator=stream(root_seed, *key)).item()


def test_the_same_key_gives_the_same_numbers() -> None:
    assert first("a", 1, "test", 50) == first("a", 1, "test", 50)


def test_another_run_seed_probe_trial_purpose_or_step_gives_others() -> None:
    keys = [
        ("a", 0, 0, "noise"),
        ("b", 0, 0, "noise"),
        ("a", 1, 0, "noise"),
        ("a", 0, 1, "noise"),
        ("a", 0, 0, "test", 5),
    ]
    values = {first(*key, root_seed=seed) for key in keys for seed in (0, 1)}
    assert len(values) == 10


def test_the_run_does_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    first("a")
    assert torch.equal(torch.get_rng_state(), state)


def test_streams_are_the_same_in_every_release() -> None:
    # Resumed runs and released scores rest on this: sha256 of "7|abc|0|test", upper 63 of its first 64 bits.
    assert stream(7, "abc", 0, "test").initial_seed() == 3_641_364_702_767_816_973
