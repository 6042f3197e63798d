"""The lowerings that a recipe names, in the folders of the runtimes."""

from dataclasses import replace

from edgekit.compiler.placement import Lowering, RuntimeLowering
from edgekit.config.recipes import PLAIN
from edgekit.errors import ProfileError
from tests.helpers.refusals import refuses

FIRST, SECOND = Lowering("The first."), Lowering("The second.")
BOTH = RuntimeLowering(named={"first": FIRST, "second": SECOND})


def test_they_are_applied_in_the_order_of_the_runtime() -> None:
    assert list(BOTH.enabled(replace(PLAIN, lowerings=("second", "first")))) == [FIRST, SECOND]
    assert list(BOTH.enabled(replace(PLAIN, lowerings=("second",)))) == [SECOND]
    assert list(BOTH.enabled(PLAIN)) == []


def test_an_unknown_name_is_refused() -> None:
    with refuses(ProfileError, "third") as caught:
        BOTH.enabled(replace(PLAIN, lowerings=("first", "third")))
    assert caught.value.valid == "first, second"
