// The live page of one replica: what is wrong, who leads, pools, replicas, tasks. See live.js for how it stays current.

import { ago, badge, clock, count, dateAndTime, el, now, plural, prose, replicaLink, setChildren, setNow, setText, span } from "/static/format.js";
import { Live, ask } from "/static/live.js";
import { TaskDialog } from "/static/task.js";
import { Tasks } from "/static/tasks.js";

const ACTIVITY = 12;
const AUDIT_SECONDS = 300; // how old a verdict may be before the page asks for another by itself
const AUDITED_TASKS = 20000; // beyond so many an audit is work for the replica: only when asked for
const $ = (id) => document.getElementById(id);
const VERDICTS = {
  ok: ["All is well", "Tasks are admitted, observed and recorded."],
  warning: ["Something needs attention", "Tally does its work."],
  critical: ["Something is wrong", "Tally does not do its work, or not as promised."],
};

let replicas = [];
let auditing = false;
let auditTriedAt = 0;
let auditProblem = "";

const tasks = new Tasks(() => { writeAddress(); live.soon(); });
const dialog = new TaskDialog(() => writeAddress());
const live = new Live(refresh, heard, connection);

async function refresh() {
  const summary = await ask("/v1/summary");
  setNow(summary.now); // before anything is shown that has an age
  await Promise.all([tasks.load(), dialog.load()]);
  show(summary);
}

function show(summary) {
  replicas = summary.replicas;
  document.title = `${summary.verdict === "ok" ? "" : "⚠ "}Tally ${summary.cluster}`;
  document.querySelector("main").hidden = false;
  setText($("cluster"), `cluster ${summary.cluster}`);
  setText($("self"), `Shown by replica ${summary.replica} (${summary.phase}), Tally ${summary.version}, revision ${count(summary.revision)}, engine ${summary.engine}`);
  showHealth(summary);
  showLeader(summary.leader);
  showWork(summary);
  showAudit(summary);
  showPools(summary);
  showReplicas(summary);
  tasks.summarize(summary);
}

function showHealth(summary) {
  $("health").dataset.verdict = summary.verdict;
  const [title, detail] = VERDICTS[summary.verdict];
  const troubles = summary.notices.filter((notice) => notice.severity !== "info").length;
  setText($("verdict"), title);
  setText($("verdict-detail"), troubles ? `${detail} ${plural(troubles, "thing")} to look at${troubles > 1 ? ", the worst first" : ""}.` : detail);
  setChildren($("notices"), summary.notices.map(({ code, title, action, severity }) => [code, title, action, severity]), () =>
    summary.notices.map((notice) => el("li", { class: "notice", "data-severity": notice.severity, "data-code": notice.code },
      el("h3", {}, notice.title, el("span", { class: "level" }, notice.severity)),
      el("p", {}, ...prose(notice.detail)),
      notice.action ? el("p", { class: "action" }, ...prose(notice.action)) : "")));
}

function showLeader(leader) {
  setChildren($("leader"), [leader.replica, leader.status_url], () => [leader.replica ? replicaLink(leader.replica, leader.status_url) : "nobody"]);
  $("leader").dataset.tone = leader.replica ? "" : "critical";
  setChildren($("leader-detail"), leader, () => leader.replica && leader.since
    ? ["for ", ago(leader.since), ` · since ${dateAndTime(leader.since)} · term ${count(leader.epoch)}`]
    : [leader.epoch ? `${plural(leader.epoch, "term")} so far` : "no term yet"]);
}

function showWork(summary) {
  const waiting = summary.tasks.Created + summary.tasks.WaitingRetry;
  setText($("work"), `${count(summary.tasks.Running)} running, ${count(waiting)} waiting`);
  const parts = [`${count(summary.tasks.Pending)} starting`, `${count(summary.tasks.WaitingRetry)} to be tried again`];
  if (summary.stopping) parts.push(`${count(summary.stopping)} stopping`);
  if (summary.lost) parts.push(`${count(summary.lost)} lost`);
  setText($("work-detail"), parts.join(" · "));
}

function showAudit(summary) {
  const audit = summary.audit;
  const old = now() - Math.max(audit?.at ?? 0, auditTriedAt) > AUDIT_SECONDS;
  if (old && summary.total <= AUDITED_TASKS) runAudit();
  if (auditing) return;
  if (auditProblem) {
    setText($("audit"), "not possible now");
    $("audit").dataset.tone = "";
    setChildren($("audit-detail"), auditProblem, () => [auditProblem]);
    return;
  }
  setText($("audit"), audit === null ? "not checked yet" : audit.wrong ? plural(audit.wrong, "contradiction") : "nothing wrong");
  $("audit").dataset.tone = audit === null ? "" : audit.wrong ? "critical" : "ok";
  setChildren($("audit-detail"), audit, () => audit === null
    ? ["Checks every invariant against etcd and the engine."]
    : [`${plural(audit.notices, "notice")} · checked `, ago(audit.at), " ago ·"]);
}

async function runAudit() {
  if (auditing) return;
  auditing = true;
  auditTriedAt = now();
  auditProblem = "";
  $("audit-run").disabled = true;
  setText($("audit"), "checking …");
  $("audit").dataset.tone = "";
  try {
    await ask("/v1/audit");
  } catch (error) {
    auditProblem = error.message;
  }
  auditing = false;
  $("audit-run").disabled = false;
  live.soon();
}

function showPools(summary) {
  $("pools-empty").hidden = summary.pools.length > 0;
  $("pools-more").hidden = summary.pools_total <= summary.pools.length;
  setText($("pools-more"), `${count(summary.pools_total - summary.pools.length)} more: tally get pools`);
  setChildren($("pools"), summary.pools, () => summary.pools.map((pool) => el("div", { class: "pool" },
    el("div", { class: "pool-head" }, el("strong", {}, pool.name), el("span", { class: "muted" }, poolNote(pool))),
    ...pool.resources.map(resourceBar))));
}

function poolNote(pool) {
  const parts = [`${count((pool.tasks.Running ?? 0) + (pool.tasks.Pending ?? 0))} at work`, `${count(pool.waiting)} waiting`];
  if (pool.lost) parts.push(`${count(pool.lost)} lost`);
  if (pool.paused) parts.unshift("paused");
  if (!pool.defined) parts.unshift("not defined any more");
  return parts.join(" · ");
}

function resourceBar(resource) {
  const over = resource.held_amount > resource.capacity_amount;
  const share = resource.capacity_amount ? Math.min(1, resource.held_amount / resource.capacity_amount) : Number(resource.held_amount > 0);
  const text = over ? `${resource.held} held of ${resource.capacity}: overcommitted` : `${resource.held} held, ${resource.free} free of ${resource.capacity}`;
  const fill = el("i");
  fill.style.width = `${(100 * share).toFixed(1)}%`;
  const bar = el("div", {
    class: "bar", role: "meter", "aria-label": `${resource.name} held`, "aria-valuemin": 0, "aria-valuemax": Math.max(resource.capacity_amount, resource.held_amount),
    "aria-valuenow": resource.held_amount, "aria-valuetext": text,
  }, fill);
  bar.toggleAttribute("data-over", over);
  return el("div", { class: "resource" }, el("div", { class: "resource-head" }, el("span", {}, resource.name), el("span", { class: "muted" }, text)), bar);
}

function showReplicas(summary) {
  $("replicas-empty").hidden = summary.replicas.length > 0;
  setChildren($("replicas"), summary.replicas, () => summary.replicas.map((replica) => {
    const own = replica.id === summary.replica ? " (this one)" : "";
    const lag = replica.lag_revisions ? `${plural(replica.lag_revisions, "revision")} behind` : "up to date";
    const heard = replica.behind_seconds > 3 ? ` · heard of etcd ${span(replica.behind_seconds)} ago` : "";
    return el("li", {}, el("strong", {}, replicaLink(replica.id, replica.status_url), own),
      el("span", { class: replica.leads ? "leads" : "muted-role" }, replica.leads ? "leader" : "follower"),
      el("span", { class: "muted" }, `${lag}${heard} · ${replica.version}${replica.host ? ` on ${replica.host}` : ""}`));
  }));
}

// -- what happens ----------------------------------------------------------------------------------------------------

const waitingEvents = [];
let drawing = 0;

function heard(name, data) {
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
      status: () => [task(), " ", badge(data.state), data.stopping ? " is told to stop" : ""],
      submitted: () => [task(), " was submitted"],
      removed: () => [data.id, " was removed"],
      quarantined: () => [task(), " has a record that cannot be read"],
      leader: () => [data.replica ? el("strong", {}, data.replica) : "Nobody", " leads now"],
    }[name]();
    return el("li", {}, el("time", { dateTime: new Date(at * 1000).toISOString() }, clock(at)), el("span", {}, ...what));
  }));
  while ($("activity").children.length > ACTIVITY) $("activity").lastElementChild.remove();
}

// -- the connection, and the address ---------------------------------------------------------------------------------

function connection(state, since, why = "") {
  $("connection").dataset.state = state;
  $("stale").hidden = state === "live";
  $("health").hidden = state !== "live"; // an old verdict is none
  if (state === "live") { setText($("connection-text"), live.hears ? "Live" : "Asking every few seconds"); return; }
  const when = since === null ? "" : ` since ${clock(since / 1000)}`;
  setText($("connection-text"), since === null ? "Not connected" : `Stale${when}`);
  if (!document.title.startsWith("⚠")) document.title = `⚠ ${document.title}`;
  setText($("stale-title"), since === null ? "This replica cannot show anything yet." : `Stale${when}: this replica does not answer.`);
  setText($("stale-detail"), `${why || "It may be restarting, or the network is cut."} The page goes on by itself when it is back.`);
  const others = replicas.filter(({ status_url: url }) => URL.canParse(url) && new URL(url).origin !== location.origin);
  $("stale-elsewhere").hidden = !others.length;
  setChildren($("stale-links"), others.map((replica) => replica.id), () => others.map((replica) => replicaLink(replica.id, replica.status_url)));
}

function writeAddress() {
  const parameters = tasks.address();
  if (dialog.id) parameters.set("task", dialog.id);
  const hash = parameters.size ? `#${parameters}` : "";
  if (location.hash !== hash) history.replaceState(null, "", `${location.pathname}${location.search}${hash}`);
}

function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  // A link to a task names the task alone: the filters stay as they are.
  if (!parameters.has("task") || parameters.size > 1) tasks.readAddress(parameters);
  dialog.show(parameters.get("task") ?? "");
  writeAddress();
  live.soon();
}

addEventListener("hashchange", readAddress);
$("audit-run").addEventListener("click", runAudit);
readAddress();
live.start();
