// What is wrong with the cluster, in words, with the command that helps. Pure: a state in, a list out.

import { line, word } from "./commands.js";

const LAG_ENTRIES = 5000;
const SLOW_DISK_S = 0.5;

// [{level: "bad" | "warn" | "good", title, text, command}], the worst first.
export function diagnose(cluster) {
  const { status, error, members, endpoints } = cluster;
  const found = [];
  const add = (level, title, text, command = "") => found.push({ level, title, text, command: command && line(command, endpoints) });
  if (error) {
    const other = members.find((one) => one.status && one.http && !one.own);
    const go = other ? ` ${other.name} answers: its console is at ${other.http}/console/.` : "";
    if (error.status === 401) add("warn", "Sign in to see the cluster", error.message);
    else if (error.status === 403) add("warn", "This user may not see the cluster", `${error.message}. An administrator can give it the operation 'status'.`, "role grant ROLE --operation status");
    else if (error.code === "starting") add("warn", "The node is starting", "It loads its data, and serves when it has done so.");
    else add("bad", "The node of this console does not answer", `${status ? status.name : "It"} may have been stopped, or killed, or the network is cut.${go}`, "health");
    if (!status || error.status === 401 || error.status === 403) return found;
  }
  const voters = members.filter((one) => one.role === "voter");
  const silent = voters.filter((one) => !one.status && one.http && one.active !== true);
  const leading = cluster.leaderStatus;
  const apart = leading ? voters.filter((one) => one.status && !one.leads && !one.status.leader && one.active === false) : [];
  if (!leading && !members.some((one) => one.status?.leader)) {
    const needed = Math.floor(voters.length / 2) + 1;
    const up = voters.length - silent.length;
    const why = status?.no_leader ? ` ${status.no_leader[0].toUpperCase()}${status.no_leader.slice(1)}.` : "";
    if (up < needed)
      add("bad", "No quorum: nothing can be written", `${up} of ${voters.length} voters ${up === 1 ? "answers" : "answer"}, and ${needed} are needed. Start ${names(silent)} again; if they are lost for good, see docs/recovery.md. Until then this console shows what this node has, which may be old.`, "status");
    else add("warn", "There is no leader at this moment", `An election takes a second or two.${why}`, "status");
  } else {
    const heard = members.find((one) => one.heard);
    for (const one of silent) {
      if (one.error?.code === "late") add("info", `${one.name} has come after this page was loaded`, "Load the page again to see it.");
      else if (one.heard && !one.leads) add("warn", `This page does not reach ${one.name}`, "It leads, and other nodes hear it. So it runs, and what is between it and this browser is in the way.", "status");
      else if (!leading) add("warn", `This page does not reach ${one.name}`, `It may run all the same. The leader${heard ? `, ${heard.name},` : ""} knows, and is not reached from here either.`, "status");
      else add("bad", `${one.name} does not answer`, `The others go on. ${spare(voters.length, silent.length + apart.length)}`, "status");
    }
    for (const one of apart) add("bad", `${one.name} is cut off from the other nodes`, `It runs and answers this page, and hears no leader: the network between the nodes is cut. It takes no writes, and its data may be old. The others go on. ${spare(voters.length, silent.length + apart.length)}`, "status");
  }
  for (const one of members) {
    if (one.status?.digest_agreement === "no_majority") add("bad", "The members' states differ", "No majority of the voters has the same state, so none is known to be right. See docs/digest.md.", "status --wide");
    if (one.fault) add("bad", `${one.name} is not healthy`, `${one.fault}.`, "status");
    if (one.lag !== null && one.lag > LAG_ENTRIES && one.active !== false) add("warn", `${one.name} is ${one.lag.toLocaleString("en-US")} entries behind`, "It catches up, or is too slow for the writes. Its disk and its network decide.", "status --watch");
    if (one.waitsS > SLOW_DISK_S) add("warn", `The disk of ${one.name} is slow`, `A write to its log has waited for ${one.waitsS.toFixed(1)} s. A leader with such a disk transfers its leadership.`, one.leads ? "transfer" : "status");
    for (const warning of one.warnings) if (!/RAFT NO LEADER/.test(warning)) add("warn", `${one.name}: ${warning.split(":")[0].replaceAll("_", " ")}`, warning.split(":").slice(1).join(":").trim() || warning);
    if (one.role === "learner" && !one.promote && one.status) add("info", `${one.name} is a learner`, "It serves reads and has no vote.", `member promote ${word(one.name)}`);
  }
  if (differing(members)) add("bad", "Two nodes differ at the same revision", "Their digests are not equal. The node that differs from the majority stops itself when the next digest comes through the log.", "status --wide");
  const rank = { bad: 0, warn: 1, info: 2 };
  found.sort((a, b) => rank[a.level] - rank[b.level]);
  const unique = found.filter((one, at) => found.findIndex((other) => other.title === one.title) === at);
  if (!unique.some((one) => one.level !== "info") && leading) unique.unshift({ level: "good", title: "All is well", text: `${leading.name} leads ${members.length === 1 ? "alone" : `${members.length} members`} in term ${leading.term}. ${spare(voters.length, 0)}`, command: "" });
  return unique;
}

function spare(voters, down) {
  const more = Math.floor((voters - 1) / 2) - down;
  if (voters === 1) return "There is one voter: if its machine is lost, the data are.";
  if (more <= 0) return "No further voter may fail.";
  return `${more === 1 ? "One" : more}${down ? " more" : ""} may fail.`;
}

function differing(members) {
  const byRevision = new Map();
  for (const { status } of members) {
    if (!status || !status.digest) continue;
    const before = byRevision.get(status.revision);
    if (before && before.digest !== status.digest && before.applied === status.applied) return true;
    byRevision.set(status.revision, status);
  }
  return false;
}

const names = (members) => members.map((one) => one.name).join(", ") || "the missing nodes";

