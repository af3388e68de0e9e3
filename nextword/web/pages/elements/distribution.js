// The distribution of the next token: raw as an outline, what sampling leaves as the fill. The rest is a bar, too.
import { Component, chip, count, el, exact, figures, percent, picture, svg, visible } from "./parts.js";

export class NwDistribution extends Component {
  describe({ rows, more, filters, sampling, chosen, reference }) {
    const changed = sampling !== null;
    const widest = Math.max(...[...rows, more].flatMap((row) => [row.probability, row.filtered_probability]));
    const bar = (name, row) => {
      const label = `${name}: ${percent(row.probability)}${changed ? `, after sampling ${percent(row.filtered_probability)}` : ""}`;
      const part = (share, kind) => svg("rect", { class: kind, y: 1, width: (998 * share) / widest, height: 18 });
      return picture(20, label, part(row.filtered_probability, "nw-distribution-fill"), part(row.probability, "nw-outline"));
    };
    const line = (row) => {
      const lost = row.removed_by !== null;
      const shares = [el("span", { title: exact(row.probability) }, percent(row.probability))];
      if (changed) shares.push(" → ", lost ? el("span", {}, `removed by ${row.removed_by.replace("_", "-")}`) : el("b", { title: exact(row.filtered_probability) }, percent(row.filtered_probability)));
      const kind = `${row.chosen ? "nw-chosen" : ""} ${lost ? "nw-removed" : ""}`;
      return el("li", { class: row.chosen ? "nw-this" : null }, el("span", {}, chip(row.token, kind), row.chosen ? el("small", {}, " this one") : null), el("span", { class: "nw-bar" }, bar(visible(row.token), row)), el("span", { class: "nw-number" }, ...shares));
    };
    const others = `and ${count(more.tokens)} more`;
    const last = el("li", {}, el("span", {}, others), el("span", { class: "nw-bar" }, bar(others, more)), el("span", { class: "nw-number" }, percent(more.probability), changed ? ` → ${percent(more.filtered_probability)}` : ""));
    const settings = changed ? Object.entries(sampling).map(([name, value]) => [name, JSON.stringify(value)]) : [];
    return [
      el("p", {}, `The model gives every one of its ${count(rows.length + more.tokens)} tokens a probability to come next. It gave `, chip(chosen.token, "nw-chosen"), ` ${percent(chosen.probability)}`, chosen.rank === 1 ? ", more than any other." : `; ${count(chosen.rank - 1)} ${chosen.rank === 2 ? "token was" : "tokens were"} more probable.`, changed ? " The outline is the model's own probability, the fill what the settings left of it." : ""),
      el("ol", { class: "nw-rows nw-distribution-rows" }, ...rows.map(line), last),
      this.exactly(
        "Exact numbers: logits, filters, precision",
        figures(["token", "id", "logit", "probability", "drawn with", "removed by"], rows.map((row) => [chip(row.token), row.id, row.logit, row.probability, row.filtered_probability, row.removed_by])),
        el("p", {}, `All others: probability ${exact(more.probability)}, drawn with ${exact(more.filtered_probability)}; ${count(more.kept)} of them are left. Both columns sum to 1.`),
        filters.length ? figures(["filter", "tokens removed", "their probability"], filters.map((each) => [each.filter, each.tokens, each.mass])) : null,
        settings.length ? figures(["setting", "value"], settings) : null,
        el("p", {}, `log p of the token where it was drawn: ${exact(reference.logprob_engine)}; by the reference model in float32, which the attribution below is of: ${exact(reference.logprob)}.`),
      ),
    ];
  }
}

customElements.define("nw-distribution", NwDistribution);
