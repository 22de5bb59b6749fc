"""The closing table: which rows, in which order, measured on what."""

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config import schema
from mpafer_jax.data.splits import CLIPS
from mpafer_jax.evaluation import protocol, table


def scores(war, uar, count=40):
    return {"war": war, "uar": uar, "macro_f1": 0.0, "count": count}


def summary(*splits):
    def both(war, uar):
        return {split: scores(war, uar) for split in splits}

    return {
        "class_names": ["a", "b", "c", "d"],
        # Not in the table's order.
        "baselines": {"text_context": {**both(0.6, 0.55), "step": 3}, "majority": both(0.4, 0.25)},
        "last": {"step": 20, **both(0.7, 0.65)},
        "best": {"step": 10, **both(0.8, 0.75)},
        "selected_by": "validation war",
        "method": "MPA-FER",
    }


def test_rows_from_chance_to_the_method():
    found = table.rows(summary("validation", "test"), "test")
    assert [(row.title, row.war, row.uar) for row in found] == [
        ("chance", 0.25, 0.25),
        ("majority class of train", 0.4, 0.25),
        ("text context alone (CoOp)", 0.6, 0.55),
        ("MPA-FER, last step (20)", 0.7, 0.65),
        ("MPA-FER, best on validation (10)", 0.8, 0.75),
    ]


def test_a_run_is_called_what_it_is():
    whole = flatten(schema.Config().model_dump())
    assert protocol.method_name(whole) == "MPA-FER"
    for part in ("visual_prompts.num_prompts", "head.local_weight", "loss.beta", "loss.gamma", "loss.token_weight"):
        assert protocol.method_name({**whole, part: 0}) == "tuned prompts"
    assert protocol.method_name({**whole, "loss.terms": ["cross_entropy", "prototype_alignment"]}) == "tuned prompts"
    for scales in ([["ctx", 0.0], [".*", 1.0]], [["ctx", 1.0], ["visual_prompts", 0.0]]):
        assert protocol.method_name({**whole, "optimizer.lr_scales": scales}) == "tuned prompts"
    for changes, title in (
        ({"logit_adjustment": 0.5}, "MPA-FER + logit adjustment (tau 0.5)"),
        ({"class_weights": "inverse_frequency"}, "MPA-FER + class weights (inverse frequency)"),
        ({"class_weights": "effective_number"}, "MPA-FER + class weights (effective number, beta 0.999)"),
    ):
        assert protocol.method_name({**whole, **{f"loss.{name}": x for name, x in changes.items()}}) == title
    values = {**summary("test"), "method": "tuned prompts"}
    assert [row.title for row in table.rows(values, "test") if row.own] == [
        "tuned prompts, last step (20)",
        "tuned prompts, best on validation (10)",
    ]


def test_a_bar_in_a_cell_begins_no_other_cell():
    lines = table.markdown(["", "a|b"], [["c", "1"]]).splitlines()
    assert lines == [r"|     | a\|b |", "|-----|-----:|", "| c   |    1 |"]


def test_rendered():
    lines = table.render(summary("validation", "test")).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1  # aligned as plain text
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["majority class of train", "40.00", "25.00"]
    assert lines[-1] == "Measured on 40 test images."


def test_without_a_test_split_it_says_so():
    text = table.render(summary("validation"))
    assert "Measured on 40 validation images, which also chose the checkpoint" in text
    assert "no test split was measured" in text


def test_a_checkpoint_that_the_test_split_chose_is_called_so():
    values = {**summary("test"), "selected_by": "test war"}
    text = table.render(values)
    assert "| MPA-FER, best on test (10) " in text
    assert text.endswith(f"Measured on 40 test images.\n\n**{protocol.TEST_SELECTED}**\n")
    assert protocol.TEST_SELECTED not in table.render(summary("validation", "test"))


def test_without_a_held_out_split_there_is_no_table():
    nothing = {"class_names": ["a"], "baselines": {}, "last": {"step": 3}, "selected_by": "nothing: last step only"}
    text = table.render(nothing)
    assert text == "Nothing to compare: the run has no held-out split.\n"


def test_without_a_best_checkpoint_the_last_stands_alone():
    values = summary("test")
    del values["best"]
    assert [row.title for row in table.rows(values, "test")][-1] == "MPA-FER, last step (20)"


def test_groups_are_a_table_for_each_attribute():
    made_on = summary("validation", "test")
    assert table.render_groups(made_on) == ""
    group = {"count": 30, "war": 0.8, "war_interval": (0.7, 0.875), "uar": 0.75, "uar_interval": (0.6, 0.85)}
    made_on["best"]["test"]["groups"] = {"gender": [{"value": "female", **group}, {"value": "", **group}]}
    note, _, header, _, *lines, _, _ = table.render_groups(made_on).split("\n")
    assert note.endswith("with 95% confidence intervals:")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines)]
    assert cells == [
        ["gender", "images", "accuracy (WAR), %", "UAR, %"],
        ["female", "30", "80.00 (70.0 to 87.5)", "75.00 (60.0 to 85.0)"],
        ["not given", "30", "80.00 (70.0 to 87.5)", "75.00 (60.0 to 85.0)"],
    ]
    of_clips = table.render_groups({**made_on, "data": [CLIPS]})
    assert (of_clips.count("clips"), of_clips.count("images")) == (2, 0)
