// A task in a dialog: everything that is known of it, and its history as a timeline.

import { ago, count, dateAndTime, el, plural, quantities, setChildren, setText, span, waitsFor } from "/static/format.js";
import { ask } from "/static/live.js";
import { MemberGrid, membersOf } from "/static/members.js";
import { drawing, neighboursOf } from "/static/neighbours.js";
import { FINAL, durations, timeline } from "/static/timeline.js";

const $ = (id) => document.getElementById(id);

export class TaskDialog {
  #id = ""; #opener = null; #kept = null; #grid = null; #read; #own; #ahead; #shown = null;

  /**
   * `closed` is called when the user closes the dialog. `read(id)` asks for a task; `own`, if there is one, is told what is shown, `own.show(task)`, null for
   * none; it shows the output in place of what is kept of it. `ahead` tells what is to come.
   */
  constructor(closed, { read = (id) => ask(`/v1/tasks/${encodeURIComponent(id)}`), own = null, ahead = null } = {}) {
    this.#ahead = ahead;
    this.#read = read;
    this.#own = own;
    $("task-close").addEventListener("click", () => $("task").close());
    $("task").addEventListener("click", (event) => { if (event.target === $("task")) $("task").close(); });
    $("task").addEventListener("close", () => {
      if (!this.#id || $("task").open) return;  // the event comes later: another one may be shown by then
      this.#id = "";
      this.#own?.show(null);
      closed();
      this.#opener?.focus();
    });
  }

  get id() { return this.#id; }

  /** The task that is shown; null for none. */
  get task() { return this.#shown?.task.id === this.#id ? this.#shown.task : null; }

  /** Draw again what has come of it beside. */
  redraw() {
    if (this.task !== null) this.#draw(this.#shown.task, this.#shown.kept, this.#shown.around, this.#shown.members);
  }

  /** Opens, shows another task, or closes ("" ). */
  show(id) {
    if (id === this.#id) return;
    if (!this.#id) this.#opener = document.activeElement;
    this.#id = id;
    this.#shown = null;
    this.#own?.show(null);
    if (!id) { $("task").close(); return; }
    this.#kept = null;
    setText($("task-title"), id);
    setChildren($("task-state"), "", () => []);
    setChildren($("task-body"), "loading", () => [el("p", { class: "muted" }, "Loading …")]);
    if (!$("task").open) $("task").showModal();
  }

  async load() {
    const id = this.#id;
    if (!id) return;
    let task;
    try {
      task = await this.#read(id);
    } catch (error) {
      if (error.status !== 404 && error.status !== 400) throw error; // 400: no task can have this name
      if (id !== this.#id) return;
      this.#shown = null;
      this.#own?.show(null);
      setChildren($("task-body"), "gone", () => [el("p", {}, "There is no such task: it may have been removed after its retention.")]);
      return;
    }
    const kept = this.#own ? null : await this.#keptLog(id, task.kept_log_revision);
    const around = await this.#around(id);
    const members = task.spec?.array ? await membersOf(id) : null;
    if (id !== this.#id) return;
    $("task-state").dataset.tone = task.state ?? "Unreadable";
    setText($("task-state"), task.state ?? "Unreadable");
    this.#shown = { task, kept, around, members };
    this.#draw(task, kept, around, members);
    const output = $("task-body").querySelector("pre");
    if (output && this.#kept !== kept) output.scrollTop = output.scrollHeight; // scroll to the end at first
    this.#kept = kept;
    this.#own?.show(task);
  }

  /** What it waits for, and what waits for it; null for nothing, and for a task that has just been removed. */
  async #around(id) {
    try {
      return await neighboursOf(id);
    } catch (error) {
      if (error.status !== 404) throw error;
      return null;
    }
  }

  /** Draw what differs. A part that was opened stays open, and a task of the drawing that has the focus keeps it. */
  #draw(task, kept, around, members) {
    const body = $("task-body");
    const open = body.querySelector("details")?.open;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.task : undefined;
    const onGrid = this.#grid?.isFocused;
    setChildren(body, [task, kept, around, members, this.#ahead?.madeOf(task)], () => {
      this.#grid = members ? new MemberGrid(members, this.#grid) : null;
      return this.#body(task, kept, around);
    });
    if (onGrid) this.#grid?.focus();
    const words = body.querySelector("details");
    if (open && words) words.open = true;
    if (focused) body.querySelector(`a[data-task="${CSS.escape(focused)}"]`)?.focus();
  }

  /** The shown data is from that time (seconds since the epoch); null: it is current. */
  showAge(at) {
    $("task-age").hidden = at === null;
    setChildren($("task-age"), at === null ? null : Math.round(at / 2), () => (at === null ? [] : ["as it was ", ago(at), " ago"]));
  }

  /** The end of the last attempt's output, if it is kept; read again only after another one was kept. */
  async #keptLog(id, revision) {
    if (!revision) return null;
    if (this.#kept?.revision === revision && !this.#kept.problem) return this.#kept;
    try {
      return { revision, problem: "", ...(await ask(`/v1/tasks/${encodeURIComponent(id)}/log`)) };
    } catch (error) {
      return { revision, problem: error.message };
    }
  }

  #body(task, kept, around) {
    const parts = [];
    if (task.problem) parts.push(el("p", { class: "message", "data-tone": "critical" }, task.problem));
    if (task.lost_since !== null) {
      parts.push(el("p", { class: "message", "data-tone": "critical" },
        el("strong", {}, "Lost, resources held. "), "Nothing proves that its attempt stopped. If you know that it no longer runs: ",
        el("code", {}, `tally confirm-stopped ${task.id}`)));
    } else if (task.on_hold) {
      parts.push(el("p", { class: "message" }, el("strong", {}, "On hold. "), "It is not admitted until it is released: ", el("code", {}, `tally release ${task.id}`)));
    } else if (waitsFor(task)) {
      parts.push(el("p", { class: "message" }, el("strong", {}, "Waits for others. "), `${count(task.waits_for)} of the ${plural(task.after.length, "task")} that it runs after ${task.waits_for === 1 ? "has" : "have"} not ended.${fateOf(task)}`));
    } else if (task.reason || task.message) {
      const tone = task.state === "Failed" ? "critical" : "";
      parts.push(el("p", { class: "message", "data-tone": tone }, el("strong", {}, task.reason), task.reason && task.message ? ": " : "", task.message));
    }
    for (const request of task.requests) {
      parts.push(el("p", { class: "message" }, `A ${request.kind} request${request.by ? ` by ${request.by}` : ""} waits for the leader.`));
    }
    if (task.explanation) parts.push(el("p", { id: "explanation" }, task.explanation));
    const coming = this.#ahead?.partOf(task) ?? null;
    if (coming !== null) parts.push(coming);
    const array = task.member_of || "";
    if (array) parts.push(el("p", {}, "A member of ", el("a", { href: `#${new URLSearchParams({ task: array })}` }, array), "."));
    if (this.#grid) parts.push(this.#grid.element);
    parts.push(this.#fields(task));
    if (around) parts.push(drawing(around));
    if (task.spec?.command || task.spec?.image) {
      parts.push(el("section", {}, el("h3", {}, "Runs"), el("code", {}, [task.spec.image, ...(task.spec.command ?? []), ...(task.spec.args ?? [])].filter(Boolean).join(" "))));
    }
    if (task.attempt && !this.#own) {
      // Only output that a user asked to keep is shown: output may contain secrets, and each engine has its own rights for reading it.
      parts.push(el("section", { class: "output" }, el("h3", {}, "Output"), ...(kept === null ? [] : this.#output(kept)),
        el("p", {}, el("code", {}, `tally logs ${task.id}${FINAL.includes(task.state) ? "" : " -f"}`),
          el("span", { class: "muted" }, " prints it, with your own rights at the engine."))));
    }
    parts.push(el("section", {}, el("h3", {}, "History"), ...durations(task), timeline(task)));
    if (!task.explanation && (task.state === "Created" || task.state === "WaitingRetry")) {
      parts.push(el("p", { class: "muted" }, "Why it waits, with numbers: ", el("code", {}, `tally explain ${task.id}`)));
    }
    return parts;
  }

  #output(kept) {
    if (kept.problem) return [el("p", { class: "muted" }, `A log is kept, but cannot be shown: ${kept.problem}`)];
    const extent = kept.truncated ? "the last 64 KiB" : "all";
    return [
      el("p", { class: "muted" }, `Output of attempt ${kept.attempt}: ${extent}, read `, ago(kept.at), " ago."),
      kept.text ? el("pre", { tabIndex: 0, "aria-label": `Output of attempt ${kept.attempt}`, role: "region" }, kept.text) : el("p", {}, "It printed nothing."),
    ];
  }

  #fields(task) {
    const fields = [
      ["Pool", task.pool], ["Owner", task.owner], ["Submitted by", task.attested_by ?? ""], ["Attempt", task.attempt || ""], ["Priority", task.priority || ""], ["Asks for", quantities(task.resources)],
      ["Holds", quantities(task.hold)], ["Node", task.node], ["Exit code", task.exit_code ?? ""],
      ["Submitted", task.submitted_at ? dateAndTime(task.submitted_at) : ""], ["Started", task.started_at ? dateAndTime(task.started_at) : ""],
      ["Finished", task.finished_at ? dateAndTime(task.finished_at) : ""],
      ["Ran for", task.started_at ? (task.finished_at ? span(task.finished_at - task.started_at) : ago(task.started_at)) : ""],
      ["Next attempt at", task.retry_at ? dateAndTime(task.retry_at) : ""],
      ["Labels", Object.entries(task.labels).map(([name, value]) => `${name}=${value}`).join(", ")],
    ].filter(([, value]) => value !== "");
    return el("dl", { class: "fields" }, ...fields.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value instanceof Node ? value : String(value)))));
  }
}

/** What becomes of a waiting task once all have ended, as some ended otherwise than it wants; "" if none did. */
function fateOf(task) {
  const unmet = task.after.filter((parent) => parent.verdict === "unmet");
  const missed = unmet.filter((parent) => parent.when !== "failed");
  const [first, ...more] = missed.length ? missed : unmet;
  if (!first) return "";
  const are = more.length ? `${first.task} and ${more.length} more are not as it wants` : `${first.task} is ${first.state ?? "not as it wants"}`;
  return ` ${are}, so it will be ${missed.length ? "Failed" : "Cancelled"} once the others have ended.`;
}
