"""Report and comparison as people see them: in Chromium, as wide as a desktop and as a phone; pictures for docs/.

`make screenshots` writes `docs/screenshots/`. Skipped where Playwright (its Python package) or Chromium is missing.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flotilla.cli import app
from server_app.report.page import write_report
from tests.support import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "screenshots"
WIDTHS = (1280, 390)
MOST = 300_000  # bytes of a picture in docs/

# Texts of a figure that lie on each other or beyond its edge; elements that are wider than the page.
FAULTS = """
() => {
  const found = [], page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) found.push(`page: ${page.scrollWidth} > ${page.clientWidth} pixels`);
  for (const wide of document.querySelectorAll('.wide, pre, .heat')) {
    const box = wide.getBoundingClientRect();
    if (box.width && (wide.scrollWidth > wide.clientWidth + 1 || box.right > page.clientWidth + 1))
      found.push(`scrolls: ${wide.textContent.slice(0, 60)}`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const title = svg.parentElement.querySelector('figcaption').textContent.slice(0, 50);
    const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, box] of texts)
      if (box.width && (box.left < -1 || box.right > page.clientWidth + 1)) found.push(`${title}: ${text} is cut off`);
    texts.forEach(([text, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 3) found.push(`${title}: "${text}" lies on "${other}"`);
    }));
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'playwright>=1.49,<2'")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    found = found or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or its path in CHROMIUM")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with everything that one can have, of clusters, and of an ordinary module; a comparison of four runs."""
    folder = tmp_path_factory.mktemp("runs")
    small: dict[str, Any] = {
        "model": "mlp",
        "widths": "64, 32",
        "partition": "dirichlet",
        "dirichlet-alpha": 0.3,
        "num-clients": 20,
        "fraction-train": 0.5,
        "fraction-evaluate": 1.0,
        "num-server-rounds": 12,
        "evaluate-every": 1,
        "local-epochs": 3,
        "batch-size": 16,
    }
    runs = {
        f"{method}-{seed}": play(folder / f"{method}-{seed}", method=method, seed=seed, **small).path
        for method in ("heterofl", "fedrolex")
        for seed in (1, 2)
    }
    clustered = play(folder / "clusters", clustering="ifca", **{**small, "partition": "labels"}).path
    module: dict[str, Any] = {"model": "tests.models.foreign.nets:Edge", "widths": "", "num-server-rounds": 2}
    ordinary = play(folder / "module", **{**small, **module}, tiers="a:1, b:1/2, c:1/4, d:1/8, e:1/16").path
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert CliRunner().invoke(app, ["compare", *runs]).exit_code == 0
    return {
        "report": write_report(runs["heterofl-1"], [runs["fedrolex-1"]]),
        "clusters": write_report(clustered),
        "module": write_report(ordinary),
        "comparison": folder / "comparison" / "comparison.html",
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "clusters", "module", "comparison"])
def test_a_page_is_whole_at_any_width(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(pages[name].as_uri())
    assert page.evaluate(FAULTS) == []
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(FAULTS) == []  # what is folded as well
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = false)")
    assert asked == [pages[name].as_uri()]
    assert said == []
    picture = page.screenshot(full_page=True)
    context.close()
    if os.environ.get("FLOTILLA_SCREENSHOTS") and name in ("report", "comparison"):
        _write(PICTURES / f"{name}-{width}.png", picture)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_dark_page_is_dark(browser: Any, pages: dict[str, Path], name: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(pages[name].as_uri())
    shades = page.evaluate(
        "() => [document.body, document.querySelector('svg text')].map("
        "  (one, n) => getComputedStyle(one)[n ? 'fill' : 'backgroundColor'].match(/[0-9.]+/g).slice(0, 3)"
        "    .reduce((sum, part) => sum + Number(part), 0))"
    )
    assert shades[0] < 150 < 300 < shades[1]
    context.close()


def _write(file: Path, picture: bytes) -> None:
    """In 256 colours, which is a third of the bytes; the rarest are kept, so that a thin bar has its own."""
    from PIL import Image

    file.parent.mkdir(exist_ok=True)
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    image = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with suppress(FileNotFoundError):
        file.unlink()
    image.save(file, optimize=True)
    assert file.stat().st_size < MOST, file
