// Build elements. Text enters a page by textContent alone, so no key or value can become markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button", {class: "primary", onclick: save, "aria-label": "Save"}, "Save")
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

export function svg(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

// Replace what is in an element.
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

let pressed = false;
addEventListener("pointerdown", () => (pressed = true), true);
addEventListener("pointerup", () => (pressed = false), true);
addEventListener("pointercancel", () => (pressed = false), true);

// Replace what is in an element that is drawn again and again: not while a button is pressed, and the element that has
// the focus, known by its `data-id`, keeps it.
export function redraw(element, ...children) {
  if (pressed && element.matches(":hover")) return;
  const active = element.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  put(element, ...children);
  if (active !== undefined) element.querySelector(`[data-id="${CSS.escape(active)}"]`)?.focus({ preventScroll: true });
}

export function say(text, kind = "info") {
  const toast = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  toast.append(h("button", { class: "quiet", "aria-label": "Close this message", onclick: () => toast.remove() }, "×"));
  const place = document.getElementById("toasts");
  while (place.childElementCount > 3) place.firstChild.remove();
  place.append(toast);
  setTimeout(() => toast.remove(), kind === "bad" ? 15000 : 5000);
}

// Tell of an error that an action ended with.
export function tell(error) {
  const doubt = error.outcome === "unknown" ? " It may have taken effect, or may still: read before you try again." : "";
  say(`${error.message}${doubt}`, "bad");
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${what}`);
  } catch (error) {
    say(`The browser does not let this page copy (${error.name}): select the text instead.`, "bad");
  }
}

// A block with code and a button that copies it.
export function code(text, label) {
  return h(
    "div", { class: "code" },
    h("pre", { tabindex: "0", "aria-label": label }, text),
    h("button", { class: "small", onclick: () => copy(text, label) }, "Copy"),
  );
}

export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("strong", {}, title), ...more.map((one) => h("p", {}, one)));
}

export function save(name, content, type = "application/octet-stream") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

export function pickFile(accept = "") {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept, hidden: true });
    input.addEventListener("change", () => resolve(input.files[0] ?? null));
    input.addEventListener("cancel", () => resolve(null));
    document.body.append(input);
    input.click();
    input.remove();
  });
}
