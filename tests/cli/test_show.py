from importlib import import_module

show = import_module("relgraph_cli.show")


def test_words_to_the_left_numbers_to_the_right() -> None:
    found = show.table(["network", "top-1 %"], [["student", 9.0], ["a long name", None], ["x", 100]])
    assert found.splitlines() == [
        "network      top-1 %",
        "--------------------",
        "student         9.00",
        "a long name        -",
        "x             100.00",
    ]
    assert show.table(["a", "b"], [["x", "1,234"]]).splitlines()[-1] == "x  1,234"
