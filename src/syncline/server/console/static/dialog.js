// Dialogs. The browser's own <dialog> keeps the focus inside, closes on Escape, and gives the focus back.

import { code, h } from "./dom.js";

// Ask. Resolves to the values of the fields, or null. `typed`: the text that must be typed to go on.
// A field: {name, label, value, type, hint, options, required}.
export function ask({ title, text = [], command = "", fields = [], typed = "", action = "OK", danger = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map(inputOf);
    const proof = typed ? h("input", { type: "text", autocomplete: "off", spellcheck: "false", "aria-label": `Type ${typed} to confirm` }) : null;
    const go = h("button", { class: danger ? "danger" : "primary", type: "submit", disabled: Boolean(typed) }, action);
    const shownCommand = h("div", {});
    const values = () => Object.fromEntries(fields.map((one, at) => [one.name, one.type === "checkbox" ? inputs[at].checked : inputs[at].value]));
    const refresh = () => {
      if (proof) go.disabled = proof.value !== typed;
      const line = typeof command === "function" ? command(values()) : command;
      shownCommand.replaceChildren(...(line ? [h("p", { class: "hint" }, "The same on the command line:"), code(line, "the command")] : []));
    };
    const form = h(
      "form", { method: "dialog", oninput: refresh },
      h("h2", {}, title),
      [text].flat().map((one) => (one instanceof Node ? one : h("p", {}, one))),
      fields.map((one, at) => labelled(one, inputs[at])),
      proof && h("label", {}, h("span", {}, "To go on, type ", h("code", {}, typed)), proof),
      shownCommand,
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), go),
    );
    const dialog = h("dialog", { "aria-label": title }, form);
    let result = null;
    form.addEventListener("submit", () => {
      result = values();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    refresh();
    dialog.showModal();
    (proof ?? inputs[0] ?? go).focus();
  });
}

function inputOf(field) {
  const common = { name: field.name, required: field.required, autocomplete: field.autocomplete ?? "off", spellcheck: "false" };
  if (field.type === "checkbox") return h("input", { type: "checkbox", name: field.name, checked: field.value });
  if (field.type === "textarea") return h("textarea", { ...common, rows: 6, value: field.value ?? "" });
  if (field.options) return h("select", common, field.options.map(([value, text]) => h("option", { value, selected: value === field.value }, text)));
  return h("input", { ...common, type: field.type ?? "text", placeholder: field.hint ?? "", value: field.value ?? "" });
}

function labelled(field, input) {
  return field.type === "checkbox" ? h("label", { class: "check" }, input, field.label) : h("label", {}, h("span", {}, field.label), input);
}

// Show something until it is closed.
export function show(title, ...content) {
  const dialog = h("dialog", { class: "wide", "aria-label": title }, h("h2", {}, title), ...content);
  dialog.append(h("div", { class: "row end" }, h("button", { class: "primary", onclick: () => dialog.close() }, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
