"""The console's page in a real browser: what a person sees of three real nodes, and does.

Skipped where there is no Chromium (a Debian package of that name; CHROMIUM names another).
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote

import pytest
from bench.ports import free_ports
from tests.node.browser import Browser, Page, program
from tests.node.node_processes import Cluster, NodeProcess, until

from dynamo_core.placement import next_ring

pytestmark = pytest.mark.skipif(
    program() is None, reason="no chromium on PATH (apt-get install chromium), and none in CHROMIUM"
)

UP: Final = "document.querySelectorAll('.nodes tbody tr[data-state=up]').length"
HOSTILE: Final = b"<script>window.hurt = 1</script>\"'><img src=x onerror='window.hurt = 2'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = program()
    assert chromium is not None
    found = Browser(chromium, tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    found = browser.page()
    yield found
    found.close()


def shown(page: Page, node: NodeProcess, key: bytes | None = None, nodes: int = 3) -> None:
    """Open the page of `node`, and wait until it shows all nodes, and the key."""
    address = "" if key is None else f"#key={quote(key, safe='')}"
    page.open(f"http://127.0.0.1:{node.http_port}/ui{address}")
    page.until(f"{UP} === {nodes} && document.querySelector('#partition ol')")
    if key is not None:
        page.until("document.querySelector('#looked h3')")


def row(name: str) -> str:
    """A JavaScript expression for the state that is shown of a node."""
    return (
        "[...document.querySelectorAll('.nodes tbody tr')]"
        f".find(r => r.innerText.includes({json.dumps(name)}))?.dataset.state"
    )


def siblings(cluster: Cluster, key: bytes) -> None:
    cluster.nodes[0].put(key, b'{"milk": 1}', w=3)
    cluster.nodes[1].put(key, b'{"bread": 2}', w=3)


# What is seen


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_loads_without_a_complaint_and_is_legible(
    cluster: Cluster, page: Page, key: bytes, theme: str
) -> None:
    siblings(cluster, key)
    page.theme(theme)
    shown(page, cluster.nodes[0], key)
    assert "All 3 nodes answer" in page.text("#summary")
    assert all(node.name in page.text("#nodes") for node in cluster.nodes)
    assert page.js(CONTRAST) == []
    assert nameless(page) == []
    assert page.js(STRUCTURE) == []
    assert page.complaints == []
    # Who judges would have found something.
    page.js("document.documentElement.style.setProperty('--quiet', 'light-dark(#aaa, #555)')")
    page.js("document.querySelector('#look button').textContent = ''")
    assert any("Answers in" in line for line in page.js(CONTRAST))
    assert nameless(page) == ["button"]


def test_the_theme_can_be_changed_and_stays(cluster: Cluster, page: Page) -> None:
    page.theme("light")
    shown(page, cluster.nodes[0])
    light = page.js("getComputedStyle(document.body).backgroundColor")
    page.js("document.getElementById('theme').click()")
    dark = page.js("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    shown(page, cluster.nodes[0])
    assert page.js("getComputedStyle(document.body).backgroundColor") == dark
    assert page.text("#theme") == "Light"
    page.js("document.getElementById('theme').click()")


@pytest.mark.parametrize("width", [320, 390, 760, 1024])
def test_nothing_is_wider_than_the_window(
    cluster: Cluster, page: Page, key: bytes, width: int
) -> None:
    siblings(cluster, key)
    page.size(width, 740)
    shown(page, cluster.nodes[0], key)
    page.js("document.getElementById('ring-table').open = true")
    page.until("document.querySelector('#ring-table table')")
    assert page.js(PROTRUDING) == []
    assert page.js("document.documentElement.scrollWidth") <= width


# What happens


def test_a_killed_node_is_down_and_comes_back(cluster: Cluster, page: Page) -> None:
    shown(page, cluster.nodes[0])
    lost = cluster.nodes[2]
    lost.kill()
    try:
        page.until(f"{row(lost.name)} === 'down'")
        assert f"{lost.name} is down" in page.text("#summary")
        assert page.js("document.querySelector('.station[data-state=down]') !== null")
    finally:
        lost.start()
        lost.wait_ready()
    page.until(f"{row(lost.name)} === 'up'")
    assert page.complaints == []


def test_a_page_whose_own_node_died_says_so_and_where_others_are(
    cluster: Cluster, page: Page
) -> None:
    mine, other = cluster.nodes[1], cluster.nodes[0]
    shown(page, mine)
    mine.kill()
    try:
        page.until("!document.getElementById('alarm').hidden")
        assert f"{mine.name} doesn’t answer" in page.text("#alarm")
        links = page.js("[...document.querySelectorAll('#alarm a')].map(a => a.href)")
        assert f"http://127.0.0.1:{other.http_port}/ui" in links
    finally:
        mine.start()
        mine.wait_ready()
    page.until("document.getElementById('alarm').hidden")


def test_a_node_that_joins_is_seen_taking_its_part(
    make_cluster: Callable[..., Cluster], page: Page
) -> None:
    cluster = make_cluster()
    for at in range(100):
        cluster.nodes[at % 3].put(b"moved %d" % at, bytes(4000))
    shown(page, cluster.nodes[0])
    ports = free_ports(3)
    new = NodeProcess(
        cluster.folder,
        "cart-default-3",
        (ports[0], ports[1], ports[2]),
        # Slow enough to be looked at.
        {"quorum": cluster.nodes[0].settings["quorum"],
         "limits": {"transferBytesPerSecondMax": 60_000}},
    )  # fmt: skip
    cluster.extra.append(new)
    new.start()
    new.wait_up()
    members = [*cluster.nodes, new]
    assert cluster.ring is not None
    grown = next_ring(
        cluster.ring,
        [n.candidate() for n in members],
        "2026-01-02T00:00:00Z",
    )
    for node in members:
        assert node.admin("POST", "/admin/ring", grown.to_bytes()).status == 200
    page.until("document.querySelectorAll('.flow').length > 0")
    page.until("document.querySelector('.flows-list progress')")
    assert "on the way to ring 2" in page.text("#moves")
    page.until(f"{UP} === 4 && document.querySelectorAll('.flow').length === 0")
    page.until("document.getElementById('moves').innerText.includes('Everybody holds ring 2')")
    assert page.complaints == []


# The inspector


def test_two_siblings_are_shown_beside_each_other_and_merged(
    cluster: Cluster, page: Page, key: bytes
) -> None:
    siblings(cluster, key)
    shown(page, cluster.nodes[2], key)
    assert page.js("document.querySelectorAll('.version').length") == 2
    assert "A and B are concurrent" in page.text("figcaption")
    assert page.js("document.querySelectorAll('.replicas .seen.has').length") == 6
    page.js("document.getElementById('merge-value').value = '{\"milk\": 1, \"bread\": 2}'")
    page.js("document.querySelector('.merge').requestSubmit()")
    assert "2 siblings of" in page.text("#confirm-text")
    assert cluster.nodes[0].values(key) == {b'{"milk": 1}', b'{"bread": 2}'}
    page.js("document.getElementById('confirm-yes').click()")
    page.until("document.getElementById('look-status').innerText.startsWith('Written.')")
    assert cluster.nodes[1].values(key) == {b'{"milk": 1, "bread": 2}'}
    page.until("document.querySelectorAll('.version:not(.replaced)').length === 1")
    assert page.complaints == []


def test_one_sibling_is_kept_alone(cluster: Cluster, page: Page, key: bytes) -> None:
    kept = bytes(range(256)) * 200
    cluster.nodes[0].put(key, kept, w=3)
    cluster.nodes[1].put(key, b"other", w=3)
    shown(page, cluster.nodes[0], key)
    page.js(
        "[...document.querySelectorAll('.version')].find(v => v.innerText.includes('50 KiB'))"
        ".querySelector(':scope > button').click()"
    )
    page.js("document.getElementById('confirm-yes').click()")
    page.until("document.getElementById('look-status').innerText.startsWith('Written.')")
    assert cluster.nodes[2].values(key) == {kept}


def test_a_merge_of_what_has_changed_meanwhile_writes_nothing(
    cluster: Cluster, page: Page, key: bytes
) -> None:
    siblings(cluster, key)
    shown(page, cluster.nodes[0], key)
    cluster.nodes[2].put(key, b"a third", w=3)
    page.js("document.querySelector('.merge').requestSubmit()")
    page.js("document.getElementById('confirm-yes').click()")
    page.until("document.getElementById('look-status').innerText.includes('has changed since')")
    assert len(cluster.nodes[0].values(key)) == 3
    page.until("document.querySelectorAll('.version').length === 3")


def test_hostile_keys_and_values_are_text(cluster: Cluster, page: Page) -> None:
    for node in cluster.nodes[:2]:
        node.http("PUT", f"/kv/{quote(HOSTILE, safe='')}?w=3", HOSTILE + b"\xe2\x80\xae",
                  Content_Type="text/html<script>")  # fmt: skip
    shown(page, cluster.nodes[0], HOSTILE)
    page.until("document.querySelectorAll('.version').length === 2")
    assert HOSTILE.decode() in page.text("#looked h3")
    assert HOSTILE.decode() + "\\u202e" in page.text("#looked pre")
    assert page.js("document.querySelectorAll('#looked script, #looked img').length") == 0
    assert page.js("window.hurt ?? null") is None
    assert page.complaints == []


@pytest.mark.parametrize(
    ("form", "typed", "answer"),
    [
        ("hex", "6", "pairs of hex digits"),
        ("base64", "?", "not base64"),
        ("percent", "%zz", "two hex digits"),
        ("hex", "6e6f626f6479", "0 versions"),
        ("text", "a&b#c=%d", "0 versions"),
    ],
)
def test_keys_in_all_forms(
    cluster: Cluster, page: Page, form: str, typed: str, answer: str
) -> None:
    shown(page, cluster.nodes[0])
    page.js(f"document.getElementById('look-form').value = {form!r}")
    page.js(f"document.getElementById('look-key').value = {json.dumps(typed)}")
    page.js("document.getElementById('look').requestSubmit()")
    page.until(f"document.getElementById('look-status').innerText.includes({json.dumps(answer)})")
    if form == "text":
        assert page.text("#looked h3") == typed


# Without a mouse

FOCUSED: Final = """(() => {
  const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  const ring = e.querySelector(".focus");
  const seen = s.outlineStyle !== "none" || (ring && getComputedStyle(ring).stroke !== "none");
  return {id: e.id || e.getAttribute("role") || e.className || e.tagName, seen, wide: r.width};
})()"""


def test_all_can_be_done_with_the_keyboard_alone(cluster: Cluster, page: Page, key: bytes) -> None:
    siblings(cluster, key)
    shown(page, cluster.nodes[0])
    walked: list[dict[str, Any]] = []

    def walk_to(wanted: str) -> None:
        for _ in range(60):
            page.press("Tab")
            walked.append(page.js(FOCUSED))
            if page.js(f"document.activeElement.matches({json.dumps(wanted)})"):
                return
        raise AssertionError(f"{wanted} is never reached: {[w['id'] for w in walked]}")

    page.press("Tab")
    assert page.js("document.activeElement.className") == "skip"
    walk_to("#theme")
    walk_to("button.name")
    page.press("Enter")
    assert page.js("document.activeElement.ariaPressed") == "true"
    assert page.js("document.querySelector('svg.ring').classList.contains('lit')")
    page.press("Enter")
    walk_to("[role=slider]")
    page.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    page.until("document.querySelector('#partition h3').innerText === 'Partition 2'")
    assert page.js("document.activeElement.getAttribute('aria-valuetext')").startswith(
        "Partition 2: held by"
    )
    page.press("End")
    page.until("document.querySelector('#partition h3').innerText === 'Partition 15'")
    walk_to("#ring-table summary")
    page.press("Enter")
    page.until("document.querySelectorAll('#ring-table tbody tr').length === 16")
    walk_to("#look-key")
    page.type(key.hex())
    walk_to("#look-form")
    page.press("h")
    page.until("document.getElementById('look-form').value === 'hex'")
    walk_to("#look button")
    page.press("Enter")
    page.until("document.querySelectorAll('.version').length === 2")
    walk_to("#merge-value")
    page.press("End")
    page.type(" ")
    walk_to(".merge button[type=submit]")
    page.press("Enter")
    page.until("document.getElementById('confirm').open")
    page.press("Escape")
    page.until("!document.getElementById('confirm').open")
    assert len(cluster.nodes[0].values(key)) == 2
    page.until("document.activeElement.matches('.merge button[type=submit]')")
    page.press("Enter")
    page.until("document.getElementById('confirm').open")
    walk_to("#confirm-yes")
    page.press("Enter")
    page.until("document.getElementById('look-status').innerText.startsWith('Written.')")
    until(lambda: len(cluster.nodes[0].values(key)), "the merge is there", wanted=1)
    assert [w["id"] for w in walked if not w["seen"]] == []


PROTRUDING: Final = """[...document.querySelectorAll("body *")]
  .filter((e) => !e.parentElement.closest(".scroll, svg") && !e.matches(".skip"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => `${e.tagName} ${e.id} ${e.className}`)"""

# What a screen reader and weak eyes need

CONTROLS: Final = {"button", "link", "textbox", "combobox", "slider", "progressbar", "image", "img"}


def nameless(page: Page) -> list[str]:
    """Controls and pictures that a screen reader would have no name for."""
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    return [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node["role"]["value"].lower() in CONTROLS
        and not node.get("name", {}).get("value")
    ]


STRUCTURE: Final = """(() => {
  const found = [];
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id ${id} twice`);
  let level = 0;
  for (const heading of document.querySelectorAll("main h2, main h3, h1")) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) found.push(`heading ${heading.innerText} skips a level`);
    level = now;
  }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")) {
    for (const name of ["aria-labelledby", "aria-describedby", "for"]) {
      const id = e.getAttribute(name);
      if (id && !document.getElementById(id)) found.push(`${name} ${id} names nothing`);
    }
  }
  for (const th of document.querySelectorAll("th")) if (!th.scope) found.push("th without scope");
  if (document.documentElement.lang !== "en") found.push("no language");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  return found;
})()"""

CONTRAST: Final = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const ground = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const even = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.map((v) => even(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility({checkOpacity: true})) continue;
    if (e.closest("script, noscript, title, option, .letter, [disabled]")) continue;
    const style = getComputedStyle(e), below = ground(e);
    const text = over(rgba(e.closest("svg") ? style.fill : style.color), below);
    const [a, b] = [light(text), light(below)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)}: ${walker.currentNode.data.slice(0, 40)}`);
  }
  return [...found];
})()"""
