// The lines of an output that are shown: the last ones, of bounded number and size, and what is found in them.

import { el } from "/static/format.js";

const MOST_LINES = 10000;
const MOST_CHARACTERS = 2000000;
const LONGEST = 4000; // a longer line is shown as several
const COLOURS = /\x1b\[[0-9;?]*[ -/]*[@-~]/g; // what terminals make colours of

export class Lines {
  #pre; #pattern = null; #characters = 0; #open = null; #dropped = 0;

  /** Shows lines in `pre`. Texts never become markup. */
  constructor(pre) { this.#pre = pre; }

  /** How many older lines are no longer shown. */
  get dropped() { return this.#dropped; }

  get isEmpty() { return this.#pre.firstChild === null; }

  /** All places where the text that is looked for stands. */
  get hits() { return this.#pre.getElementsByTagName("mark"); }

  clear() {
    this.#pre.replaceChildren();
    this.#open = null;
    this.#characters = this.#dropped = 0;
  }

  /** More of the output. Its last line may still grow. */
  add(text) {
    const wasAtEnd = this.#pre.scrollTop + this.#pre.clientHeight >= this.#pre.scrollHeight - 4;
    const parts = text.split("\n");
    parts.forEach((part, index) => this.#grow(part, index < parts.length - 1));
    while (this.#pre.childElementCount > MOST_LINES || (this.#characters > MOST_CHARACTERS && this.#pre.childElementCount > 1)) {
      const first = this.#pre.firstElementChild;
      this.#characters -= first.textContent.length;
      this.#dropped += 1;
      first.remove();
    }
    if (wasAtEnd) this.#pre.scrollTop = this.#pre.scrollHeight;
  }

  /** Mark each place where `words` stands, in any case; "" for none. */
  find(words) {
    this.#pattern = words ? new RegExp(words.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "giu") : null;
    for (const line of this.#pre.children) this.#draw(line, line.textContent);
  }

  #grow(part, isWhole) {
    let rest = part;
    do {
      if (this.#open === null) this.#pre.append((this.#open = el("span", { class: "line" })));
      const line = this.#open;
      const before = line.textContent;
      const taken = rest.slice(0, LONGEST - before.length);
      rest = rest.slice(taken.length);
      const ends = isWhole || rest !== "";
      const text = (before + taken).replace(COLOURS, "").replace(ends ? /\r$/ : /^$/, "") + (ends ? "\n" : "");
      this.#characters += text.length - before.length;
      this.#draw(line, text);
      if (ends) this.#open = null;
    } while (rest !== "");
    if (this.#open?.textContent === "") { this.#open.remove(); this.#open = null; }
  }

  #draw(line, text) {
    const parts = [];
    let at = 0;
    for (const hit of this.#pattern ? text.matchAll(this.#pattern) : []) {
      parts.push(text.slice(at, hit.index), el("mark", {}, hit[0]));
      at = hit.index + hit[0].length;
    }
    line.replaceChildren(...parts.filter((part) => part !== ""), text.slice(at));
    line.classList.toggle("hit", at > 0);
  }
}
