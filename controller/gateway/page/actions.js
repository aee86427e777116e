// What can be done with the shown task. Only what its state allows is offered, and only to who may do it; others read which verb they lack.

import { el, setChildren, setText } from "/static/format.js";
import { ask } from "/static/live.js";
import { FINAL } from "/static/timeline.js";
import { change } from "/static/calls.js";

const WAITING = ["Created", "WaitingRetry"];
const ENDED = ["Failed", "Cancelled"];
const $ = (id) => document.getElementById(id);

/** The actions, and of which tasks each may be asked. */
const OFFERS = {
  cancel: (task) => !FINAL.includes(task.state),
  retry: (task) => ENDED.includes(task.state),
  hold: (task) => WAITING.includes(task.state) && !task.on_hold,
  release: (task) => WAITING.includes(task.state) && task.on_hold,
  priority: (task) => WAITING.includes(task.state),
};

export class Actions {
  #task = null; #may = null; #changed;

  /** `changed` is called after something was asked for. */
  constructor(changed) {
    this.#changed = changed;
    for (const name of ["retry", "hold", "release"]) $(`do-${name}`).addEventListener("click", () => this.#ask(name));
    $("do-cancel").addEventListener("click", () => this.#confirm(true));
    $("cancel-no").addEventListener("click", () => this.#confirm(false));
    $("cancel-yes").addEventListener("click", () => { this.#confirm(false); this.#ask("cancel"); });
    $("set-priority").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask("priority", { priority: Number($("priority").value) });
    });
  }

  /** Offers what can be done with this task; null: there is none. */
  show(task) {
    const isOther = task === null || task.id !== this.#task?.id || task.create_revision !== this.#task?.create_revision;
    this.#task = task;
    if (isOther) {
      this.#may = null;
      this.#confirm(false);
      this.#tell("");
      $("reason").value = "";
      if (task !== null) this.#learn(task);
    }
    this.#draw();
  }

  /** Whether its reader may change the task. The gateway decides again when something is asked for. */
  async #learn(task) {
    let may;
    try {
      may = await ask(`/v1/can-i?act=cancel&task=${encodeURIComponent(task.id)}`);
    } catch (error) {
      may = { allowed: false, verb: "", problem: error.message };
    }
    if (this.#task?.id !== task.id) return;
    this.#may = may;
    this.#draw();
  }

  #draw() {
    const task = this.#task;
    const allowed = task !== null && this.#may?.allowed === true;
    for (const [name, fits] of Object.entries(OFFERS)) $(name === "priority" ? "set-priority" : `do-${name}`).hidden = !allowed || !fits(task);
    $("buttons").hidden = !allowed || !Object.values(OFFERS).some((fits) => fits(task));
    if (allowed && document.activeElement !== $("priority")) $("priority").value = String(task.priority);
    if (!allowed || !OFFERS.cancel(task)) this.#confirm(false);
    const refused = task !== null && this.#may !== null && !allowed;
    $("may-not").hidden = !refused;
    setChildren($("may-not"), this.#may, () => (!refused ? [] : this.#may.problem
      ? [`What you may do with this task is not known: ${this.#may.problem}`]
      : ["You may look at this task. To change it, you lack the verb ", el("code", {}, this.#may.verb), ` for owner ${task.owner}.`]));
  }

  #confirm(asks) {
    $("cancel-sure").hidden = !asks;
    $("do-cancel").disabled = asks;
    if (asks) $("cancel-yes").focus();
  }

  /** Ask for this very task: not for another of its name that came since. */
  async #ask(name, more = {}) {
    const task = this.#task;
    this.#tell("Asking …");
    try {
      const body = { reason: $("reason").value.trim(), create_revision: task.create_revision, ...more };
      const result = await change(`/v1/tasks/${encodeURIComponent(task.id)}/${name}`, body);
      if (this.#task?.id === task.id) this.#tell(result.message ? `${result.outcome}: ${result.message}` : `${name}: ${result.outcome}`);
    } catch (error) {
      if (this.#task?.id === task.id) this.#tell(`${name}: ${error.message}`, true);
    }
    this.#changed();
  }

  #tell(words, isProblem = false) {
    setText($("told"), words);
    $("told").className = isProblem ? "problem" : "muted";
  }
}
