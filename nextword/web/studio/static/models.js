// A list of models to choose from: those of the server, and the runs that it shows, at their last checkpoint or at each.
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
