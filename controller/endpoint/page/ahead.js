// What is to come: asked for beside everything else, since an answer may take seconds, and shown with its age.

import { ago, count, el, hourAndMinute, now, plural, setChildren, span } from "/static/format.js";
import { ask } from "/static/live.js";

const PAUSE_MILLISECONDS = 20000; // between two questions
const REFUSED_MILLISECONDS = 300000; // the same where nobody looks ahead
const ANSWER_MILLISECONDS = 60000;
const MOST_NAMES = 100;
const BASES = { array: "of its array", name: "of the same app.kubernetes.io/name", command: "of the same command", pool: "of its pool", "run deadline": "by their run deadlines" };

/** One document that is asked for now and then; `changed` is called when it, or the problem with it, is another one. */
export class Beside {
  #ask; #changed; #asked = -Infinity; #pause = PAUSE_MILLISECONDS; #isAsking = false; #of = null;
  document = null; problem = "";

  constructor(ask, changed) {
    this.#ask = ask;
    this.#changed = changed;
  }

  /** Ask, unless that was done a moment ago. What `of` names, if it is another thing than last time, is asked for at once. */
  async refresh(of = "") {
    const isOther = of !== this.#of;
    if (document.hidden || (this.#isAsking && !isOther) || (!isOther && performance.now() - this.#asked < this.#pause)) return;
    if (isOther) this.document = null;
    this.#of = of;
    this.#isAsking = true;
    this.#asked = performance.now();
    let found = null;
    let problem = "";
    try {
      found = await this.#ask(of);
    } catch (error) {
      problem = error.status === 404 ? "nobody looks ahead here" : error.name === "TimeoutError" ? "it takes too long" : error.message;
      this.#pause = error.status === 404 || error.status === 501 ? REFUSED_MILLISECONDS : PAUSE_MILLISECONDS;
    }
    if (of !== this.#of) return; // something else is wanted by then
    this.#isAsking = false;
    if (found !== null) { this.document = found; this.#pause = PAUSE_MILLISECONDS; }
    this.problem = problem;
    this.#changed();
  }
}

export class Ahead {
  #whole; #task; #changed; #names = []; #more;

  /**
   * `changed` is called when something else is known. `more` are parameters of each question: a replica that leads would send the page to another one. `read`
   * asks for a document.
   */
  constructor(changed, more = { here: "true" }, read = ask) {
    this.#changed = changed;
    this.#more = more;
    this.#whole = new Beside(() => read(`/v1/forecast?${this.#parameters()}`, ANSWER_MILLISECONDS), () => this.#changed());
    this.#task = new Beside((id) => read(`/v1/tasks/${encodeURIComponent(id)}/forecast?${new URLSearchParams(this.#more)}`, ANSWER_MILLISECONDS), () => this.#changed());
  }

  /** The last forecast of all; null if there is none. */
  get forecast() { return this.#whole.document; }

  /** Look ahead, beside everything else, if there is anything to see. `rows` are the tasks that are listed, and `task` the one that is open, or null. */
  refresh(isBusy, rows, task) {
    this.#names = rows.filter((row) => ["Created", "WaitingRetry"].includes(row.state)).map((row) => row.id).slice(0, MOST_NAMES);
    if (isBusy) this.#whole.refresh();
    if (task !== null && ["Created", "WaitingRetry", "Pending", "Running"].includes(task.state)) this.#task.refresh(task.id);
  }

  #parameters() {
    const parameters = new URLSearchParams(this.#more);
    if (this.#names.length) parameters.set("tasks", this.#names.join(","));
    return parameters;
  }

  /** What a row of the list says of a waiting task; "" for nothing. */
  wordsOf(id) {
    const coming = this.#whole.document?.tasks[id];
    if (!coming || coming.has_begun || coming.begins_at === null || coming.begins_at <= now()) return "";
    const isBound = "run deadline" in (coming.before ?? {});
    return `begins ${isBound ? "by" : "about"} ${hourAndMinute(coming.begins_at)}${isBound ? " at the latest" : ""}`;
  }

  /** A line that tells how old the forecast is and how good, or why there is none; "" where nothing is to be said. */
  note() {
    const found = this.#whole.document;
    const problem = this.#whole.problem;
    if (found === null) return problem && problem !== "nobody looks ahead here" ? [`No look ahead: ${problem}`] : [];
    const error = found.error;
    const quality = error ? ` · durations were off by ${percent(error.median)}, in one of ten by ${percent(error.p90)}${error.of ? `, of ${plural(error.of, "run")}` : ""}` : "";
    const starts = found.starts ? ` · told beginnings by ${percent(found.starts.median)} of the wait, in one of ten by ${percent(found.starts.p90)}` : "";
    return ["Looked ahead ", ago(found.now), " ago", quality, starts, problem ? ` · not since: ${problem}` : ""];
  }

  /** The part of a task's details that tells when it begins and ends; null: nothing is to come of it. */
  partOf(task) {
    if (!["Created", "WaitingRetry", "Pending", "Running"].includes(task.state)) return null;
    const found = this.#task.document;
    if (found === null) {
      const problem = this.#task.problem;
      return problem === "nobody looks ahead here" ? null : el("section", { class: "coming-part" }, el("h3", {}, "Expected"), el("p", { class: "muted" }, problem ? `Not known: ${problem}` : "Looking ahead …"));
    }
    const coming = found.tasks[task.id];
    if (coming === undefined) return el("section", { class: "coming-part" }, el("h3", {}, "Expected, as of ", ago(found.now), " ago"), el("p", { class: "muted" }, found.text)); // a member that waits with its array
    const times = [];
    if (!coming.has_begun && coming.begins_at !== null) times.push(["To begin", coming.begins_at]);
    if (coming.ends_at !== null) times.push(["To end", coming.ends_at]);
    const isKnown = times.length === (coming.has_begun ? 1 : 2);
    return el("section", { class: "coming-part" }, el("h3", {}, "Expected, as of ", ago(found.now), " ago"),
      times.length ? el("p", { class: "expected" }, ...times.map(([what, at]) => el("span", {}, `${what} `, el("strong", {}, hourAndMinute(at)), at > now() ? `, in ${span(at - now())}` : ""))) : "",
      el("p", { class: "muted" }, isKnown ? restsOn(coming, found.errors?.[coming.by] ?? found.error, found.starts) : found.text));
  }

  /** What `partOf` is made of. */
  madeOf() { return [this.#task.document && [this.#task.document.now, this.#task.document.text], this.#task.problem]; }
}

/** What the times of a task rest on. */
function restsOn(coming, error, starts) {
  const parts = [];
  const before = Object.entries(coming.before);
  if (!coming.has_begun && before.length) {
    parts.push(`Before it begins, ${plural(before.reduce((sum, [, number]) => sum + number, 0), "attempt")} will have ended: ${before.map(([basis, number]) => `${count(number)} ${basis === "run deadline" ? BASES[basis] : `as others ${BASES[basis] ?? basis}`}`).join(", ")}.`);
  }
  parts.push(coming.by === "run deadline" ? "It ends by its run deadline at the latest." : `It takes as long as ${plural(coming.runs, "run")} ${BASES[coming.by] ?? coming.by} did.`);
  if (error) parts.push(`Durations were off by ${percent(error.median)}, in one of ten by ${percent(error.p90)}${error.of ? `, of ${plural(error.of, "run")}` : ""}.`);
  if (starts && !coming.has_begun) parts.push(`Beginnings that were told before were off by ${percent(starts.median)} of the wait, in one of ten by ${percent(starts.p90)}.`);
  return parts.join(" ");
}

function percent(share) { return `${count(Math.round(100 * share))}\u00a0%`; }
