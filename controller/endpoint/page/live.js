// The connection to the replica. It asks after each event and every few seconds, and knows how old the last answer is.

const QUIET_MILLISECONDS = 5000; // without an event, things such as lags still change
const BUSY_MILLISECONDS = 1000; // with many events, no more often than this
const RETRY_MILLISECONDS = 2000;
const ANSWER_MILLISECONDS = 10000;

/** What the JSON text says. Its objects have no prototype: a task may be called `constructor`. */
export function parsed(text) {
  return JSON.parse(text, (_, value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? Object.setPrototypeOf(value, null) : value));
}

/** The JSON document at `path`. Throws Error with the problem's words. */
export async function ask(path, milliseconds = ANSWER_MILLISECONDS) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(milliseconds), headers: { Accept: "application/json" } });
  const document = parsed(await answer.text());
  if (!answer.ok) {
    const error = new Error(document.detail ?? `HTTP ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return document;
}

export class Live {
  #refresh; #onEvent; #onState; #source = null; #timer = null; #asking = false; #again = false; #asked = 0; #answered = null; #problem = ""; #stopped = false;

  /** Whether events arrive. Without them, the page still asks every few seconds. */
  get hears() { return this.#source?.readyState === EventSource.OPEN; }

  /** Seconds since the last answer, Infinity if there was none. One clock may stop while the machine sleeps, and the other may be set, so the larger counts. */
  get age() {
    if (this.#answered === null) return Infinity;
    return Math.max(performance.now() - this.#answered.counted, Date.now() - this.#answered.at) / 1000;
  }

  /** When the last answer came (milliseconds since the epoch), null when there was none. */
  get answeredAt() { return this.#answered?.at ?? null; }

  /** Why the last request has no answer, in words for people; "" if it has one. */
  get problem() { return this.#problem; }

  /** `refresh` (a promise) asks for everything that is shown. `onEvent(name, data)` receives events. `onState()` is called after each answer or failure. */
  constructor(refresh, onEvent, onState) {
    this.#refresh = refresh;
    this.#onEvent = onEvent;
    this.#onState = onState;
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.#pause(); else if (!this.#stopped) this.start(); });
  }

  start() {
    this.#stopped = false;
    this.#listen();
    this.soon();
  }

  /** Ask no more, until it is started again. */
  stop() {
    this.#stopped = true;
    this.#pause();
  }

  /** Ask again soon: at once if the last request was long enough ago. */
  soon() {
    if (this.#asking) { this.#again = true; return; }
    this.#plan(Math.max(0, this.#asked + BUSY_MILLISECONDS - performance.now()));
  }

  #plan(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), milliseconds);
  }

  async #ask() {
    this.#asking = true;
    this.#again = false;
    this.#asked = performance.now();
    let pause = QUIET_MILLISECONDS;
    try {
      await this.#refresh();
      this.#answered = { at: Date.now(), counted: performance.now() };
      this.#problem = "";
    } catch (error) {
      pause = RETRY_MILLISECONDS;
      this.#problem = error.name === "TypeError" || error.name === "TimeoutError" ? "It may be restarting, or the network is cut." : error.message;
    }
    try {
      this.#onState();
    } finally { // whatever cannot be shown: it is asked again
      this.#asking = false;
      if (!document.hidden && !this.#stopped) this.#plan(this.#again ? BUSY_MILLISECONDS : pause);
    }
  }

  #listen() {
    if (this.#source !== null) return;
    const source = (this.#source = new EventSource("/v1/events"));
    for (const name of ["submitted", "status", "removed", "quarantined", "array", "leader"]) {
      source.addEventListener(name, (event) => {
        this.#onEvent(name, parsed(event.data));
        this.soon();
      });
    }
    source.addEventListener("gap", () => this.#reopen(source));
    source.onopen = () => this.soon(); // reads the changes that were missed in between
    source.onerror = () => {
      this.soon();
      if (source.readyState === EventSource.CLOSED) this.#reopen(source); // refused, as after a restart: connect again
    };
  }

  #reopen(source) {
    source.close();
    if (this.#source !== source) return;
    this.#source = null;
    this.soon();
    setTimeout(() => { if (!document.hidden && !this.#stopped) this.#listen(); }, RETRY_MILLISECONDS);
  }

  #pause() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }
}
