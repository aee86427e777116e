// The live page of one replica: what is wrong, who leads, pools, replicas, tasks. See live.js for how it stays current.

import { Address } from "/static/address.js";
import { Ahead, Beside } from "/static/ahead.js";
import { ago, badge, clock, count, dateAndTime, dateOf, el, now, plural, prose, replicaLink, setChildren, setNow, setText, span, worst } from "/static/format.js";
import { Live, ask } from "/static/live.js";
import { Pools, stateCounts } from "/static/pools.js";
import { showSchedules } from "/static/schedules.js";
import { TaskDialog } from "/static/task.js";
import { Tasks } from "/static/tasks.js";

const ACTIVITY = 12;
const AUDIT_SECONDS = 300; // how old a verdict may be before the page asks for another by itself
const AUDITED_TASKS = 20000; // an audit of more tasks than this costs the replica much: only on request
const $ = (id) => document.getElementById(id);
const VERDICTS = {
  ok: ["All is well", "Tasks are admitted, observed and recorded."],
  warning: ["Something needs attention", "Tally does its work."],
  critical: ["Something is wrong", "Tally does not do its work, or does not keep its promise."],
};
const UNKNOWN = "This replica does not know what is happening now.";
const SILENCES = ["store-unreachable", "leader-silent", "replica-silent"]; // their age is the length of the silence
const BLIND = ["store-unreachable", "loop-stuck"]; // a replica with such a notice knows nothing current

let last = null; // the last summary
let freshness = "dead"; // of all that is shown; see showAge
let auditing = false;
let auditTriedAt = 0;

const ahead = new Ahead(() => showAhead());
const hour = new Beside(() => ask("/v1/history"), () => showAhead());
const pools = new Pools();
const tasks = new Tasks(() => { address.write(); live.soon(); }, { ahead });
const dialog = new TaskDialog(() => address.write(), { ahead });
const address = new Address(tasks, dialog, () => live.soon());
const live = new Live(refresh, heard, showAge);

async function refresh() {
  const summary = await ask("/v1/summary");
  setNow(summary.now); // before anything is shown that has an age
  await Promise.all([tasks.load(), dialog.load()]);
  show(summary);
}

function show(summary) {
  last = summary;
  document.querySelector("main").hidden = false;
  setText($("cluster"), `cluster ${summary.cluster}`);
  setText($("self"), `Shown by replica ${summary.replica} (${summary.phase}), Tally ${summary.version}, revision ${count(summary.revision)}, engine ${summary.engine}`);
  showHealth(summary);
  showWork(summary);
  showAudit(summary);
  pools.show(summary);
  showAccess(summary);
  showSchedules(summary.schedules, summary.schedules_total);
  tasks.summarize(summary);
  showAhead();
  showAge(); // and everything that looks different when it is old
  ahead.refresh(["Created", "Pending", "Running", "WaitingRetry"].some((state) => summary.tasks[state]), tasks.rows, dialog.task);
  hour.refresh();
}

/** What is asked for beside all else: what is to come, and the last hour. */
function showAhead() {
  pools.showAround(ahead.forecast, hour.document);
  const note = ahead.note();
  setChildren($("ahead-note"), note.map((part) => (part instanceof Node ? part.dateTime : part)), () => note);
  tasks.showComing();
  dialog.redraw();
}

function showHealth(summary) {
  $("health").dataset.verdict = summary.verdict;
  const [title, words] = VERDICTS[summary.verdict];
  const leader = summary.replicas.find((replica) => replica.leads);
  const known = !summary.notices.some((notice) => BLIND.includes(notice.code)) && (leader?.freshness ?? "fresh") === "fresh";
  const detail = known ? words : UNKNOWN;
  const troubles = summary.notices.filter((notice) => notice.severity !== "info").length;
  setText($("verdict"), known || summary.verdict !== "ok" ? title : "All was well");
  setText($("verdict-detail"), troubles ? `${detail} ${plural(troubles, "thing")} to look at${troubles > 1 ? ", the worst first" : ""}.` : detail);
  setChildren($("notices"), summary.notices.map(({ code, title, action, severity, age_seconds: age }) => [code, title, action, severity, age && Math.round((summary.now - age) / 2)]), () =>
    summary.notices.map((notice) => el("li", { class: "notice", "data-severity": notice.severity, "data-code": notice.code },
      el("h3", {}, notice.title,
        notice.age_seconds === null ? "" : el("span", { class: "as-of" }, ...(SILENCES.includes(notice.code)
          ? ["for ", ago(summary.now - notice.age_seconds)] : ["known ", ago(summary.now - notice.age_seconds), " ago"])),
        el("span", { class: "level" }, notice.severity)),
      el("p", {}, ...prose(notice.detail)),
      notice.action ? el("p", { class: "action" }, ...prose(notice.action)) : "")));
}

/** The leader, or the last known one: a silent leader may no longer lead. */
function showLeader({ leader, replicas, now: at, staleness_seconds: staleness }) {
  const record = replicas.find((replica) => replica.leads);
  const heard = record && rowFreshness(record) !== "fresh" ? record.age_seconds : freshness !== "fresh" ? staleness : null;
  const name = () => (leader.replica ? replicaLink(leader.replica, leader.status_url) : "no replica");
  const known = heard === null;
  setChildren($("leader"), [leader.replica, leader.status_url, known], () => [known ? name() : "not known"]);
  $("leader").dataset.tone = known && !leader.replica ? "critical" : "";
  setChildren($("leader-detail"), [leader, known, known ? null : Math.round((at - heard) / 2)], () => {
    if (!known) return [name(), " led ", ago(at - heard), ` ago · epoch ${count(leader.epoch)}`];
    if (leader.replica && leader.since) return ["for ", ago(leader.since), ` · since ${dateAndTime(leader.since)} · epoch ${count(leader.epoch)}`];
    return [leader.epoch ? `epoch ${count(leader.epoch)} has ended` : "no replica has led yet"];
  });
}

/** What the leader says of its engine, and how long ago the engine last answered. The word of a silent leader is not current. */
function showEngine(summary) {
  const leader = summary.replicas.find((replica) => replica.leads);
  const age = leader?.engine_age_seconds ?? null;
  const silent = leader?.engine_answers === false;
  const known = leader !== undefined && rowFreshness(leader) === "fresh";
  const state = silent ? "dead" : leader?.engine_freshness ?? "fresh";
  $("engine").dataset.freshness = known ? state : "stale";
  const words = known ? (silent ? "does not answer" : state === "fresh" ? "answers" : "is silent") : silent ? "did not answer then" : "answered";
  setChildren($("engine"), [leader?.id, words, age === null ? null : Math.round((summary.now - age) / 2)], () => leader && (silent || age !== null)
    ? [`Engine ${summary.engine} ${words}`, ...(age === null ? [] : [known || silent ? " · last heard from " : " ", ago(summary.now - age), " ago"])] : []);
}

/** How old a replica's registration is, and how old this page's knowledge of it is: the worse counts. */
function rowFreshness(replica) { return worst(replica.freshness, freshness); }

function showWork(summary) {
  const { tasks, stopping, lost } = summary;
  setChildren($("work"), tasks.Running, () => stateCounts(tasks, ["Running"]));
  setChildren($("work-detail"), [tasks, stopping, lost], () => [
    ...stateCounts(tasks, ["Created", "Pending", "WaitingRetry"]),
    stopping ? ` · ${count(stopping)} being stopped` : "", lost ? ` · ${count(lost)} lost` : "",
  ]);
}

function showAudit(summary) {
  const audit = summary.audit;
  const old = (audit?.age_seconds ?? Infinity) > AUDIT_SECONDS && now() - auditTriedAt > AUDIT_SECONDS;
  if (old && summary.total <= AUDITED_TASKS) runAudit();
  if (auditing) return;
  const verdict = audit?.wrong ? plural(audit.wrong, "contradiction") : "nothing wrong";
  setText($("audit"), audit === null ? (summary.audit_problem ? "not possible now" : "not checked yet") : audit.freshness === "dead" ? `${verdict} long ago` : verdict);
  // A good verdict becomes stale; a bad one stays until another audit says otherwise.
  $("audit").dataset.tone = audit === null || (audit.freshness === "stale" && !audit.wrong) ? "" : audit.wrong || audit.freshness === "dead" ? "critical" : "ok";
  setChildren($("audit-detail"), [audit?.at, audit?.replica, audit?.freshness, audit?.notices, summary.audit_problem], () => {
    const problem = summary.audit_problem ? ` This replica's last audit failed: ${summary.audit_problem}` : "";
    if (audit === null) return [problem.trim() || "Checks every invariant against etcd and the engine."];
    return [`${plural(audit.notices, "notice")} · checked `, ago(summary.now - audit.age_seconds), ` ago by ${audit.replica} ·${problem}`];
  });
}

async function runAudit() {
  if (auditing) return;
  auditing = true;
  auditTriedAt = now();
  $("audit-run").disabled = true;
  setText($("audit"), "checking …");
  $("audit").dataset.tone = "";
  try {
    await ask("/v1/audit");
  } catch {
    // The summary says why, and what the last audit found.
  }
  auditing = false;
  $("audit-run").disabled = false;
  live.soon();
}

function showReplicas(summary) {
  $("replicas-empty").hidden = summary.replicas.length > 0;
  const rows = summary.replicas.map((replica) => {
    const { id, status_url, leads, led, version, host } = replica;
    const fresh = rowFreshness(replica) === "fresh";
    const role = fresh && leads ? "leader" : leads || led ? "led before" : fresh ? "follower" : "followed before";
    const lag = replica.lag_revisions ? `${plural(replica.lag_revisions, "revision")} behind` : "up to date";
    const deaf = replica.behind_seconds > 3 ? ` · heard from etcd ${span(replica.behind_seconds)} before that` : "";
    const state = fresh ? (replica.behind_seconds > 3 ? `heard from etcd ${span(replica.behind_seconds)} ago` : lag) : deaf;
    // The page itself counts the ages on, so they are not part of what the row is made of.
    const since = fresh && !led ? null : Math.round((summary.now - replica.age_seconds) / 2);
    return {
      id, status_url, leads: role === "leader", role, freshness: rowFreshness(replica), state, since, own: id === summary.replica,
      from: host ? `${version} on ${host}` : version, at: summary.now - replica.age_seconds,
    };
  });
  setChildren($("replicas"), rows.map(({ at, ...made }) => made), () => rows.map((row) => el("li", { "data-freshness": row.freshness },
    el("strong", {}, replicaLink(row.id, row.status_url), row.own ? " (this one)" : ""),
    el("span", { class: row.leads ? "leads" : "muted-role" }, row.role),
    el("span", { class: "muted" }, ...(row.since === null ? [row.state] : row.freshness === "fresh" ? ["heard from ", ago(row.at), " ago"]
      : [el("span", { class: "silent" }, "silent for ", ago(row.at)), row.state]), ` · ${row.from}`))));
  showEnded(summary);
}

/** Replicas of the last hour whose registrations have ended: they were killed, or have left. */
function showEnded(summary) {
  const from = ({ version, host }) => (host ? ` · ${version} on ${host}` : version ? ` · ${version}` : "");
  setChildren($("ended"), summary.ended.map((each) => [each.id, each.led, from(each), Math.round((summary.now - each.ended_seconds) / 2)]), () => summary.ended.map((each) => el("li", {},
    el("strong", {}, each.id), el("span", { class: "muted-role" }, each.led ? "ended, led before" : "ended"),
    el("span", { class: "muted" }, "ended ", ago(summary.now - each.ended_seconds), " ago · last heard from ", ago(summary.now - each.heard_seconds), " ago", from(each)))));
}

/** Who serves people without etcd credentials, and who tells receivers; nothing where neither is used. */
function showAccess({ gateways, notifier: { on_duty: onDuty, waiting, dead } }) {
  const told = onDuty || waiting || dead;
  $("access").hidden = !gateways.length && !told;
  setChildren($("gateways"), gateways.map(({ id, url, host, version, ready, problems }) => [id, url, host, version, ready, problems]), () =>
    gateways.map(({ id, url, host, version, ready, problems }) => el("li", {},
      el("strong", {}, replicaLink(id, url)),
      el("span", { class: ready ? "muted-role" : "problem" }, ready ? "ready" : "not ready"),
      el("span", { class: "muted" }, problems.length ? `${problems.join(", ")} · ` : "", host ? `${version} on ${host}` : version))));
  setText($("notifier"), told ? `${onDuty ? `Notifier on duty: ${onDuty}` : "No notifier is on duty"} · ${plural(waiting, "notice")} to be told${dead ? ` · ${plural(dead, "dead letter")}` : ""}` : "");
}

// -- what happens ----------------------------------------------------------------------------------------------------

const waitingEvents = [];
let drawing = 0;

function heard(name, data) {
  if (name === "array") return; // the page draws what has changed; each member would be a line here
  waitingEvents.push({ name, data, at: now() });
  if (waitingEvents.length > ACTIVITY) waitingEvents.shift();
  if (!drawing) drawing = setTimeout(drawActivity, 250); // many at once are drawn once
}

function drawActivity() {
  drawing = 0;
  $("activity-empty").hidden = true;
  $("activity").prepend(...waitingEvents.splice(0).reverse().map(({ name, data, at }) => {
    const task = () => el("a", { href: `#task=${encodeURIComponent(data.id)}` }, data.id);
    const what = {
      status: () => [task(), " ", badge(data.state), data.stopping ? " was told to stop" : ""],
      submitted: () => [task(), " was submitted"],
      removed: () => [data.id, " was removed"],
      quarantined: () => [task(), " has a record that cannot be read"],
      leader: () => (data.replica ? [el("strong", {}, data.replica), " was elected"] : ["The leader's term ended"]),
    }[name]();
    return el("li", {}, el("time", { dateTime: dateOf(at).toISOString() }, clock(at)), el("span", {}, ...what));
  }));
  while ($("activity").children.length > ACTIVITY) $("activity").lastElementChild.remove();
}

// -- the connection, and the address ---------------------------------------------------------------------------------

/** How old the page is: by the replica's own word, and by the time since its last answer. */
function showAge() {
  const [staleFrom, deadFrom] = last?.page_limits ?? [0, 0];
  const cut = live.problem !== "" || live.age >= staleFrom;
  const own = last === null ? "dead" : live.age >= deadFrom ? "dead" : cut ? "stale" : "fresh";
  freshness = worst(own, last?.freshness ?? "dead", last?.notices.some((notice) => BLIND.includes(notice.code)) ? "stale" : "fresh");
  document.body.dataset.freshness = freshness;
  if (last !== null) {
    showLeader(last);
    showEngine(last);
    showReplicas(last);
    dialog.showAge(freshness === "fresh" ? null : last.now - last.staleness_seconds);
  }
  $("health").hidden = cut; // an old verdict is no verdict
  $("stale").hidden = !cut;
  const mark = freshness !== "fresh" || last.verdict !== "ok" ? "⚠ " : "";
  document.title = `${mark}Tally${last === null ? "" : ` ${last.cluster}`}`;
  const since = live.answeredAt === null ? "" : ` since ${clock(live.answeredAt / 1000)}`;
  $("connection").dataset.state = last === null && !live.problem ? "connecting" : freshness;
  if (freshness === "fresh") { setText($("connection-text"), live.hears ? "Live" : "Polling every few seconds"); return; }
  if (!cut) {
    const deaf = last.freshness !== "fresh";
    setText($("connection-text"), deaf ? `No answer from etcd for ${span(last.staleness_seconds + live.age)}` : "This replica's control loop is stuck");
    return;
  }
  setText($("connection-text"), last === null ? (live.problem ? "Not connected" : "Connecting …") : own === "dead" ? `No answer${since}` : `Stale${since}`);
  setText($("stale-title"), last === null ? "This replica cannot show anything yet." : `This replica has not answered${since}: the page is ${span(live.age)} old.`);
  setText($("stale-detail"), `${live.problem || "It is slow to answer."} The page continues by itself when the replica is back.`);
  const others = (last?.replicas ?? []).filter(({ status_url: url }) => URL.canParse(url) && new URL(url).origin !== location.origin);
  $("stale-elsewhere").hidden = !others.length;
  setChildren($("stale-links"), others.map((replica) => replica.id), () => others.map((replica) => replicaLink(replica.id, replica.status_url)));
}

setInterval(() => { if (last !== null) showAge(); }, 1000);

addEventListener("hashchange", () => address.read());
$("audit-run").addEventListener("click", runAudit);
address.read();
live.start();
