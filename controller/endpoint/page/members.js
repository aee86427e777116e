// The members of an array as a grid: one cell for each, or for some neighbours if there are very many.

import { ask } from "/static/live.js";
import { count, el, plural } from "/static/format.js";

const MOST_CELLS = 12000;
const SIZES = [[400, 16], [2500, 11], [MOST_CELLS, 7]]; // up to so many cells: the edge of one in pixels, with the gap
/** The states, the one that matters most first: a cell of several members shows it. Each has a shape of its own, so that none is told by its colour alone. */
const STATES = ["Failed", "Unreadable", "WaitingRetry", "Running", "Pending", "Cancelled", "Waiting", "Succeeded"];
const TONES = { Waiting: "created", Unreadable: "failed", WaitingRetry: "retry" };
const ENDED = ["Succeeded", "Failed", "Cancelled"];

/** The states of an array's members, as runs of neighbours; null if it is gone. */
export async function membersOf(id) {
  try {
    return await ask(`/v1/tasks/${encodeURIComponent(id)}/members/runs`);
  } catch (error) {
    if (error.status !== 404 && error.status !== 409) throw error;
    return null;
  }
}

/** How many members are in each state. */
export function countsOf(runs) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const [number, state] of runs) counts[state] += number;
  return counts;
}

/** The cells: for each, the first member with its state, and the state. `each` members are in one cell. */
export function cellsOf(runs, each) {
  const cells = [];
  let index = 0;
  for (const [number, state] of runs) {
    for (let at = index; at < index + number; at = (Math.floor(at / each) + 1) * each) {
      const cell = Math.floor(at / each);
      if (cell === cells.length) cells.push({ index: at, state });
      else if (STATES.indexOf(state) < STATES.indexOf(cells[cell].state)) cells[cell] = { index: at, state };
    }
    index += number;
  }
  return cells;
}

/** The section of an array's details that shows its members. `kept` is the section before, whose place is kept. */
export class MemberGrid {
  #found; #cells; #each; #edge; #columns = 1; #at = -1; #canvas; #told; #element;

  constructor(found, kept = null) {
    this.#found = found;
    this.#each = Math.ceil(found.size / MOST_CELLS);
    this.#cells = cellsOf(found.runs, this.#each);
    this.#edge = SIZES.find(([most]) => this.#cells.length <= most)[1];
    if (kept && kept.#found.id === found.id && kept.#at < this.#cells.length) this.#at = kept.#at;
    this.#element = this.#section();
    const scrolled = kept && kept.#found.id === found.id ? kept.#canvas.parentElement.scrollTop : 0;
    let isNew = true;
    new ResizeObserver(() => {
      this.#draw();
      if (isNew) this.#canvas.parentElement.scrollTop = scrolled;
      isNew = false;
    }).observe(this.#canvas.parentElement);
  }

  get element() { return this.#element; }

  /** Whether the grid has the focus. */
  get isFocused() { return document.activeElement === this.#canvas; }

  focus() { this.#canvas.focus({ preventScroll: true }); }

  #section() {
    const { found, counts } = { found: this.#found, counts: countsOf(this.#found.runs) };
    const ended = ENDED.reduce((sum, state) => sum + counts[state], 0);
    const present = STATES.filter((state) => counts[state]);
    const words = present.map((state) => `${count(counts[state])} ${state}`).join(", ");
    this.#canvas = el("canvas", { class: "members-grid", tabIndex: 0, role: "img", "aria-label": `Members of ${found.id}: ${words}. Arrow keys choose one, and Enter shows it.` });
    this.#canvas.addEventListener("click", (event) => this.#open(this.#under(event)));
    this.#canvas.addEventListener("mousemove", (event) => { this.#canvas.title = this.#words(this.#under(event)); });
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("focus", () => this.#move(Math.max(0, this.#at)));
    this.#canvas.addEventListener("blur", () => this.#draw());
    this.#told = el("p", { class: "muted members-told", role: "status" });
    const share = (state) => {
      const part = el("i", { "data-tone": state });
      part.style.flexGrow = counts[state];
      return part;
    };
    return el("section", { class: "members" }, el("h3", {}, "Members"),
      el("p", { class: "members-progress" }, `${count(ended)} of ${plural(found.size, "member")} ended`, counts.Failed ? `, ${count(counts.Failed)} failed` : "", counts.Waiting ? `, ${count(counts.Waiting)} to begin` : "", "."),
      el("div", { class: "shares", "aria-hidden": "true" }, ...present.toReversed().map(share)),
      el("div", { class: "members-frame" }, this.#canvas),
      el("ul", { class: "members-legend" }, ...present.map((state) => this.#legend(state, counts[state]))),
      this.#told,
      this.#each > 1 ? el("p", { class: "muted" }, `A cell is ${count(this.#each)} neighbours. It shows the state of one of them that matters most, in the order of this list.`) : "",
      found.truncated ? el("p", { class: "muted" }, `Only the first ${count(this.#found.runs.reduce((sum, [number]) => sum + number, 0))} are shown: their states differ too often.`) : "");
  }

  /** A state with its mark and its number. It chooses the next member in this state. */
  #legend(state, number) {
    const mark = el("canvas", { width: 14, height: 14, "aria-hidden": "true" });
    const button = el("button", { class: "link", type: "button", "aria-label": `${count(number)} ${state}: choose the next one` }, state);
    button.addEventListener("click", () => this.#next(state));
    requestAnimationFrame(() => shape(mark.getContext("2d"), state, 0, 0, 14, this.#colours()));
    return el("li", {}, mark, button, ` ${count(number)}`);
  }

  #colours() {
    const style = getComputedStyle(this.#element);
    const colours = { ground: style.getPropertyValue("--card"), text: style.getPropertyValue("--text") };
    for (const state of STATES) colours[state] = style.getPropertyValue(`--${TONES[state] ?? state.toLowerCase()}`);
    return colours;
  }

  #draw() {
    const canvas = this.#canvas, width = canvas.parentElement?.clientWidth ?? 0;
    if (!width) return;
    this.#columns = Math.max(1, Math.floor(width / this.#edge));
    const rows = Math.ceil(this.#cells.length / this.#columns), scale = window.devicePixelRatio || 1;
    canvas.style.width = `${this.#columns * this.#edge}px`;
    canvas.style.height = `${rows * this.#edge}px`;
    canvas.width = Math.round(this.#columns * this.#edge * scale);
    canvas.height = Math.round(rows * this.#edge * scale);
    const context = canvas.getContext("2d"), colours = this.#colours();
    context.scale(scale, scale);
    this.#cells.forEach(({ state }, number) => shape(context, state, ...this.#place(number), this.#edge - 1, colours));
    if (this.#at < 0 || !this.isFocused) return;
    const [x, y] = this.#place(this.#at);
    context.strokeStyle = colours.text;
    context.lineWidth = 2;
    context.strokeRect(x, y, this.#edge - 1, this.#edge - 1);
  }

  #place(cell) { return [(cell % this.#columns) * this.#edge, Math.floor(cell / this.#columns) * this.#edge]; }

  /** The cell at the pointer; -1 for none. */
  #under(event) {
    const column = Math.floor(event.offsetX / this.#edge), cell = Math.floor(event.offsetY / this.#edge) * this.#columns + column;
    return column < this.#columns && cell < this.#cells.length ? cell : -1;
  }

  #words(cell) {
    const found = this.#cells[cell];
    return found ? `${this.#name(found)}: ${found.state}` : "";
  }

  #name(cell) { return `${this.#found.id}-i${cell.index}`; }

  #open(cell) {
    const found = this.#cells[cell];
    if (found) location.hash = new URLSearchParams({ task: this.#name(found) });
  }

  #move(cell) {
    this.#at = Math.min(Math.max(0, cell), this.#cells.length - 1);
    this.#told.textContent = this.#words(this.#at);
    this.#draw();
    const frame = this.#canvas.parentElement, top = this.#place(this.#at)[1];
    if (top < frame.scrollTop || top + this.#edge > frame.scrollTop + frame.clientHeight) frame.scrollTop = top - frame.clientHeight / 2;
  }

  #next(state) {
    const after = this.#cells.findIndex((cell, number) => number > this.#at && cell.state === state);
    const cell = after < 0 ? this.#cells.findIndex((each) => each.state === state) : after;
    if (cell < 0) return; // cells of several members hide it
    this.#at = cell;
    this.focus();
    this.#move(cell);
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns, ArrowDown: this.#columns, Home: -Infinity, End: Infinity };
    if (event.key === "Enter") this.#open(this.#at);
    else if (event.key in steps) this.#move(this.#at + steps[event.key]);
    else return;
    event.preventDefault();
  }
}

/** A cell in the shape and the colour of a state. */
function shape(context, state, x, y, size, colours) {
  context.fillStyle = context.strokeStyle = colours[state];
  context.lineWidth = Math.max(1, size / 7);
  const inset = context.lineWidth / 2, half = size / 2;
  if (state === "Waiting") { // an outline
    context.globalAlpha = 0.55;
    context.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
    context.globalAlpha = 1;
    return;
  }
  if (state === "Cancelled") { // a bar
    context.fillRect(x, y + size / 3, size, size / 3);
    return;
  }
  if (state === "Pending" || state === "WaitingRetry") { // the left half, or the lower one, of an outline
    context.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
    if (state === "Pending") context.fillRect(x, y, half, size);
    else context.fillRect(x, y + half, size, half);
    return;
  }
  context.fillRect(x, y, size, size);
  if (state === "Succeeded") return; // all of it
  context.fillStyle = context.strokeStyle = colours.ground;
  if (state === "Running") { // with a hole
    context.fillRect(x + size / 3, y + size / 3, size / 3, size / 3);
    return;
  }
  context.beginPath(); // Failed: crossed out; Unreadable: crossed out once
  context.moveTo(x + 1, y + 1);
  context.lineTo(x + size - 1, y + size - 1);
  if (state === "Failed") {
    context.moveTo(x + size - 1, y + 1);
    context.lineTo(x + 1, y + size - 1);
  }
  context.stroke();
}
