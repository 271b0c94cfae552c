// The nodes as a ring: the leader in colour, a line from it to each member, bars of how far each one is.

import { counted, number } from "./bytes.js";
import { svg } from "./dom.js";

const CARD = { width: 168, height: 104 };
const NARROW = matchMedia("(max-width: 560px)");
const NARROW_CARD = { width: 150, height: 104 };
const ROW = 140; // of nodes in two columns
const FRACTIONS = [0.5, 0.6, 0.4, 0.7, 0.3, 0.75, 0.25, 0.8, 0.2]; // of a link: where its text may stand

const cardSize = () => (NARROW.matches ? NARROW_CARD : CARD);
const inColumns = (count) => NARROW.matches && count > 3; // on an ellipse they would cover each other

// `moving(member)` tells whether entries travel to it just now.
export function ring(members, { onpick, picked, moving = () => false }) {
  const count = members.length;
  const height = inColumns(count) ? NARROW_CARD.height + 12 + Math.floor(count / 2) * ROW : count === 3 ? 330 : count < 3 ? 260 : 460;
  const size = { width: NARROW.matches ? 380 : 640, height };
  const places = members.map((_, at) => placeOf(at, count, size));
  const leader = members.findIndex((one) => one.leads);
  const newest = Math.max(1, ...members.map((one) => one.status?.last_index ?? one.match ?? 0));
  const picture = svg("svg", { viewBox: `0 0 ${size.width} ${size.height}`, class: "ring", role: "group", "aria-label": `${members.length} members of the cluster` });
  if (leader >= 0) {
    const taken = places.map((place) => ({ ...place, ...cardSize() }));
    const far = (at) => Math.hypot(places[at].x - places[leader].x, places[at].y - places[leader].y);
    const others = members.map((_, at) => at).filter((at) => at !== leader).sort((a, b) => far(a) - far(b));
    for (const at of others) picture.append(link(places[leader], places[at], members[at], moving(members[at]), taken));
  }
  members.forEach((one, at) => picture.append(card(one, places[at], newest, { onpick, picked: picked === one.id })));
  return picture;
}

// Nodes on an ellipse; three of them fill the corners of a triangle. Where it is narrow, more stand in two columns.
function placeOf(at, count, { width, height }) {
  const [x, y] = [width / 2 - cardSize().width / 2 - 6, height / 2 - cardSize().height / 2 - 6];
  if (count === 1) return { x: width / 2, y: height / 2 };
  if (count === 3) return { x: width / 2 + [0, x, -x][at], y: height / 2 + (at ? y : -y) };
  if (inColumns(count)) {
    const side = Math.sign(count - 2 * at) * (at ? 1 : 0);
    return { x: width / 2 + side * x, y: height / 2 - y + Math.min(at, count - at) * ROW };
  }
  const angle = (count === 2 ? Math.PI : -Math.PI / 2) + (2 * Math.PI * at) / count;
  return { x: width / 2 + Math.cos(angle) * x, y: height / 2 + Math.sin(angle) * y };
}

// `taken`: the boxes of nodes and of texts before, which its text does not cover; its own is added.
function link(from, to, member, moves, taken) {
  const cut = member.active === false || (!member.status && member.active !== true);
  const text = cut ? "no answer" : member.rttS !== null ? `${(member.rttS * 1000).toFixed(member.rttS < 0.01 ? 1 : 0)} ms` : "";
  const width = text.length * 6.6 + 14;
  const boxAt = (part) => ({ x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part, width, height: 22 });
  const middle = FRACTIONS.map(boxAt).find((box) => !taken.some((other) => overlap(box, other))) ?? boxAt(0.5);
  if (text) taken.push(middle);
  return svg(
    "g", { class: `link ${cut ? "cut" : ""}` },
    svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y }),
    moves && !cut && svg("line", { class: "flow", x1: from.x, y1: from.y, x2: to.x, y2: to.y }),
    text && svg("rect", { x: middle.x - width / 2, y: middle.y - 11, width, height: 22, rx: 11 }),
    text && svg("text", { x: middle.x, y: middle.y + 4, "text-anchor": "middle" }, text),
  );
}

// Boxes by their middles.
function overlap(one, other) {
  return Math.abs(one.x - other.x) * 2 < one.width + other.width && Math.abs(one.y - other.y) * 2 < one.height + other.height;
}

function roleOf(member) {
  if (member.leads) return "leader";
  if (!member.status) return member.error?.status === 401 || member.error?.status === 403 ? "no permission" : member.active === true || member.heard || member.error?.code === "late" ? "not seen from here" : "no answer";
  return member.role === "learner" ? "learner" : member.status.role;
}

function card(member, place, newest, { onpick, picked }) {
  const { width, height } = cardSize();
  const length = width - 92; // of a bar
  const role = roleOf(member);
  const status = member.status;
  const last = status?.last_index ?? (member.match || null); // a new leader does not know yet how far a silent member is
  const lines = [
    ["committed", status?.commit ?? null],
    ["applied", status?.applied ?? null],
  ];
  const pick = () => onpick(member.id);
  const group = svg("g", {
    class: `node ${role.replaceAll(" ", "-")} ${picked ? "picked" : ""}`,
    transform: `translate(${place.x - width / 2} ${place.y - height / 2})`,
    tabindex: "0",
    role: "button",
    "aria-pressed": String(picked),
    "aria-label": `${member.name}, ${role}${status ? `, revision ${status.revision}` : ""}${member.lag && last !== null ? `, ${counted(member.lag, "entry", "entries")} behind` : ""}`,
    "data-id": member.id,
    onclick: pick,
    onkeydown: (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pick();
      }
    },
  });
  group.append(
    svg("rect", { class: "card", width, height, rx: 14 }),
    svg("circle", { class: "light", cx: 18, cy: 22, r: 5 }),
    svg("text", { class: "name", x: 32, y: 27 }, member.name.length > 10 ? `${member.name.slice(0, 9)}…` : member.name),
    svg("text", { class: "role", x: width - 14, y: 26, "text-anchor": "end" }, role),
  );
  lines.forEach(([name, value], at) => {
    const y = 46 + at * 20;
    const share = value === null ? 0 : Math.max(0.02, value / newest);
    group.append(
      svg("text", { class: "label", x: 14, y: y + 4 }, name),
      svg("rect", { class: "track", x: 78, y: y - 3, width: length, height: 6, rx: 3 }),
      ...(value === null ? [] : [svg("rect", { class: `bar ${name}`, x: 78, y: y - 3, width: length * Math.min(1, share), height: 6, rx: 3 })]),
    );
  });
  const lag = member.lag === null || member.lag === undefined || last === null ? "" : member.lag ? `${number(member.lag)} behind` : "up to date";
  group.append(
    svg("text", { class: "label", x: 14, y: 92 }, status ? `rev ${number(status.revision)}` : last === null ? "" : `log ${number(last)}`),
    svg("text", { class: `label ${member.lag > 1000 ? "late" : ""}`, x: width - 14, y: 92, "text-anchor": "end" }, member.leads ? `term ${status?.term ?? ""}` : lag),
  );
  return group;
}
