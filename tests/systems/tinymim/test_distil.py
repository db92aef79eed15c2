import copy
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from heredity.core.errors import ConfigError, DataError, ModelError
from heredity.core.lineage import Lineage, architecture_of, lineage_of, record, save_model
from heredity.core.loop import Plan
from heredity.core.run import Run
from heredity.data.pictures import Pictures
from heredity.nn.attention import attention_blocks, run_up_to
from heredity.nn.encoders import EncoderShape, Normalised, ResidualEncoder, vision_transformer
from heredity.nn.resolver import load_file
from heredity.systems.tinymim.cache import TargetCache, cached_targets
from heredity.systems.tinymim.distil import Distillation, distil, match
from heredity.systems.tinymim.encoders import untrained
from heredity.systems.tinymim.relations import Relations
from heredity.systems.tinymim.student import PathDrop, Pupil, path_drops, unused_names
from heredity.systems.tinymim.targets import Target, read_target, target_block
from heredity.systems.tinymim.views import Views

IMAGES = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PICTURES = Pictures(IMAGES, size=8)
QUICKLY = Distillation(
    views=Views(shift=1, colour=None), plan=Plan(steps=2, batch=4, learning_rate=1e-2), drop_path=0.0
)
PLACES = ("output", "ffn-branch", "attention-branch", "attention-residual", "qkv")


def made(width: int = 16, depth: int = 3, heads: int = 2, seed: int = 0, size: int = 8) -> Normalised:
    torch.manual_seed(seed)
    return untrained(EncoderShape(kind="vit", width=width, patch=2, depth=depth, heads=heads), size).eval()


def test_the_block_follows_the_papers_rule() -> None:
    assert target_block(Target(), teacher_depth=24, student_depth=12) == 18
    assert target_block(Target(), teacher_depth=12, student_depth=12) == 12
    assert target_block(Target(), teacher_depth=8, student_depth=6) == 6
    assert target_block(Target(block=-2), teacher_depth=8, student_depth=6) == 7
    with pytest.raises(ModelError, match="no block 9 in a model of 8 blocks"):
        target_block(Target(block=9), teacher_depth=8, student_depth=6)


def test_untrained_encoders_begin_as_published() -> None:
    vit = made(width=32).inner
    position, patches = vit.pos_embed[0], 16  # pyright: ignore
    assert torch.equal(position[0], torch.zeros(32))  # pyright: ignore
    # The first half of the channels tells the column: sin(p w_0) with w_0 = 1 (spec, section 2.3).
    columns = position[1 : 1 + patches, 0].reshape(4, 4)  # pyright: ignore
    torch.testing.assert_close(columns, torch.arange(4.0).sin().expand(4, 4))
    torch.testing.assert_close(
        position[1 : 1 + patches, 16].reshape(4, 4), torch.arange(4.0).sin()[:, None].expand(4, 4)
    )  # pyright: ignore
    weight = attention_blocks(vit)[0].attn.qkv.weight  # pyright: ignore
    assert float(weight.abs().max()) <= (6 / (32 + 96)) ** 0.5 + 1e-6  # pyright: ignore


@pytest.mark.parametrize(
    "target", [Target(), *(Target(kind="feature", place=place) for place in PLACES), Target(kind="cls")]
)  # pyright: ignore
def test_a_target_is_read_without_what_lies_behind_and_trains_the_rest(target: Target) -> None:
    student, teacher = made(), made(width=24, depth=4, heads=4, seed=1)
    matched = match(student, teacher, target)
    pupil = Pupil(student, matched.comparison, target, block=matched.student_block, recipe=None)
    with torch.no_grad():
        taught = read_target(teacher, IMAGES, target, matched.block)
    torch.stack(list(pupil(IMAGES, taught).values())).sum().backward()
    named = dict(student.named_parameters())
    without = [name for name, parameter in named.items() if parameter.grad is None]
    assert without == unused_names(student, target, matched.student_block)
    assert named["inner.blocks.0.attn.qkv.weight"].grad is not None
    if target.kind == "relations":
        # proj, norm2 and mlp of the last block and the pooling's norm: 2 + 2 + 4 + 2 tensors.
        assert len(without) == 10
        assert sum(name.startswith("inner.blocks.2.") for name in without) == 8
    assert all(parameter.grad is not None for parameter in pupil.comparison.parameters())


def test_features_are_what_the_block_gives() -> None:
    teacher = made()
    block = attention_blocks(teacher)[1]
    entered = run_up_to(teacher, IMAGES, 2).tokens
    with torch.no_grad():
        attended = block.attn(block.norm1(entered))  # pyright: ignore
        behind = entered + attended
        fed = block.mlp(block.norm2(behind))  # pyright: ignore
        expected = dict(zip(PLACES, (behind + fed, fed, attended, behind), strict=False))
        for place, wanted in expected.items():
            found = read_target(teacher, IMAGES, Target(kind="feature", place=place), 2)  # pyright: ignore
            torch.testing.assert_close(found, wanted)


def test_the_adapted_last_block_is_remembered_in_the_file(tmp_path: Path) -> None:
    student, teacher = made(), made(width=24, depth=4, heads=4, seed=1)
    before = student(IMAGES)
    match(student, teacher, Target())
    assert [block.attn.num_heads for block in attention_blocks(student)] == [2, 2, 4]  # pyright: ignore
    assert not torch.allclose(student(IMAGES), before)
    assert (architecture_of(student) or {})["last_heads"] == 4
    save_model(tmp_path / "s.safetensors", record(student, Lineage("s", "test")))
    again = load_file(tmp_path / "s.safetensors", image=8)
    assert torch.equal(again(IMAGES), student(IMAGES))


def test_distillation_lowers_the_loss_and_leaves_teacher_and_tail_alone() -> None:
    teacher = record(made(width=24, depth=4, heads=4, seed=1), Lineage("t", "test"))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    how = replace(QUICKLY, plan=replace(QUICKLY.plan, steps=25), drop_path=0.1)
    with Run.temporary() as run:
        student = distil(made, teacher, PICTURES, how, run=run, name="student")
        history = run.history("student")
    assert history["qk"][-1] < 0.7 * history["qk"][0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert lineage_of(student).parents[0].name == "t"
    untouched = made()
    for name in unused_names(student, Target(), 3):
        assert torch.equal(student.state_dict()[name], untouched.state_dict()[name]), name
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert isinstance(attention_blocks(student)[0].drop_path1, nn.Identity)


def test_cached_and_live_targets_train_the_same_student(tmp_path: Path) -> None:
    teacher = record(made(width=24, depth=4, heads=4, seed=1), Lineage("t", "test"))
    weights = []
    for cache in (False, True):
        with Run.temporary() as run:
            how = replace(QUICKLY, cache=cache)
            student = distil(
                made, teacher, PICTURES, how, run=run, name="student", cache=tmp_path / "c" if cache else None
            )
            weights.append(student.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-5, rtol=1e-4)
    assert (tmp_path / "c/targets-00000.safetensors").exists()
    deeper = replace(QUICKLY, cache=True, target=Target(block=4))
    with Run.temporary() as run, pytest.raises(ConfigError, match=r"holds targets with block = 3, not 4"):
        distil(made, teacher, PICTURES, deeper, run=run, name="student", cache=tmp_path / "c")


def test_an_interrupted_cache_goes_on_and_is_read_from_disk_or_memory(tmp_path: Path) -> None:
    asked: list[int] = []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        asked.extend(rows.tolist())
        return torch.stack([rows.float(), -rows.float()], dim=1)

    with Run.temporary() as run:
        build = lambda: cached_targets(tmp_path, 2500, compute, {}, fabric=run.fabric, store=torch.float16)  # noqa: E731
        build()
        (tmp_path / "targets-00001.safetensors").unlink()
        asked.clear()
        cache = build()
    assert asked == list(range(1024, 2048))
    rows = torch.tensor([2047, 0, 1024, 2047])
    assert torch.equal(cache[rows][:, 0].float(), rows.float())
    assert torch.equal(TargetCache(tmp_path, 2500)[rows], cache[rows])


def test_masked_input_shows_both_the_same_patches_and_reconstruction_uses_the_others() -> None:
    teacher = record(made(width=24, depth=4, heads=4, seed=1), Lineage("t", "test"))
    how = replace(QUICKLY, masked=0.5, reconstruction=1.0)
    with Run.temporary() as run:
        distil(made, teacher, PICTURES, how, run=run, name="student")
        assert set(run.history("student")) == {"qk", "vv", "reconstruction"}
    twin = replace(QUICKLY, masked=0.5, plan=replace(QUICKLY.plan, steps=1))
    with Run.temporary() as run:
        distil(lambda: copy.deepcopy(made(seed=1)), made(seed=1), PICTURES, twin, run=run, name="student")
        assert run.history("student")["qk"][0] == pytest.approx(0.0, abs=1e-6)


def test_drop_path_drops_the_samples_that_were_drawn() -> None:
    from heredity.core.randomness import Draws, generator_of

    drop = PathDrop(0.5).train()
    assert torch.equal(drop(torch.ones(4, 2)), torch.ones(4, 2))
    drop.draws = Draws(generator_of(0))
    whole = drop(torch.ones(64, 2))
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    halves = []
    for rank in (0, 1):
        drop.draws = Draws(generator_of(0), rank=rank, world=2)
        halves.append(drop(torch.ones(32, 2)))
    assert torch.equal(torch.cat(halves), whole)
    student = made()
    with path_drops(student, 0.1, 2):
        assert isinstance(attention_blocks(student)[1].drop_path2, PathDrop)
    assert isinstance(attention_blocks(student)[1].drop_path2, nn.Identity)


def test_what_cannot_be_distilled_is_refused() -> None:
    student, teacher = made(), made(width=24, depth=4, heads=4)
    with pytest.raises(ModelError, match=r"ResidualEncoder has no attention that can be read"):
        match(student, Normalised(ResidualEncoder(width=8)), Target())
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1), embed_dim=24, num_classes=0)
    with pytest.raises(ModelError, match="attends within windows"):
        match(student, Normalised(swin), Target())
    with pytest.raises(ModelError, match="grid of 4 x 4 patches and the teacher of 8 x 8"):
        match(student, made(size=16), Target())
    with pytest.raises(ModelError, match="student width 16 cannot be split into 3 teacher heads"):
        match(student, made(width=24, heads=3), Target())
    registers = timm.models.VisionTransformer(8, 2, embed_dim=16, depth=2, num_heads=2, num_classes=0, reg_tokens=2)
    with pytest.raises(ModelError, match="1 tokens before its patches and the teacher 3"):
        match(student, Normalised(registers), Target())
    match(student, Normalised(registers), Target(relations=Relations(prefix="dropped")))
    wider = match(made(width=48, heads=4), teacher, Target(kind="feature"))
    assert wider.comparison.maps[0].weight.shape == (24, 48)
    with Run.temporary() as run:
        for how, said in (
            (replace(QUICKLY, masked=1.0), "masked cannot be 1"),
            (replace(QUICKLY, reconstruction=1.0), "needs patches to reconstruct"),
            (replace(QUICKLY, cache=True, masked=0.5), "change from step to step"),
            (replace(QUICKLY, cache=True, views=Views()), "cannot be cached"),
        ):
            with pytest.raises(ConfigError, match=said):
                distil(made, teacher, PICTURES, how, run=run, name="student")
        with pytest.raises(DataError, match="no pictures"):
            distil(made, teacher, Pictures(IMAGES[:0], size=8), QUICKLY, run=run, name="student")


def test_vision_transformers_of_timm_are_taken_as_they_come() -> None:
    """Registers, normalised queries, layer scale: whatever timm's class offers, teacher or student."""
    torch.manual_seed(0)
    shape = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 4, "num_classes": 0}
    teacher = Normalised(timm.models.VisionTransformer(**shape, qk_norm=True, init_values=0.1, reg_tokens=2))  # pyright: ignore
    student = Normalised(vision_transformer(image=8, patch=4, width=16, depth=2, heads=2))
    target = Target(relations=Relations(prefix="dropped"))
    matched = match(student, record(teacher, Lineage("t", "test")), target)
    pupil = Pupil(student, matched.comparison, target, block=2, recipe=None)
    terms = pupil(IMAGES, read_target(teacher, IMAGES, target, matched.block))
    assert set(terms) == {"qk", "vv"}
    assert all(bool(torch.isfinite(term)) for term in terms.values())
