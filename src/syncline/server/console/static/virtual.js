// A list that draws the rows in sight alone, however many there are. Moved in by the keyboard as a list box.

import { h } from "./dom.js";

const SPARE = 8; // rows drawn above and below the sight
const MOST_PIXELS = 8_000_000; // browsers cut elements that are higher

export class VirtualList {
  // `draw(row, at)` gives the cells of a row; `open(row)`, `toggle(row)`; `more()` is called near the end.
  constructor({ rowPx, draw, open, toggle, more, label, isSelected }) {
    Object.assign(this, { rowPx, draw, open, toggle, more, isSelected });
    this.rows = [];
    this.active = 0;
    this.inner = h("div", { class: "virtual-inner", role: "presentation" });
    this.element = h(
      "div",
      { class: "virtual", tabindex: "0", role: "listbox", "aria-multiselectable": "true", "aria-label": label, onscroll: () => this.refresh(), onkeydown: (event) => this.key(event) },
      this.inner,
    );
    this.sight = new ResizeObserver(() => this.refresh());
    this.sight.observe(this.element);
  }

  set(rows) {
    this.rows = rows;
    this.active = Math.min(this.active, Math.max(0, rows.length - 1));
    this.refresh();
  }

  close() {
    this.sight.disconnect();
  }

  refresh() {
    const { element, inner, rows, rowPx } = this;
    inner.style.height = `${Math.min(MOST_PIXELS, rows.length * rowPx)}px`;
    const first = Math.max(0, Math.floor(element.scrollTop / rowPx) - SPARE);
    const last = Math.min(rows.length, Math.ceil((element.scrollTop + element.clientHeight) / rowPx) + SPARE);
    inner.replaceChildren(...rows.slice(first, last).map((row, at) => this.line(row, first + at)));
    element.setAttribute("aria-activedescendant", rows.length ? `row-${this.active}` : "");
    if (last >= rows.length - SPARE) this.more();
  }

  line(row, at) {
    const line = h(
      "div",
      {
        class: `line ${at === this.active ? "active" : ""}`,
        id: `row-${at}`,
        role: "option",
        "aria-selected": String(this.isSelected(row)),
        "aria-setsize": String(this.rows.length),
        "aria-posinset": String(at + 1),
        onclick: (event) => {
          this.active = at;
          if (!event.target.closest("input, a, button")) this.open(row);
        },
      },
      this.draw(row, at),
    );
    line.style.top = `${at * this.rowPx}px`;
    line.style.height = `${this.rowPx}px`;
    return line;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowPx) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.rows.length, End: this.rows.length };
    const row = this.rows[this.active];
    if (event.target !== this.element) return;
    if (event.key in steps) this.move(steps[event.key]);
    else if (event.key === "Enter" && row) this.open(row);
    else if (event.key === " " && row) this.toggle(row);
    else return;
    event.preventDefault();
    this.refresh();
  }

  move(by) {
    this.active = Math.max(0, Math.min(this.rows.length - 1, this.active + by));
    const top = this.active * this.rowPx;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.rowPx > this.element.scrollTop + this.element.clientHeight) this.element.scrollTop = top + this.rowPx - this.element.clientHeight;
  }
}
