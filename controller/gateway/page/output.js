// The output of a task's attempt: shown, followed while it runs, and searched. It is read no faster than it is drawn: what the browser has not taken waits
// at the engine, and neither here nor in the gateway.

import { count, dateAndTime, el, plural, setChildren, setText } from "/static/format.js";
import { ask } from "/static/live.js";
import { FINAL } from "/static/timeline.js";
import { opened } from "/static/calls.js";
import { Lines } from "/static/lines.js";

const TAIL = 5000; // lines that are read at first
const AGAIN_MILLISECONDS = 2000;
const NOT_YET = [404, 429, 503]; // of an attempt that goes on
const TYPING_MILLISECONDS = 200;
const HIDDEN_MILLISECONDS = 100; // a hidden page draws nothing, but goes on reading
const $ = (id) => document.getElementById(id);

export class Output {
  #task = null; #attempt = 0; #reading = null; #lines; #words = ""; #found = ""; #hit = -1;

  constructor() {
    this.#lines = new Lines($("output-text"));
    $("follow").addEventListener("change", () => ($("follow").checked ? this.#begin() : this.#end("Not followed")));
    $("attempt").addEventListener("change", () => { this.#attempt = Number($("attempt").value); this.#begin(); });
    let typing = null;
    $("find").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#find(), TYPING_MILLISECONDS);
    });
    $("find").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      clearTimeout(typing);
      if (this.#found !== $("find").value) this.#find();
      this.#go(event.shiftKey ? -1 : 1);
    });
    $("find-next").addEventListener("click", () => this.#go(1));
    $("find-previous").addEventListener("click", () => this.#go(-1));
    $("only-hits").addEventListener("change", () => $("output-text").classList.toggle("filtered", $("only-hits").checked));
  }

  /** The output of this task; null: of none. It is read once for each attempt. */
  show(task) {
    const isOther = task === null || task.id !== this.#task?.id || task.create_revision !== this.#task?.create_revision;
    const attempts = task?.attempt ?? 0;
    const isNew = isOther || attempts !== this.#task?.attempt;
    this.#task = task;
    $("output").hidden = attempts === 0;
    if (!isNew) return;
    this.#end("");
    this.#lines.clear();
    if (attempts === 0) return;
    this.#attempt = attempts;
    $("follow").checked = true;
    setChildren($("attempt"), [task.id, attempts], () => Array.from({ length: attempts }, (_, index) => el("option", { value: attempts - index }, String(attempts - index))));
    if (isOther) {
      $("find").value = "";
      this.#find();
    }
    this.#begin();
  }

  #path() { return `/v1/tasks/${encodeURIComponent(this.#task.id)}/logs?attempt=${this.#attempt}`; }

  /** Read it anew, in place of what is shown. */
  async #begin() {
    this.#end("Reading …");
    this.#lines.clear();
    this.#count();
    const reading = (this.#reading = new AbortController());
    const follow = $("follow").checked && !(FINAL.includes(this.#task.state) && this.#attempt === this.#task.attempt) && this.#attempt === this.#task.attempt;
    $("output-all").href = this.#path();
    $("output-all").download = `${this.#task.id}-${this.#attempt}.log`;
    let words = "";
    try {
      words = (await this.#read(`${this.#path()}&tail=${TAIL}${follow ? "&follow=true" : ""}`, reading, follow)) ? "The attempt has ended" : "Read to its present end";
    } catch (error) {
      if (reading.signal.aborted) return;
      // it broke off, as when the gateway restarts; or the attempt has only been admitted, and prints nothing yet
      if (follow && (error.status === undefined || NOT_YET.includes(error.status))) {
        this.#tell(error.status === undefined ? `It broke off: ${error.message} …` : `Not yet: ${error.message} …`);
        setTimeout(() => { if (this.#reading === reading) this.#begin(); }, AGAIN_MILLISECONDS);
        return;
      }
      words = await this.#readKept(error);
    }
    if (this.#reading === reading) this.#tell(words);
  }

  /** Whether the attempt has ended, which is known of one that was followed. Throws Error, with a status if the gateway refused. */
  async #read(path, reading, follow) {
    const answer = await opened(path, reading.signal);
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    if (follow) this.#tell("Following");
    for (;;) {
      const { done, value } = await reader.read();
      if (reading.signal.aborted) throw new Error("It was ended.");
      this.#add(decoder.decode(value, { stream: !done }));
      if (done) break;
      await drawn();
    }
    return follow || (FINAL.includes(this.#task?.state) && this.#attempt === this.#task?.attempt);
  }

  /** What was kept of it, where its engine has it no more. Returns what to say. */
  async #readKept(error) {
    const task = this.#task;
    let kept;
    try {
      kept = await ask(`/v1/tasks/${encodeURIComponent(task.id)}/log`);
    } catch {
      return error.message; // the engine's own words say more
    }
    if (this.#task?.id !== task.id) return "";
    this.#add(kept.text);
    return `Attempt ${kept.attempt}, as it was kept ${dateAndTime(kept.at)}${kept.truncated ? ": its end" : ""}`;
  }

  #add(text) {
    if (text === "") return;
    this.#lines.add(text);
    this.#count();
    this.#tell(this.#words);
  }

  #end(words) {
    this.#reading?.abort();
    this.#reading = null;
    this.#tell(words);
  }

  #tell(words) {
    this.#words = words;
    const empty = words !== "" && words !== "Reading …" && this.#lines.isEmpty ? " (nothing was printed yet)" : "";
    const dropped = this.#lines.dropped ? `; ${plural(this.#lines.dropped, "older line")} not shown` : "";
    setText($("output-state"), words + empty + dropped);
  }

  // -- what is found

  #find() {
    this.#found = $("find").value;
    this.#hit = -1;
    this.#lines.find(this.#found);
    this.#count();
  }

  #count() {
    const hits = this.#lines.hits.length;
    const at = this.#hit >= 0 && hits ? `${count(Math.min(this.#hit, hits - 1) + 1)} of ` : "";
    setText($("hits"), this.#found ? `${at}${plural(hits, "hit")}` : "");
    for (const id of ["find-next", "find-previous"]) $(id).disabled = hits === 0;
  }

  /** To the next hit, or the one before; after the last comes the first. */
  #go(by) {
    const hits = this.#lines.hits;
    if (!hits.length) return;
    for (const current of $("output-text").querySelectorAll("mark.current")) current.classList.remove("current");
    this.#hit = this.#hit < 0 && by < 0 ? hits.length - 1 : (this.#hit + by + hits.length) % hits.length;
    hits[this.#hit].classList.add("current");
    hits[this.#hit].scrollIntoView({ block: "center" });
    this.#count();
  }
}

/** After the next frame: nothing more is read before. */
function drawn() {
  return new Promise((resolve) => (document.hidden ? setTimeout(resolve, HIDDEN_MILLISECONDS) : requestAnimationFrame(resolve)));
}
