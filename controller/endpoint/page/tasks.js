// The list of tasks. The server filters, searches and pages; this script holds one page.

import { MEANINGS, STATES, ago, badge, count, el, plural, prose, setChildren, setText, waitsFor } from "/static/format.js";
import { ask } from "/static/live.js";

const PAGE = 25;
const TYPING_MILLISECONDS = 250;
const NEWEST = "-submitted"; // users mostly look for today's tasks
const TEXTS = ["search", "label", "owner"]; // filters that are typed, of which a page may lack some
const DEFAULT_OWNER = "default";
const FILTERS = ["state", "pool", ...TEXTS];
const BACKWARDS = (sort) => (sort.startsWith("-") ? sort.slice(1) : `-${sort}`);
const $ = (id) => document.getElementById(id);

export class Tasks {
  #states = new Set(); #texts = {}; #path; #facts; #pool = ""; #sort = NEWEST; #tokens = [""]; #next = ""; #changed; #rows = new Map(); #totals = {}; #total = null; #shown = -1;
  #ahead; #items = []; #owners = new Set();

  /**
   * `changed` is called when the user asks for something other than what is shown. `facts` makes what a row shows of an item at `path`. `ahead` tells what is
   * to come.
   */
  constructor(changed, { path = "/v1/tasks", facts = (task) => task, ahead = null } = {}) {
    this.#changed = changed;
    this.#ahead = ahead;
    this.#path = path;
    this.#facts = facts;
    this.#makeChips();
    this.#showSort();
    let typing = null;
    for (const id of TEXTS) {
      $(id)?.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => this.#restart(), TYPING_MILLISECONDS);
      });
    }
    $("sort").addEventListener("change", () => this.#restart());
    for (const button of document.querySelectorAll(".tasks th button")) {
      button.addEventListener("click", () => {
        $("sort").value = this.#sort === button.value ? BACKWARDS(button.value) : button.value;
        this.#restart();
      });
    }
    $("filters").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); this.#restart(); });
    $("pool").addEventListener("change", () => this.#restart());
    $("clear").addEventListener("click", () => { this.#set(new URLSearchParams({ sort: this.#sort })); this.#restart(); $("search").focus(); });
    $("next").addEventListener("click", () => { this.#tokens.push(this.#next); this.#changed(); });
    $("previous").addEventListener("click", () => { this.#tokens.pop(); this.#changed(); });
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches?.("input, select, textarea") || document.querySelector("dialog[open]");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("search").focus(); }
    });
  }

  /** Takes the filters and the order from the address: #state=Failed,Running&pool=x&search=y&label=team=blue&sort=name */
  readAddress(parameters) {
    if (this.address().toString() === this.#onlyOurs(parameters).toString()) return false;
    this.#set(parameters);
    this.#tokens = [""];
    this.#read();
    return true;
  }

  /** The current filters and order, for the address. */
  address() {
    const parameters = this.#parameters();
    if (this.#sort !== NEWEST) parameters.set("sort", this.#sort);
    return parameters;
  }

  /** What is listed. */
  get rows() { return this.#items; }

  async load() {
    const token = this.#tokens.at(-1);
    const query = this.#parameters();
    query.set("sort", this.#sort);
    const wanted = () => `${this.#parameters()}|${this.#sort}|${this.#tokens.at(-1)}`;
    const asked = wanted();
    query.set("limit", PAGE);
    if (token) query.set("continue", token);
    let page;
    try {
      page = await ask(`${this.#path}?${query}`);
    } catch (error) {
      if (error.status !== 400) throw error;
      if (asked === wanted()) this.#complain(error.message);
      return;
    }
    if (asked !== wanted()) return; // the user wants something else by then
    this.#complain("");
    if (!page.items.length && this.#tokens.length > 1) { this.#tokens.pop(); this.#changed(); return; }
    this.#next = page.continue;
    this.#show(page.items.map(this.#facts));
  }

  /** The numbers of all tasks by state, and the pools that can be chosen. */
  summarize(summary) {
    this.#totals = summary.tasks;
    this.#total = summary.total;
    setText($("tasks-total"), plural(summary.total, "task"));
    for (const state of STATES) setText(document.querySelector(`#states [value="${state}"] .count`), count(summary.tasks[state]));
    const shares = STATES.filter((state) => summary.tasks[state]);
    setChildren($("shares"), shares.map((state) => [state, Math.ceil((1000 * summary.tasks[state]) / summary.total)]), () =>
      shares.map((state) => {
        const part = el("i", { "data-tone": state });
        part.style.flexGrow = summary.tasks[state];
        return part;
      }));
    this.offerPools(summary.pools.map((pool) => pool.name));
    this.#offerOwners(summary.pools.flatMap((pool) => pool.owners.map((owner) => owner.name)));
    this.#showRange();
  }

  /** The pools that can be chosen. */
  offerPools(pools) {
    const chosen = $("pool").value;
    if (chosen && !pools.includes(chosen)) pools = [...pools, chosen];
    setChildren($("pool"), pools, () => [el("option", { value: "" }, "all pools"), ...pools.map((name) => el("option", { value: name }, name))]);
    $("pool").value = chosen;
  }

  /** Owners that were seen can be chosen, and the column is there once there is another one than the default. */
  #offerOwners(names) {
    for (const name of names) this.#owners.add(name);
    const isShown = this.#texts.owner || this.#sort.endsWith("owner") || [...this.#owners].some((name) => name !== DEFAULT_OWNER);
    const head = document.querySelector(".tasks th.owner");
    if (isShown && head.hidden) head.hidden = false;
    document.querySelector("table.tasks").classList.toggle("with-owners", !head.hidden);
    if (this.#path === "/v1/tasks") setChildren($("owners"), [...this.#owners].sort(), () => [...this.#owners].sort().map((name) => el("option", { value: name })));
  }

  #makeChips() {
    $("states").append(...STATES.map((state) => {
      const chip = el("button", { type: "button", value: state, title: MEANINGS[state], "aria-pressed": "false", "data-tone": state }, state, el("span", { class: "count" }));
      chip.addEventListener("click", () => {
        if (!this.#states.delete(state)) this.#states.add(state);
        this.#restart();
      });
      return chip;
    }));
  }

  #set(parameters) {
    this.#states = new Set((parameters.get("state") ?? "").split(",").filter((state) => STATES.includes(state)));
    for (const id of TEXTS) if ($(id)) $(id).value = parameters.get(id) ?? "";
    $("sort").value = parameters.get("sort") ?? NEWEST;
    if (!$("sort").value) $("sort").value = NEWEST; // the address names an unknown order
    const pool = parameters.get("pool") ?? "";
    if (pool && ![...$("pool").options].some((option) => option.value === pool)) $("pool").append(el("option", { value: pool }, pool));
    $("pool").value = pool;
  }

  #onlyOurs(parameters) {
    const wanted = new URLSearchParams();
    for (const name of FILTERS) if (parameters.get(name)) wanted.set(name, parameters.get(name));
    if ((parameters.get("sort") ?? NEWEST) !== NEWEST) wanted.set("sort", parameters.get("sort"));
    return wanted;
  }

  #read() {
    for (const id of TEXTS) this.#texts[id] = $(id)?.value.trim() ?? "";
    this.#pool = $("pool").value;
    this.#sort = $("sort").value;
    this.#showSort();
    for (const chip of $("states").children) chip.setAttribute("aria-pressed", String(this.#states.has(chip.value)));
    $("clear").hidden = !this.#parameters().size;
  }

  #restart() {
    this.#read();
    this.#tokens = [""];
    this.#changed();
  }

  #parameters() {
    const query = new URLSearchParams();
    if (this.#states.size) query.set("state", STATES.filter((state) => this.#states.has(state)).join(","));
    if (this.#pool) query.set("pool", this.#pool);
    for (const id of TEXTS) if (this.#texts[id]) query.set(id, this.#texts[id]);
    return query;
  }

  /** Says what is wrong with a filter; the list stays. */
  #complain(problem) {
    setText($("filter-problem"), problem);
    $("filter-problem").hidden = !problem;
    $("label").setAttribute("aria-invalid", String(problem !== ""));
  }

  #showSort() {
    for (const button of document.querySelectorAll(".tasks th button")) {
      const sorted = this.#sort === button.value ? "ascending" : this.#sort === BACKWARDS(button.value) ? "descending" : "none";
      button.closest("th").setAttribute("aria-sort", sorted);
    }
  }

  #show(items) {
    this.#items = items;
    this.#offerOwners(items.map((task) => task.owner));
    const body = $("rows");
    const rows = new Map();
    for (const task of items) {
      const made = JSON.stringify([task.state, task.pool, task.owner, task.attempt, task.reason, task.waits_for, task.message, task.lost_since, task.stopping, task.problem, task.submitted_at]);
      let row = this.#rows.get(task.id);
      if (row?.dataset.made !== made) {
        const fresh = this.#row(task);
        if (row === undefined) row = fresh;
        else [...fresh.children].slice(1).forEach((cell, index) => row.children[index + 1].replaceWith(cell)); // the name keeps its focus
        row.dataset.made = made;
      }
      rows.set(task.id, row);
    }
    for (const [id, row] of this.#rows) if (rows.get(id) !== row) row.remove();
    let at = body.firstElementChild;
    for (const row of rows.values()) {
      if (row === at) at = at.nextElementSibling;
      else body.insertBefore(row, at);
    }
    this.#rows = rows;
    this.#shown = items.length;
    this.showComing();
    $("tasks-empty").hidden = items.length > 0;
    const words = this.#parameters().size ? "No task matches these filters." : "There are no tasks yet. Submit one: `tally submit hello -- echo hello`";
    setChildren($("tasks-empty"), words, () => prose(words));
    this.#showRange();
  }

  /** When the waiting tasks of the list are expected to begin. */
  showComing() {
    for (const [id, row] of this.#rows) {
      const words = this.#ahead?.wordsOf(id) ?? "";
      const line = row.querySelector(".coming");
      setText(line, words);
      line.hidden = !words;
      const hasReason = line.parentElement.dataset.why !== "";
      line.previousElementSibling.hidden = Boolean(words) && !hasReason;
      line.parentElement.classList.toggle("none", !words && !hasReason);
    }
  }

  #row(task) {
    const note = task.lost_since !== null ? el("span", { class: "lost" }, "lost") : task.stopping ? el("span", { class: "muted" }, "stopping") : "";
    const why = task.problem ? "Unreadable record" : waitsFor(task) || task.reason;
    return el("tr", {},
      el("td", {}, el("a", { href: `#task=${encodeURIComponent(task.id)}` }, task.id)),
      el("td", {}, badge(task.state, note)),
      el("td", { class: "pool-of" }, task.pool),
      el("td", { class: "owner" }, task.owner),
      el("td", { class: task.attempt ? "number attempt" : "number attempt none" }, String(task.attempt || "–")),
      el("td", { class: "why", "data-why": why || task.message }, el("div", { class: "reason" }, why || "–", ...(task.message && !task.problem ? [" ", el("span", { class: "muted" }, task.message)] : [])), el("span", { class: "coming", hidden: true })),
      el("td", { class: "number age" }, task.submitted_at ? ago(task.submitted_at) : "–"));
  }

  #showRange() {
    if (this.#shown < 0) return;
    const first = (this.#tokens.length - 1) * PAGE;
    const known = this.#total !== null && !this.#pool && !TEXTS.some((id) => this.#texts[id]);
    const total = this.#states.size ? [...this.#states].reduce((sum, state) => sum + (this.#totals[state] ?? 0), 0) : this.#total;
    const of = known ? ` of ${count(total)}` : this.#next ? ` of more than ${count(first + this.#shown)}` : ` of ${count(first + this.#shown)}`;
    setText($("range"), this.#shown ? `${count(first + 1)}–${count(first + this.#shown)}${of}` : "");
    $("pages").hidden = !this.#shown;
    $("next").disabled = !this.#next;
    $("previous").disabled = this.#tokens.length === 1;
  }
}
