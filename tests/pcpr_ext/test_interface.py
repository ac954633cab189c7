# SPDX-License-Identifier: Apache-2.0
"""Both sides of the boundary to the native libraries: `interface.h` and its mirror `pcpr_ext/structures.py`.

The header is read for names, order and types, and a compiler asked for sizes and places. Either alone misses something:
a field in the padding moves no other, and a header can change the padding itself.
"""

from __future__ import annotations

import ctypes
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pcpr_ext
from pcpr_ext import build, structures

HEADER = (build.SOURCES / "interface.h").read_text()
C_TYPES = {"float": ctypes.c_float, "double": ctypes.c_double, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64}
DECLARATION = re.compile(r"(?:const )?(\w+)(\*?) (\w+(?:\[\d+\])?(?:, \w+(?:\[\d+\])?)*)")

Fields = list[tuple[str, Any]]

STRUCTURES: dict[str, type[ctypes.Structure]] = {
    f"Npcr{name}": kind for name, kind in vars(structures).items()
    if isinstance(kind, type) and issubclass(kind, ctypes.Structure)}
MIRRORED = [(name, list(kind._fields_)) for name, kind in STRUCTURES.items()]


def without_comments(header: str) -> str:
    return re.sub(r"//[^\n]*|/\*[\s\S]*?\*/", "", header)


def declared_structures(header: str) -> list[tuple[str, Fields]]:
    """Names and fields of a header's structures, as ctypes has them."""
    code = without_comments(header)
    found = re.findall(r"^struct (\w+) \{\n(.*?)^\};$", code, re.DOTALL | re.MULTILINE)
    assert len(found) == len(re.findall(r"\b(?:struct|union|class)\b", re.sub(r"template <class", "", code)))
    return [(name, [field for line in body.split(";") if line.strip() for field in declared_fields(line.strip())])
            for name, body in found]


def declared_fields(declaration: str) -> Fields:
    """`int64_t outputs[3], inputs` to [("outputs", c_int64 * 3), ("inputs", c_int64)]."""
    parts = DECLARATION.fullmatch(declaration)
    assert parts, f"what does {declaration!r} declare?"
    kind, pointer, names = parts.groups()
    assert not pointer or "," not in names, f"{declaration!r}: a line for each pointer"
    element = ctypes.c_void_p if pointer else C_TYPES[kind]
    fields: Fields = []
    for name in names.split(", "):
        base, bracket, count = name.rstrip("]").partition("[")
        fields.append((base, element * int(count) if bracket else element))
    return fields


def declared_functions(header: str) -> dict[str, tuple[str, Any]]:
    """A header's functions that take a structure: its name, and the type of the result."""
    found = re.findall(r"NPCR_API (\w+) (\w+)\(const (\w+)\* task\);", without_comments(header))
    return {name: (structure, C_TYPES[result]) for result, name, structure in found}


def test_structures_and_functions_are_those_of_the_header() -> None:
    assert declared_structures(HEADER) == MIRRORED
    functions = structures.FUNCTIONS + structures.CPU_FUNCTIONS
    assert declared_functions(HEADER) == {name: (f"Npcr{kind.__name__}", result) for name, kind, result in functions}
    others = {"npcr_abi_version", "npcr_ready", "npcr_message"}
    assert set(re.findall(r"\b(npcr_\w+)\(", without_comments(HEADER))) == others | {name for name, *_ in functions}
    assert f"#define NPCR_ABI_VERSION {pcpr_ext.ABI_VERSION}\n" in HEADER
    assert {kind.__name__ for kind in STRUCTURES.values()} <= set(pcpr_ext.__all__)


CHANGES = {
    "renamed": ("int32_t peel_pixels;", "int32_t peel;"),
    "swapped": ("int64_t point_count, channels, fragments;", "int64_t channels, point_count, fragments;"),
    "narrower": ("int64_t scratch_bytes;\n};", "int32_t scratch_bytes;\n};"),
    "in the padding": ("int32_t threads;\n    float* grad_raw;", "int32_t threads, more;\n    float* grad_raw;"),
    "a number for a pointer": ("double* sums;     // (images, 2 channels)", "double sums;"),
    "a longer array": ("int64_t region[4];", "int64_t region[6];"),
    "removed": ("    const float* shift;\n    int64_t images, pixels", "    int64_t images, pixels"),
    "another structure": ("struct NpcrGather {", "struct NpcrSort {\n    int64_t count;\n};\n\nstruct NpcrGather {"),
}


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_on_one_side_is_seen(old: str, new: str) -> None:
    assert old in HEADER
    assert declared_structures(HEADER.replace(old, new)) != MIRRORED


def layout_checks() -> str:
    """C++ that a compiler refuses unless every size and place is that of ctypes."""
    lines = ["#include <stddef.h>", "#include <type_traits>", '#include "interface.h"']
    for name, kind in STRUCTURES.items():
        lines.append(f'static_assert(sizeof({name}) == {ctypes.sizeof(kind)}, "{name}");')
        for field, c_type in kind._fields_:
            member, place = f"{name}::{field}", getattr(kind, field)
            element = getattr(c_type, "_type_", c_type) if issubclass(c_type, ctypes.Array) else c_type
            found = f"std::remove_extent_t<decltype({member})>"
            expected = next((text for text, each in C_TYPES.items() if each is element), "")
            same = f"std::is_same_v<{found}, {expected}>" if expected else f"std::is_pointer_v<{found}>"
            lines.append(f"static_assert(offsetof({name}, {field}) == {place.offset} && sizeof({member}) == "
                         f'{place.size} && {same}, "{member}");')
    return "\n".join(lines) + "\n"


def compiled(header: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a compiler says of the header and `layout_checks`."""
    compiler = build.cpu_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    (folder / "interface.h").write_text(header)
    (folder / "layout.cpp").write_text(layout_checks())
    return subprocess.run([*shlex.split(compiler), "-std=c++17", "-fsyntax-only", str(folder / "layout.cpp")],
                          capture_output=True, text=True, check=False)


def test_sizes_and_places_are_the_compilers(tmp_path: Path) -> None:
    done = compiled(HEADER, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("old", "new", "named"), [
    ("struct NpcrGate {", "#pragma pack(4)\nstruct NpcrGate {", "NpcrGate::grad_raw"),
    ("struct NpcrPack {", "struct alignas(32) NpcrPack {", "NpcrConvolve|NpcrPack"),
    (*CHANGES["narrower"], "NpcrConvolve::scratch_bytes"),
    (*CHANGES["a number for a pointer"], "NpcrGate::sums"),
])
def test_another_layout_is_refused_by_name(old: str, new: str, named: str, tmp_path: Path) -> None:
    assert old in HEADER
    done = compiled(HEADER.replace(old, new), tmp_path)
    assert done.returncode != 0
    assert re.search(named, done.stderr)
