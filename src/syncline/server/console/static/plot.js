// A plot over time, drawn as SVG: lines of the newest moments, a scale, and the values at the end in words.

import { h, put, svg } from "./dom.js";

const WIDTH = 360;
const HEIGHT = 110;
const MOMENTS = 120;

export class Plot {
  // `lines`: [{name, kind}]; `unit(value)` gives a text.
  // The scale's top is at least `least`: noise is no mountain.
  constructor({ title, lines, unit, least }) {
    Object.assign(this, { title, lines, unit, least });
    this.values = lines.map(() => []);
    this.legend = h("div", { class: "legend" });
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", preserveAspectRatio: "none" });
    this.top = h("span", { class: "scale" });
    this.element = h("figure", { class: "card plot-card" }, h("figcaption", {}, h("h2", {}, title), this.legend), h("div", { class: "plot-box" }, this.top, this.picture));
  }

  add(values) {
    values.forEach((value, at) => {
      this.values[at].push(value);
      if (this.values[at].length > MOMENTS) this.values[at].shift();
    });
    this.draw();
  }

  draw() {
    const all = this.values.flat().filter((one) => one !== null);
    const top = nice(Math.max(...all, this.least));
    const x = (at) => WIDTH - (MOMENTS - 1 - at) * (WIDTH / (MOMENTS - 1));
    put(this.picture, [0.25, 0.5, 0.75].map((share) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share })));
    this.values.forEach((values, line) => {
      const first = MOMENTS - values.length;
      let path = "";
      let pen = "M";
      values.forEach((value, at) => {
        if (value === null) pen = "M";
        else {
          path += `${pen}${x(first + at).toFixed(1)} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 8)).toFixed(1)}`;
          pen = "L";
        }
      });
      if (path && !values.includes(null)) this.picture.append(svg("path", { class: `area ${this.lines[line].kind}`, d: `${path}V${HEIGHT}H${x(first).toFixed(1)}Z` }));
      if (path) this.picture.append(svg("path", { class: `curve ${this.lines[line].kind}`, d: path }));
    });
    this.top.textContent = this.unit(top);
    const texts = this.lines.map(({ name, kind }, at) => {
      const value = this.values[at].at(-1);
      return h("span", { class: `key-of ${kind}` }, `${name} `, h("strong", {}, value === null || value === undefined ? "–" : this.unit(value)));
    });
    put(this.legend, texts);
    this.picture.setAttribute("aria-label", `${this.title}: ${this.legend.textContent}`);
  }
}

// A scale's top: 1, 2 or 5 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}
