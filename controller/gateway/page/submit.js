// The form that submits a task, for an owner for whom its reader may.

import { el, setChildren, setText } from "/static/format.js";
import { change } from "/static/calls.js";

const $ = (id) => document.getElementById(id);

export class Submission {
  /** `submitted(id)` is called once the gateway has taken a task in. */
  constructor(submitted) {
    $("submission").addEventListener("submit", async (event) => {
      event.preventDefault();
      $("submit").disabled = true;
      this.#tell("Submitting …");
      try {
        const result = await change("/v1/tasks", this.#spec());
        this.#tell(`${result.id}: ${[result.outcome, result.message].filter(Boolean).join(": ")}`);
        submitted(result.id);
      } catch (error) {
        this.#tell(error.message, true);
      }
      $("submit").disabled = false;
    });
  }

  /** Who reads the page, as /v1/whoami tells. */
  showFor(me, pools) {
    const owners = Object.keys(me.pools);
    const may = me.is_admin || owners.length > 0;
    $("submission").hidden = !may;
    $("may-not-submit").hidden = may;
    setChildren($("owners"), owners, () => owners.map((name) => el("option", { value: name })));
    setChildren($("pools-known"), pools, () => pools.map((name) => el("option", { value: name })));
    if (!$("new-owner").value && owners.length) $("new-owner").value = owners[0];
  }

  #spec() {
    const given = (id) => $(id).value.trim();
    const spec = { id: given("new-id"), owner: given("new-owner"), pool: given("new-pool"), image: given("new-image") };
    for (const name of ["owner", "pool", "image"]) if (!spec[name]) delete spec[name];
    if (given("new-command")) spec.command = ["sh", "-c", $("new-command").value];
    const resources = Object.fromEntries(["cpu", "memory"].map((name) => [name, given(`new-${name}`)]).filter(([, amount]) => amount));
    if (Object.keys(resources).length) spec.resources = resources;
    return spec;
  }

  #tell(words, isProblem = false) {
    setText($("submit-told"), words);
    $("submit-told").className = isProblem ? "problem" : "muted";
  }
}
