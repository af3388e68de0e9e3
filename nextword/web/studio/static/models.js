// Fill a list of models: those of the server, and the checkpoints of its runs, the last ones or, with `each`, all.
import { count, el } from "./elements/parts.js";

export function fillModels(select, { models, runs, checkpoint, name }, chosen, each) {
  const options = models.map((model) => el("option", {}, model));
  for (const [run, steps] of Object.entries(runs)) {
    const shown = each ? steps : steps.slice(-1);
    const here = !each && checkpoint?.run === run ? [checkpoint.step] : shown;
    options.push(...here.map((step) => el("option", { value: `${run}@${step}` }, `${run}, step ${count(step)}`)));
  }
  select.replaceChildren(...options);
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = name;
}
