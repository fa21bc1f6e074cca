"""No module imports another one that imports it in turn, at its top or late inside a function.

`lint-imports` looks at the parts of a folder, not at a module that imports its own folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import grimp


def circles(modules: Iterable[str], imported_by: Callable[[str], Iterable[str]]) -> list[set[str]]:
    """Return the groups of modules each of which leads to each other (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in imported_by(module):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            group = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(group)

    for module in modules:
        if module not in number:
            visit(module)
    return found


def test_it_sees_a_circle_and_nothing_else() -> None:
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": []}
    assert circles(graph, graph.__getitem__) == [{"b", "c"}]


def test_no_module_leads_back_to_itself() -> None:
    graph = grimp.build_graph(
        "luigi_spendguard", "scheduler_patch", exclude_type_checking_imports=True, cache_dir=None
    )
    assert len(graph.modules) > 50
    assert circles(sorted(graph.modules), graph.find_modules_directly_imported_by) == []
