"""Which tasks a root's code names: what `spendguard check --module` looks at, and nothing of it is run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from luigi.task_register import Register

from luigi_spendguard.cli.check.named import family_of, guards, named_by
from luigi_spendguard.cli.check.tasks import Tasks

MODULE = """
import functools, luigi, luigi.util
import charging_named_here
from luigi_spendguard import VendorTask, VaultKeyTask

luigi.namespace("named_here", scope=__name__)

class Report(luigi.Task):
    def run(self): raise AssertionError("nothing is run")
class Charge(VendorTask, luigi.Task): pass
class ByPattern(luigi.Task): pass
STEPS = {"charge": Charge, "report": Report}

def steps():
    return [Report(), *(Charge() for _ in range(2))]
def lists(of):
    @functools.wraps(of)
    def listed(self): return list(of(self))
    return listed

class Listed(luigi.WrapperTask):
    def requires(self): return [Charge()]
class Helped(luigi.WrapperTask):
    def requires(self): return steps()
class Held(luigi.WrapperTask):
    def requires(self): return [one() for one in STEPS.values()]
class InModule(luigi.WrapperTask):
    def requires(self): yield charging_named_here.Charge()
class Yielded(luigi.Task):
    def run(self):
        for _ in range(2): yield (lambda: Charge())()
class Wrapped(luigi.WrapperTask):
    @lists
    def requires(self): yield Charge()
@luigi.util.requires(Charge)
class Required(luigi.Task): pass
class Attribute(luigi.WrapperTask):
    first = Charge
    def requires(self): return self.first()
class Property(luigi.WrapperTask):
    @property
    def first(self): return Charge()
    def requires(self): return self.first
class Inherited(Listed): pass
class Deep(luigi.WrapperTask):
    def requires(self): return Yielded()
class Keyed(luigi.Task):
    def requires(self): return VaultKeyTask(run_id="r")
class Itself(VendorTask, luigi.Task): pass
class Patterned(luigi.WrapperTask):
    def requires(self): return ByPattern()
class Plain(luigi.WrapperTask):
    def requires(self): return [Report()]
class Unseen(luigi.WrapperTask):
    def requires(self): return self.clone(luigi.task_register.Register.get_task_cls("named_here.Char" + "ge"))
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder, before = tmp_path_factory.mktemp("named"), list(Register._reg)
    (folder / "named_here.py").write_text(MODULE)
    (folder / "charging_named_here.py").write_text(
        "import luigi\nfrom luigi_spendguard import VendorTask\n"
        "class Charge(VendorTask, luigi.Task):\n    task_namespace = 'other'\n"
    )
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("named_here")
    finally:
        sys.path.remove(str(folder))
        Register._reg[:] = before


@pytest.mark.parametrize(
    "root",
    [
        "Listed",
        "Helped",
        "Held",
        "InModule",
        "Yielded",
        "Wrapped",
        "Required",
        "Attribute",
        "Property",
        "Inherited",
        "Deep",
        "Keyed",
        "Itself",
        "Patterned",
    ],
)
def test_a_vendor_task_is_found_wherever_code_names_it(module: ModuleType, root: str) -> None:
    assert any(guards(one, ["named_here.ByP*"]) for one in named_by(getattr(module, root)))
    assert Tasks(None, frozenset()).unguarded(f"named_here.{root}", ["named_here.ByP*"]) is None


@pytest.mark.parametrize(
    ("root", "looked_at"), [("Plain", "named_here.Plain, named_here.Report"), ("Unseen", "named_here.Unseen")]
)
def test_where_none_is_named_it_says_what_was_looked_at(
    module: ModuleType, root: str, looked_at: str
) -> None:
    assert ", ".join(map(family_of, named_by(getattr(module, root)))) == looked_at
    doubt = Tasks(None, frozenset()).unguarded(f"named_here.{root}", ["named_here.ByP*"])
    assert doubt is not None
    assert f"as far as its code names tasks (looked at {looked_at}): NOTHING OF IT IS GUARDED" in doubt.text


def test_of_a_root_that_is_not_in_the_modules_nothing_is_said(module: ModuleType) -> None:
    assert Tasks(None, frozenset()).unguarded("Elsewhere", []) is None
    assert Tasks(None, None).unguarded("named_here.Plain", []) is None
