"""The help of commands with many options: by subject, rare ones where all are asked for."""

import re
from collections.abc import Sequence
from typing import Any

import click

from .show import say_all

# The options of each subject in the order of the help; a dash marks those that only --help-all lists.
GROUPS = {
    "Run": "preset config out resume seed device devices"
    " -precision -threads -compile -checkpoint_minutes -logger -diagnose_every -allow_code",
    "Data": "dataset image_size unlabelled val_fraction labels_per_class label_fraction"
    " -labelled_images -ignore -crop_size -crop_scale -holdout_classes -test_fraction -split_seed -label_noise"
    " -labelled_share -root -augment -images -bad_images -workers -views -normalise",
    "Teacher": "teacher clip_mode teacher_weights teacher_size teacher_head"
    " -teacher_mean -teacher_std -teacher_args -teacher_stages -teacher_mode -embeddings -head_epochs -teacher_lr",
    "Student": "student student_weights init_from head target_space dim align -student_stages",
    "Network": "network hidden",
    "Method": "method objective method_args beta gamma alpha temperature transformations queue key_momentum"
    " -node_weight -edge_weight -ss_head -init_epochs",
    "Graph": "graph k scope refine -hops -edges -neighbours -nodes -pool -kernel -scale -criterion -form -relation",
    "Optimisation": "epochs batch_size lr schedule optimiser weight_decay select"
    " -warmup_epochs -ema -patience -schedule_by -min_lr -milestones -drop_last -momentum -nesterov"
    " -decay_norm_and_bias -clip_norm -accumulate -batch_norm -eval_every",
}
MORE = "--help-all lists the rare options as well, and explains each in full."


class Grouped(click.Command):
    """A command whose help has the options by subject."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(
                ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
                help="Show this message with the rare options, and exit.",
            )
        )  # fmt: skip

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each subject, and where the others are."""
        whole = bool(ctx.meta.get("help_all"))
        params = {param.name: param for param in self.get_params(ctx)}
        for title, names in GROUPS.items():
            shown = [name.removeprefix("-") for name in names.split() if whole or name[0] != "-"]
            _write(title, [params[name] for name in shown if name in params], ctx, formatter, whole)
        known = {name.removeprefix("-") for names in GROUPS.values() for name in names.split()}
        _write("Help", [param for name, param in params.items() if name not in known], ctx, formatter, whole)
        if not whole:
            formatter.write_paragraph()
            formatter.write_text(MORE)


def _write(
    title: str, params: Sequence[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter, whole: bool
) -> None:
    """Write a section of options, with the whole of their help or the first sentence and the defaults."""
    records = [row for param in params if (row := param.get_help_record(ctx)) is not None]
    rows = records if whole else [(name, first_sentence(text)) for name, text in records]
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=26)


def first_sentence(text: str) -> str:
    """Return the first sentence of the help of an option, and the defaults in brackets that follow the last.

    >>> first_sentence("Split (val; test). The original chooses test.  [default: val]")
    'Split (val; test)  [default: val]'
    """
    found = re.fullmatch(r"(?s)(.*?)((?:\s*\[[^]]*\])*)", text)
    assert found is not None, "any text matches"
    told, defaults = found.groups()
    for end in re.finditer(r"(?<!\.)[.;](?= |$)", told):
        before = told[: end.start()]
        if before.count("(") == before.count(")"):
            return before + defaults
    return text


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["help_all"] = True
        say_all(ctx.get_help())
        ctx.exit()
