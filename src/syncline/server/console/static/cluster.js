// The screen of the cluster: the ring, what is wrong, what happened, and the changes that an operator makes.

import { api } from "./api.js";
import { counted, number, sizeText } from "./bytes.js";
import { cluster } from "./cluster-state.js";
import { line, word } from "./commands.js";
import { diagnose } from "./diagnosis.js";
import { ask } from "./dialog.js";
import { code, h, put, redraw, say, tell } from "./dom.js";
import { ring } from "./ring.js";
import { clock, timeLine } from "./timeline.js";

export function clusterScreen(main) {
  let picked = null;
  let chosen = false; // by the user: else it follows the leader
  let drawn = "";
  const banner = h("section", { class: "banners", "aria-label": "State of the cluster", role: "status" });
  const picture = h("div", { class: "card ring-card" });
  const details = h("section", { class: "card details", "aria-label": "The selected member" });
  const events = h("ol", { class: "timeline" });
  const actions = h("div", { class: "row wrap" });
  put(
    main,
    h("div", { class: "head" }, h("h1", {}, "Cluster"), actions),
    banner,
    h("div", { class: "columns" }, h("div", { class: "stack" }, picture, h("section", { class: "card", "aria-label": "What happened" }, h("h2", {}, "What happened"), events)), details),
  );
  const pick = (id) => {
    [picked, chosen] = [id, true];
    drawn = "";
    draw();
    picture.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
  };
  const draw = () => {
    const members = cluster.members;
    drawBanner(banner, diagnose(cluster));
    if (!chosen || !members.some((one) => one.id === picked)) picked = (members.find((one) => one.leads) ?? members.find((one) => one.own) ?? members[0])?.id ?? null;
    const now = JSON.stringify(members.map((one) => [one.id, one.name, one.role, one.leads, one.lag, one.match, one.active, one.rttS, one.status?.revision, one.status?.commit, one.status?.applied, one.status?.role, one.status?.term, !one.error])) + picked;
    if (now !== drawn) {
      drawn = now;
      redraw(picture, members.length ? ring(members, { onpick: pick, picked }) : h("p", { class: "hint" }, "No member is known yet."));
    }
    const member = members.find((one) => one.id === picked);
    redraw(details, member ? memberCard(member) : h("p", { class: "hint" }, "Select a member."));
    timeLine.watch();
  };
  const drawEvents = () => put(events, timeLine.items.slice(0, 60).map((one) => h("li", { class: `event ${one.kind}` }, h("time", {}, clock(one.at)), h("span", {}, one.text))), timeLine.items.length ? null : h("li", { class: "hint" }, "Nothing yet."));
  cluster.addEventListener("change", draw);
  timeLine.addEventListener("change", drawEvents);
  put(actions, clusterActions());
  draw();
  drawEvents();
  return () => {
    cluster.removeEventListener("change", draw);
    timeLine.removeEventListener("change", drawEvents);
  };
}

function drawBanner(place, found) {
  const now = JSON.stringify(found);
  if (place.dataset.now === now) return;
  place.dataset.now = now;
  put(place, found.map(({ level, title, text, command }) => h("div", { class: `banner ${level}` }, h("strong", {}, title), h("p", {}, text), command && code(command, "the command that helps"))));
}

function memberCard(member) {
  const status = member.status;
  const rows = [
    ["Role", member.leads ? "leader" : status?.role ?? member.role],
    ["Votes", member.role === "voter" ? "yes" : member.promote ? "no, until it has caught up" : "no (learner)"],
    ["Term", number(status?.term)],
    ["Log", status ? `${number(status.first_index)} – ${number(status.last_index)}` : member.match ? number(member.match) : "not known"],
    ["Committed", number(status?.commit)],
    ["Applied", number(status?.applied)],
    ["Behind the leader", member.lag === null ? "the leader knows" : !status && !member.match ? "not known" : counted(member.lag, "entry", "entries")],
    ["Newest snapshot", number(status?.snapshot_index)],
    ["Revision", number(status?.revision)],
    ["Digest", status?.digest ? h("code", { title: status.digest }, status.digest.slice(0, 12)) : "–"],
    ["Last sync of the log", member.fsyncS === null ? "–" : `${(member.fsyncS * 1000).toFixed(1)} ms`],
    ["Disk", member.warnings.some((one) => /disk|space/i.test(one)) ? member.warnings.join(" ") : member.freeBytes !== null ? `${sizeText(member.freeBytes)} free` : status ? "enough space" : "–"],
    ["Answers this page in", member.ms === null ? "–" : `${member.ms.toFixed(0)} ms`],
    ["Version", status?.version ?? "–"],
    ["Up for", status ? duration(status.uptime_s) : "–"],
    ["Clients", member.http ? h("a", { href: `${member.http}/console/`, "data-id": "clients", rel: "noreferrer" }, member.http) : "not announced"],
    ["Peers", member.peer],
    ["Id", h("code", {}, member.id)],
    ...(status?.no_leader ? [["No leader", status.no_leader]] : []),
  ];
  const note = !status && member.http ? h("p", { class: "hint" }, member.error?.message ?? "It can't be asked from this page.") : null;
  return [
    h("h2", {}, member.name, " ", h("span", { class: `badge ${member.leads ? "lead" : ""}` }, member.leads ? "leader" : member.role)),
    note,
    h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    api.canWrite ? h("div", { class: "row wrap" }, memberActions(member)) : null,
  ];
}

function memberActions(member) {
  const name = word(member.name);
  const endpoints = cluster.endpoints;
  const button = (text, action, danger = false) => h("button", { class: danger ? "danger quiet" : "", "data-id": text, onclick: action }, text);
  return [
    member.role === "voter" && !member.leads && button("Make it the leader", () => change({
      title: `Make ${member.name} the leader?`, text: "Clients notice it as a pause of some milliseconds.", command: line(`transfer ${name}`, endpoints), action: "Transfer", path: "/raft/transfer", body: { To: member.id },
    })),
    member.own && button("Take a snapshot", () => change({
      title: `Take a snapshot on ${member.name}?`, text: "Its log before the snapshot can be dropped afterwards.", command: line("snapshot", [member.http]), action: "Take it", path: "/raft/snapshot", body: {},
    })),
    member.role === "learner" && button("Promote to a voter", () => change({
      title: `Make ${member.name} a voter?`, text: "It counts for the quorum from then on.", command: line(`member promote ${name}`, endpoints), action: "Promote", path: "/raft/promote", body: { NodeID: member.id },
    })),
    member.role === "voter" && button("Make it a learner", () => change({
      title: `Make ${member.name} a learner?`, text: "It has no vote any more, and still has all data.", command: line(`member demote ${name}`, endpoints), action: "Demote", path: "/raft/demote", body: { NodeID: member.id },
    })),
    button("Remove", () => change({
      title: `Remove ${member.name} from the cluster?`, text: "The node stops, and its data directory can't be used to come back. Refused if no quorum of the voters would be alive.", command: line(`member remove ${name}`, endpoints), action: "Remove", path: "/raft/remove", body: { NodeID: member.id }, typed: member.name, danger: true,
    }), true),
  ];
}

function clusterActions() {
  if (!api.canWrite) return h("span", { class: "badge" }, "read-only");
  return [
    h("button", { onclick: addMember }, "Add a member"),
    h("button", { onclick: () => change({ title: "Transfer the leadership?", text: "To the most up-to-date voter.", command: line("transfer", cluster.endpoints), action: "Transfer", path: "/raft/transfer", body: {} }) }, "Transfer the leadership"),
  ];
}

async function change({ title, text, command, action, path, body, typed = "", danger = false }) {
  if (!(await ask({ title, text, command, action, typed, danger }))) return;
  try {
    await api.json("POST", path, { body, timeoutMs: 40000 });
    say(`${action}: done.`, "good");
  } catch (error) {
    tell(error);
  }
  await cluster.look();
}

async function addMember() {
  const given = await ask({
    title: "Add a member",
    text: "This only makes the place: start the node itself with the second command, on its own machine. It learns first, and votes once it has caught up.",
    fields: [
      { name: "name", label: "Name", required: true, hint: "n4" },
      { name: "address", label: "Address for its peers (host:port)", required: true, hint: "10.0.0.4:7100" },
      { name: "learner", label: "Stays a learner", type: "checkbox" },
    ],
    command: ({ name, address, learner }) =>
      [line(`member add ${word(name || "NAME")} ${word(address || "HOST:PORT")}${learner ? " --learner" : ""}`, cluster.endpoints), `syncline serve --name ${word(name || "NAME")} --data-dir ${word(name || "NAME")} --peer-listen ${word(address || "HOST:PORT")} --join ${word(cluster.endpoints[0] ?? api.home)} --peer-secret-file FILE`].join("\n"),
    action: "Add",
  });
  if (!given) return;
  try {
    await api.json("POST", "/raft/add", { body: { ID: given.name, Address: given.address, Learner: given.learner }, timeoutMs: 40000 });
    say(`${given.name} is a member now.`, "good");
  } catch (error) {
    tell(error);
  }
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
