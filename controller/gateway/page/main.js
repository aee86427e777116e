// The gateway's page: who has signed in sees the tasks that it may read, and asks for what it may do.

import { Address } from "/static/address.js";
import { Ahead, Beside } from "/static/ahead.js";
import { CoursePart } from "/static/course.js";
import { clock, el, setChildren, setText } from "/static/format.js";
import { HourPart } from "/static/hour.js";
import { Live, ask } from "/static/live.js";
import { TaskDialog } from "/static/task.js";
import { showSchedules } from "/static/schedules.js";
import { Tasks } from "/static/tasks.js";
import { FINAL } from "/static/timeline.js";
import { Actions } from "/static/actions.js";
import { enterAs, isReady, session, signIn, signOut } from "/static/calls.js";
import { read, rowOf, scheduleOf } from "/static/facts.js";
import { Output } from "/static/output.js";
import { Submission } from "/static/submit.js";

const STALE_SECONDS = 15;
const DEAD_SECONDS = 60;
const SCHEDULES_MILLISECONDS = 10000; // an answer has all of them: it is not asked for at every change
const SCHEDULES = 50; // so many are shown
const $ = (id) => document.getElementById(id);

let me = null; // who has signed in
let schedulesAt = -Infinity; // when they were asked for
let hears = true; // whether the gateway hears from etcd

const ahead = new Ahead(() => showAhead(), {}, askBeside);
const hour = new Beside(() => askBeside("/v1/history"), () => showAhead());
const around = new Map(); // pool → the parts of its card
const tasks = new Tasks(() => { address.write(); live.soon(); }, { path: "/v1/tasks:page", facts: rowOf, ahead });
const actions = new Actions(() => live.soon());
const output = new Output();
const dialog = new TaskDialog(() => address.write(), { read, own: { show: (task) => { actions.show(task); output.show(task); } }, ahead });
const address = new Address(tasks, dialog, () => live.soon());
const submission = new Submission((id) => { location.hash = new URLSearchParams({ task: id }); live.soon(); });
const live = new Live(refresh, () => {}, showAge);

// -- who reads it ----------------------------------------------------------------------------------------------------

async function enter(found) {
  me = found;
  enterAs(found.name);
  setText($("who"), found.name);
  setText($("cluster"), `cluster ${found.cluster}`);
  document.title = `Tally ${found.cluster}`;
  $("sign-out").hidden = !found.csrf; // who presents a certificate has no session to end
  $("sign-in").hidden = true;
  $("signed-in").hidden = false;
  document.querySelector("main").hidden = false;
  schedulesAt = -Infinity;
  address.read();
  live.start();
}

/** Nobody has signed in, or does so no more; `words` say why. */
function leave(words) {
  me = null;
  live.stop();
  dialog.show("");
  showSchedules([], 0);
  $("signed-in").hidden = true;
  document.querySelector("main").hidden = true;
  $("sign-in").hidden = false;
  delete document.body.dataset.freshness;
  setText($("sign-in-problem"), words);
  $("sign-in-problem").hidden = !words;
  $("token").focus();
}

async function begin() {
  try {
    await enter(await session());
  } catch (error) {
    leave(error.status === 401 ? "" : error.message);
  }
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  try {
    await enter(await signIn(token));
  } catch (error) {
    leave(error.message);
  }
});

$("sign-out").addEventListener("click", async () => {
  try {
    live.stop(); // an answer that is still to come must not renew the session
    await signOut();
    location.replace(location.pathname); // with nothing of it left in the page
  } catch (error) {
    if (error.status === 401) { leave(""); return; }
    live.start();
    setText($("connection-text"), `You are still signed in: ${error.message}`);
  }
});

// -- what is shown ---------------------------------------------------------------------------------------------------

async function refresh() {
  try {
    const [who, pools, ready] = await Promise.all([ask("/v1/whoami"), ask("/v1/pools"), isReady(), tasks.load(), dialog.load(), loadSchedules()]);
    if (me !== null && who.name !== me.name) { location.reload(); return; } // somebody else has signed in in another tab
    hears = ready;
    const names = pools.items.map((pool) => pool.name);
    tasks.offerPools(names);
    submission.showFor(who, names);
    ahead.refresh(tasks.rows.some((row) => !FINAL.includes(row.state)), tasks.rows, dialog.task);
    hour.refresh();
  } catch (error) {
    if (error.status === 401 && me !== null) leave(error.message);
    throw error;
  }
}

/** A document that is asked for beside all else. Only the first refusal says why: with it, the browser forgets the session. */
async function askBeside(path, milliseconds) {
  try {
    return await ask(path, milliseconds);
  } catch (error) {
    if (error.status === 401 && me !== null) leave(error.message);
    throw error;
  }
}

/** What is asked for beside all else: what is to come of pools and tasks, and how long owners have waited, as far as the reader may know. */
function showAhead() {
  const { forecast } = ahead;
  const names = [...new Set([...Object.keys(forecast?.pools ?? {}), ...Object.keys(hour.document?.pools ?? {})])].sort();
  for (const name of names) if (!around.has(name)) around.set(name, poolPart(name));
  for (const part of around.values()) part.show(forecast, hour.document);
  setChildren($("pools"), [...around.keys()].sort(), () => [...around.keys()].sort().map((name) => around.get(name).element));
  $("pools-card").hidden = [...around.values()].every((part) => part.element.hidden);
  const note = ahead.note();
  setChildren($("ahead-note"), note.map((part) => part.dateTime ?? part), () => note);
  tasks.showComing();
  dialog.redraw();
}

function poolPart(name) {
  const [course, past] = [new CoursePart(name), new HourPart(name)];
  const element = el("div", { class: "pool plain" }, el("div", { class: "pool-head" }, el("strong", {}, name)), el("div", { class: "pool-around" }, course.element, past.element));
  return { element, show: (forecast, view) => {
    course.show(forecast);
    past.show(view);
    element.hidden = course.element.hidden && past.element.hidden;
  } };
}

/** Those that the caller may read. */
async function loadSchedules() {
  if (performance.now() - schedulesAt < SCHEDULES_MILLISECONDS) return;
  schedulesAt = performance.now();
  const { items } = await ask("/v1/schedules");
  showSchedules(items.slice(0, SCHEDULES).map(scheduleOf), items.length);
}

function showAge() {
  if (me === null) return;
  const cut = live.problem !== "" || live.age >= STALE_SECONDS;
  const freshness = live.age >= DEAD_SECONDS ? "dead" : cut || !hears ? "stale" : "fresh";
  document.body.dataset.freshness = freshness;
  $("connection").dataset.state = freshness;
  const since = live.answeredAt === null ? "" : ` since ${clock(live.answeredAt / 1000)}`;
  const words = cut ? `No answer${since}: ${live.problem || "it is slow."}` : hears ? (live.hears ? "Live" : "Polling every few seconds") : "The gateway does not hear from etcd: this may be old";
  setText($("connection-text"), words);
  dialog.showAge(cut && live.answeredAt !== null ? live.answeredAt / 1000 : null);
}

setInterval(showAge, 1000);

// -- the address -----------------------------------------------------------------------------------------------------

addEventListener("hashchange", () => { if (me !== null) address.read(); });
begin();
