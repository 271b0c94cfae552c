// Signing in, where clients need credentials (docs/users.md).

import { api } from "./api.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";

let open = null;
let dismissed = false; // each request of the page would open it again

// A dialog with a form: a user and its password, or a token. `onDone` is called when the credential was good.
// One that is not asked for comes once: afterwards there is a button.
export function signIn(why, onDone, { asked = false } = {}) {
  if (open || (dismissed && !asked)) return;
  const user = h("input", { type: "text", name: "username", autocomplete: "username", spellcheck: "false" });
  const password = h("input", { type: "password", name: "password", autocomplete: "current-password" });
  const token = h("input", { type: "password", name: "token", autocomplete: "off" });
  const error = h("p", { class: "error", role: "alert" }, "");
  const go = h("button", { class: "primary", type: "submit" }, "Sign in");
  const form = h(
    "form", {},
    h("h2", {}, "Sign in"),
    h("p", { class: "hint" }, why || "This cluster needs a credential."),
    h("label", {}, h("span", {}, "User"), user),
    h("label", {}, h("span", {}, "Password"), password),
    h("details", {}, h("summary", {}, "Use a token instead"), h("label", {}, h("span", {}, "Token"), token)),
    error,
    h("div", { class: "row end" }, h("button", { type: "button", onclick: () => open.close() }, "Cancel"), go),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    error.textContent = "";
    try {
      if (token.value) await api.signInByToken(token.value.trim());
      else await api.signIn(user.value, password.value);
      open.close();
      onDone();
    } catch (failure) {
      error.textContent = `${failure.message}.`;
    }
    go.disabled = false;
  });
  open = h("dialog", { "aria-label": "Sign in" }, form);
  open.addEventListener("close", () => {
    dismissed = true;
    open.remove();
    open = null;
  });
  document.body.append(open);
  open.showModal();
  user.focus();
}

export async function signOut() {
  dismissed = true; // the page goes on asking until it is loaded again: no dialog over the message below
  try {
    await api.signOut();
  } catch (error) {
    await ask({ title: "Signed out on this page alone", text: `${error.message}. So the token could not be ended: it ends by itself, 12 hours after it was made.` });
  }
  location.reload();
}
