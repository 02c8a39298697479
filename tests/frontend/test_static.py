"""What must hold for the page's files as they lie there: nothing is built, so nothing else would notice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import oomcast_frontend

pytestmark = pytest.mark.fast

STATIC = Path(oomcast_frontend.__file__).parent / "static"
INDEX = STATIC / "index.html"
SCRIPTS = sorted((STATIC / "scripts").glob("*.js"))
STYLES = sorted((STATIC / "styles").glob("*.css"))
# Namespaces of SVG are names that look like addresses; nothing is fetched from them.
NAMES = ("http://www.w3.org/2000/svg",)

each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)


def code_of(path: Path) -> str:
    """The script without its comments: types and prose may say what code may not."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r"(^|\s)//.*", r"\1", text)


def imports_of(path: Path) -> list[str]:
    found = re.findall(r'^import [^;]*?"([^"]+)";|\bimport\("([^"]+)"\)', code_of(path), flags=re.M)
    return [static or dynamic for static, dynamic in found]


def test_there_are_scripts_and_styles_to_check() -> None:
    assert len(SCRIPTS) > 10
    assert len(STYLES) > 5


@each_script
def test_imports_are_relative_and_exist(path: Path) -> None:
    for name in imports_of(path):
        assert name.startswith("./"), (
            f"{path.name} imports {name}: only neighbours keep the content hash in their address"
        )
        assert (path.parent / name).is_file(), f"{path.name} imports {name}, which is not there"


@each_script
def test_imported_names_are_exported(path: Path) -> None:
    for names, module in re.findall(r'import\s*\{([^}]*)\}\s*from\s*"\./([^"]+)"', code_of(path)):
        exported = set(re.findall(r"export (?:async )?(?:function|const|class) (\w+)", code_of(path.parent / module)))
        wanted = {name.strip() for name in names.split(",") if name.strip()}
        assert wanted <= exported, f"{path.name} wants {wanted - exported} of {module}"


@pytest.mark.parametrize("path", [INDEX, *SCRIPTS, *STYLES, *STATIC.glob("*.svg")], ids=lambda path: path.name)
def test_nothing_comes_from_another_host(path: Path) -> None:
    text = path.read_text()
    for name in NAMES:
        text = text.replace(name, "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]{2,}", text), path.name
    assert "@import" not in text


@each_script
def test_text_goes_in_as_text(path: Path) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment|setHTML"
    )
    assert not re.search(forbidden, code_of(path))


def test_only_one_file_touches_plotly() -> None:
    touching = [path.name for path in SCRIPTS if re.search(r"\bPlotly\b", code_of(path).replace("loadPlotly", ""))]
    assert touching == ["plot.js"]


def test_pure_modules_touch_no_browser() -> None:
    pure = (
        "store",
        "series",
        "sources",
        "figures",
        "devices",
        "paging",
        "parts",
        "rates",
        "rows",
        "marks",
        "readouts",
        "reports",
        "sentence",
        "format",
        "ticks",
        "strings",
    )
    names = r"\b(document|window|localStorage|performance)\.\w|Date\.now"
    calls = r"\b(fetch|WebSocket|setTimeout|requestAnimationFrame)\("
    for name in pure:
        path = STATIC / "scripts" / f"{name}.js"
        assert not re.search(f"{names}|{calls}", code_of(path)), path.name
        assert all((path.parent / other).stem in pure for other in imports_of(path)), path.name


def test_index_names_what_the_server_fills_in() -> None:
    text = INDEX.read_text()
    assert 'content="{{plotly}}"' in text
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) == {"assets", "plotly"}


def test_index_has_no_inline_script_or_handler() -> None:
    text = INDEX.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\son\w+\s*=", text)


def test_every_style_is_linked_and_every_link_leads_somewhere() -> None:
    linked = re.findall(r'(?:href|src)="\{\{assets\}\}/([^"]+)"', INDEX.read_text())
    for name in linked:
        assert (STATIC / name).is_file(), name
    assert {f"styles/{path.name}" for path in STYLES} <= set(linked)


def test_every_module_is_preloaded() -> None:
    """Without it the browser learns of them one level of imports after the other."""
    text = INDEX.read_text()
    preloaded = set(re.findall(r'rel="modulepreload" href="\{\{assets\}\}/scripts/([^"]+)"', text))
    used = {name.removeprefix("./") for path in SCRIPTS for name in imports_of(path)}
    assert preloaded == used


def test_every_component_has_its_class_in_its_file() -> None:
    """CSS class = file = mount function; `base` holds what belongs to none."""
    for path in STYLES:
        if path.stem == "base":
            continue
        assert f".{path.stem}" in path.read_text(), path.name
        script = STATIC / "scripts" / f"{path.stem}.js"
        assert f"export function mount{path.stem.capitalize()}(" in script.read_text(), path.name


def test_colours_stand_in_one_place() -> None:
    """Both themes are kept by `base.css`; elsewhere a colour is a variable. (Shadows may be black in both.)"""
    for path in STYLES:
        if path.stem != "base":
            assert not re.search(r"#[0-9a-f]{3,6}\b(?![0-9a-f])", path.read_text()), path.name
