"""Draw `up.svg`, the picture in the README: `python docs/pictures/make_up.py [PATH]`.

It is the live view of `syncline up` for a made-up cluster whose leader was killed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from syncline.cli.up.live import LiveView
from syncline.cli.up.plan import NodePlan, UpPlan
from syncline.cli.up.pulse import NewLeader
from syncline.cli.up.supervisor import UpNode

WIDTH, HEIGHT = 80, 25
DATA_DIR = "syncline-data"

# The layout of rich without its web fonts: a picture in a README loads nothing.
LAYOUT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
  aria-label="syncline up: the leader n1 was killed, n3 leads now">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def draw() -> str:
    """The picture, as SVG."""
    dead, second, third = nodes = [node("n1", 8080), node("n2", 8081), node("n3", 8082)]
    plan = UpPlan(data_dir=DATA_DIR, port=8080, founders=3, started=True, nodes=nodes)
    seen = [
        UpNode(name=dead.name, http=dead.http_url, peer=dead.peer_address, state="ended"),
        alive(second, "follower", 4122),
        alive(third, "leader", 4124),
    ]
    console = Console(record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor", no_color=False,
                      width=WIDTH, height=HEIGHT)  # fmt: skip
    view = LiveView(console)
    restart = f"syncline serve --config {dead.config_path}"
    view.ended(dead.name, f"killed by SIGKILL (log: {dead.log_path})", restart=restart, repair="")
    view.new_leader(NewLeader("n3", 2, dead.name))
    console.record = False  # of the table, the record shall hold the last frame alone
    view.ready(plan, seen)
    view.show(seen, "revision 51824, 1873 writes/s")
    console.record = True
    view.close()
    console.print()  # the layout cuts each line but the last one to its place
    return console.export_svg(title="syncline up", theme=MONOKAI, code_format=LAYOUT, unique_id="up")


def node(name: str, port: int) -> NodePlan:
    return NodePlan(name, f"{DATA_DIR}/{name}", port, port + 100, join=False, lost=False)


def alive(plan: NodePlan, state: str, pid: int) -> UpNode:
    return UpNode(plan.name, plan.http_url, plan.peer_address, state, term=2, lag=0, revision=51_824, pid=pid)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("up.svg")
    sys.argv[0] = "syncline"  # the view tells commands as this one was called
    path.write_text(draw())
