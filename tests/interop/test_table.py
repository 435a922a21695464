"""The guide's table of conversions is the one that the rules give; `python tests/interop/test_table.py` writes it."""

from pathlib import Path

from adapters_jax.interop import adapterhub, peft, rules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exchange.md"
START = "<!-- table: written by `python tests/interop/test_table.py` from the rules that decide -->\n"
END = "<!-- end of the table -->"


def generated() -> str:
    return rules.table({"peft": peft.KINDS, "AdapterHub": adapterhub.KINDS})


def parts() -> tuple[str, str, str]:
    """(before the table, the table, after it)."""
    before, rest = PAGE.read_text().split(START)
    table, after = rest.split(END)
    return before, table, after


def test_the_page_shows_what_the_rules_decide():
    assert parts()[1].strip() == generated().strip(), (
        "docs/exchange.md shows another table than the rules give; write it anew: python tests/interop/test_table.py"
    )


def test_the_table_has_every_kind_and_every_reason():
    table = generated()
    assert len(table.splitlines()) == 2 + len(peft.KINDS) + len(adapterhub.KINDS)
    for kind in (*peft.KINDS, *adapterhub.KINDS):
        assert kind.title in table and kind.note in table
        for rule in (*kind.not_read, *kind.not_written):
            assert f"{rule.when}: {rule.why}" in table
    assert all(line.count(" | ") == 5 for line in table.splitlines() if "---" not in line)


if __name__ == "__main__":
    before, _, after = parts()
    PAGE.write_text(before + START + generated().strip() + "\n" + END + after)
    print(f"{PAGE}: written")
