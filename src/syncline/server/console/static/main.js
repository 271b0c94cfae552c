// The frame of the console: navigation, the chosen screen, keys, sign-in.

import { api } from "./api.js";
import { cluster } from "./cluster-state.js";
import { clusterScreen } from "./cluster.js";
import { show } from "./dialog.js";
import { h, put } from "./dom.js";
import { keyScreen } from "./key.js";
import { keysScreen } from "./keys.js";
import { lab } from "./lab.js";
import { learnScreen } from "./learn.js";
import { leasesScreen } from "./leases.js";
import { liveScreen } from "./live.js";
import { signIn, signOut } from "./signin.js";
import { timeLine } from "./timeline.js";

const SCREENS = [
  { path: "cluster", name: "Cluster", key: "c", screen: clusterScreen },
  { path: "keys", name: "Keys", key: "k", screen: keysScreen },
  { path: "live", name: "Live", key: "l", screen: liveScreen },
  { path: "leases", name: "Leases", key: "s", screen: leasesScreen },
];
const HIDDEN = { key: { parent: "keys", name: "Key", screen: keyScreen } };

const main = document.getElementById("main");
const state = h("span", { class: "state", role: "status" });
const account = h("span", { class: "account" });
const links = new Map();
let leave = () => {};

function frame() {
  const nav = h("nav", { "aria-label": "Screens" }, SCREENS.map(({ path, name, key }) => {
    const link = h("a", { href: `#/${path}`, title: `g, then ${key}` }, h("span", { class: `icon ${path}`, "aria-hidden": "true" }), name);
    links.set(path, link);
    return link;
  }));
  put(document.getElementById("top"), h("a", { class: "brand", href: "#/cluster" }, h("img", { src: "logo.svg", alt: "", width: "28", height: "28" }), h("span", {}, "Syncline")), nav, h("div", { class: "side-end" }, state, account, h("button", { class: "quiet small", onclick: help, "aria-label": "Help and keys" }, "? Help")));
}

function drawState() {
  const { status, error } = cluster;
  const leader = cluster.leaderStatus?.name ?? (error ? null : status?.leader?.name);
  const bad = error || !leader;
  state.className = `state ${bad ? "bad" : "good"}`;
  put(state, h("span", { class: "dot", "aria-hidden": "true" }), status ? h("span", {}, h("strong", {}, status.cluster || "cluster"), " · ", status.name) : null, h("span", {}, error ? (error.status === 401 ? "signed out" : error.status === 403 ? "no permission" : "no answer") : leader ? `led by ${leader}` : "no leader"));
  put(account, api.credential ? [h("span", { class: "hint" }, api.user || "token"), h("button", { class: "quiet small", onclick: signOut }, "Sign out")] : null, error?.status === 401 ? h("button", { class: "small", onclick: () => signIn("", signedIn, { asked: true }) }, "Sign in") : null, api.mode === "read-only" ? h("span", { class: "badge" }, "read-only") : null);
}

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const found = SCREENS.find((one) => one.path === path) ?? HIDDEN[path] ?? SCREENS[0];
  const shown = found.parent ?? found.path;
  leave();
  for (const [name, link] of links) {
    if (name === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${found.name} · Syncline`;
  main.className = found.path ?? path;
  try {
    leave = found.screen(main, new URLSearchParams(query)) ?? (() => {});
  } catch (error) {
    leave = () => {};
    put(main, h("div", { class: "banner bad" }, h("strong", {}, "This address can't be shown"), h("p", {}, error.message), h("a", { href: "#/cluster" }, "Go to the cluster")));
  }
  main.scrollTop = 0;
  if (document.activeElement === document.body || document.activeElement?.closest("nav")) return;
  main.focus({ preventScroll: true });
}

function help() {
  const row = (keys, text) => [h("dt", {}, keys.map((one) => h("kbd", {}, one))), h("dd", {}, text)];
  show("Keys", h("dl", { class: "facts" }, SCREENS.map(({ name, key }) => row(["g", key], name)), row(["/"], "Search, on the screen of keys"), row(["↑", "↓"], "Move in a list"), row(["Enter"], "Open"), row(["Space"], "Select"), row(["Ctrl", "S"], "Save what is edited"), row(["Esc"], "Close, or stop editing"), row(["?"], "This help")), h("p", { class: "hint" }, "The console does what the HTTP interface does, with your credential: docs/console.md."));
}

let went = 0;

function key(event) {
  if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") help();
  else if (event.key === "/" && document.getElementById("filter")) document.getElementById("filter").focus();
  else if (event.key === "g") {
    went = event.timeStamp;
    return;
  } else if (event.timeStamp - went < 1500) {
    const found = SCREENS.find((one) => one.key === event.key);
    if (!found) return;
    location.hash = `#/${found.path}`;
  } else return;
  went = -9999;
  event.preventDefault();
}

async function signedIn() {
  if (!api.isInMemory) {
    location.reload();
    return;
  }
  timeLine.stop(); // its streams were refused, and begin again
  await cluster.look();
  route();
}

async function begin() {
  api.onSignIn = (why) => signIn(why, signedIn);
  cluster.start(); // at once: its answer is on the way while the settings are
  let settings;
  for (const credentials of ["omit", "same-origin"]) {
    // With `omit` no certificate of the browser is shown: a server that asks for one refuses the connection.
    api.withCredentials = credentials;
    settings = await api.json("GET", "/console-settings").catch(() => null);
    if (settings) break;
  }
  lab.url = settings?.lab ?? "";
  if (lab.isThere && settings?.mode === "on") SCREENS.push({ path: "learn", name: "Learn", key: "t", screen: learnScreen });
  api.mode = settings?.mode ?? "read-only";
  frame();
  cluster.addEventListener("change", drawState);
  addEventListener("hashchange", route);
  addEventListener("keydown", key);
  addEventListener("pagehide", () => timeLine.stop());
  drawState();
  await cluster.known; // without a leader the first read takes this node's own state
  route();
}

begin();
