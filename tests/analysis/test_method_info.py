"""What is said of each method is what an instance of it holds."""

import torch

from relgraph.analysis.method_info import SMALL_RUN, method_info
from relgraph.graph.relation import Relation
from relgraph.methods import METHODS
from relgraph.methods.base import facts_of
from relgraph.options import options_of
from tests.checks import case, refusal


def test_what_is_told_of_each_method() -> None:
    for name in METHODS:
        with case(name):
            check_parts(name)
            check_options(name)


def check_parts(name: str) -> None:
    """Check kernel and criterion by the relations; a docstring tells where there are none, and agrees elsewhere."""
    info, facts = method_info(name), facts_of(METHODS[name])
    held = [part for part in vars(METHODS[name].for_run(SMALL_RUN)).values() if isinstance(part, Relation)]
    kernels = list(dict.fromkeys(relation.kernel.name for relation in held))
    words = ((relation.criterion.name, relation.scale.name) for relation in held)
    criteria = list(dict.fromkeys(" by ".join(filter(None, each)) for each in words))
    assert info.kernel == ("; ".join(kernels) if held else facts.get("Kernel", "-"))
    assert info.criterion == ("; ".join(criteria) if held else facts.get("Criterion", "-"))
    assert info.topology == facts.get("Topology", "-")
    if held:
        assert facts.get("Kernel", info.kernel) == info.kernel
        assert facts.get("Criterion", info.criterion) == info.criterion
    assert all(word and word != "own" for word in (*kernels, *criteria))


def check_options(name: str) -> None:
    info, options = method_info(name), options_of(METHODS[name])
    method = METHODS[name].for_run(SMALL_RUN)
    assert (info.reads, info.weight, info.gamma) == (method.reads, method.weight, METHODS[name].gamma)
    shown = {key.removeprefix("--").replace("-", "_"): default for key, default in info.options.items()}
    told = {key: str(item.default) for key, item in options.items()}
    if name == "irg":  # its form is another than that of the graph
        assert info.options["form"] == told["form"] and info.options["--form"] == told.pop("graph_form")
        del shown["form"], told["form"]
    assert {key: shown[key] for key in told} == told
    assert info.doc.startswith((METHODS[name].__doc__ or "").splitlines()[0])


def test_an_unknown_method_is_refused_and_looking_draws_no_random_numbers() -> None:
    assert "unknown method 'egga': did you mean 'ega'?" in refusal(lambda: method_info("egga"))
    before = torch.get_rng_state()
    for name in METHODS:
        method_info(name)
    assert torch.equal(torch.get_rng_state(), before)
