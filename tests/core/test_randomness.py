import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.core.randomness import Draws, generator_of, seed_of


def test_seeds_depend_on_every_part() -> None:
    seeds = {seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of("0", "a"), seed_of(0, "a", 0)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 4]), st.integers(1, 6))
def test_a_sample_draws_the_same_numbers_however_many_processes_share_the_batch(
    seed: int, world: int, each: int
) -> None:
    def all_of(name: str, world: int) -> torch.Tensor:
        parts = []
        for rank in range(world):
            draws = Draws(generator_of(seed), rank, world)
            samples = each * 4 // world
            calls = {
                "uniform": lambda d=draws, n=samples: d.uniform(n, 3, low=-1.0, high=2.0),
                "normal": lambda d=draws, n=samples: d.normal(n, 2),
                "integers": lambda d=draws, n=samples: d.integers(n, high=7),
                "rows": lambda d=draws, n=samples: d.rows(n, 11),
            }
            parts.append(calls[name]())
        return torch.cat(parts)

    for name in ("uniform", "normal", "integers", "rows"):
        assert torch.equal(all_of(name, 1), all_of(name, world))


def test_rows_do_not_repeat_within_an_epoch() -> None:
    assert len(Draws(generator_of(1)).rows(10, 10).unique()) == 10
    assert Draws(generator_of(1)).rows(25, 10).bincount().tolist().count(2) >= 5
