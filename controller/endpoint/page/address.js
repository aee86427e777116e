// What is shown is in the page's address: the filters, and the open task. So a link shows the same again.

export class Address {
  #tasks;
  #dialog;
  #changed;

  /** `changed` is called after another address was read. */
  constructor(tasks, dialog, changed) {
    this.#tasks = tasks;
    this.#dialog = dialog;
    this.#changed = changed;
  }

  write() {
    const parameters = this.#tasks.address();
    if (this.#dialog.id) parameters.set("task", this.#dialog.id);
    const hash = parameters.size ? `#${parameters}` : "";
    if (location.hash !== hash) history.replaceState(null, "", `${location.pathname}${location.search}${hash}`);
  }

  read() {
    const parameters = new URLSearchParams(location.hash.slice(1));
    // A link to a task names the task alone: the filters stay as they are.
    if (!parameters.has("task") || parameters.size > 1) this.#tasks.readAddress(parameters);
    this.#dialog.show(parameters.get("task") ?? "");
    this.write();
    this.#changed();
  }
}
