// One word after another: in the text, in the stored weights of the two alone, and in the model with all that it read.
import { Component, chip, count, el, exact, figures, percent } from "./parts.js";

export class NwPairs extends Component {
  describe({ first, rows }) {
    const text = rows[0].count !== null;
    const share = (value) => el("td", { title: exact(value) }, value === null ? "–" : percent(value));
    const often = (row) => el("td", { title: `${count(row.count)} of ${count(row.of)} places` }, row.of ? percent(row.frequency) : "–");
    const line = (row) => el("tr", { class: row.chosen ? "nw-this" : null }, el("th", { scope: "row" }, chip(row.tokens[0], row.chosen ? "nw-chosen" : "")), text ? often(row) : null, share(row.weights), share(row.probability));
    const title = (words) => el("th", { scope: "col" }, words);
    return [
      el("p", {}, "How often does each come after ", chip(first), "? ", text ? "In the text; by" : "By", " the stored weights of the two tokens alone, as if nothing else had been read; and in the model, which read everything before."),
      el("div", { class: "nw-scroll", tabindex: "0", role: "region", "aria-label": "pairs" }, el("table", { class: "nw-pairs" }, el("thead", {}, el("tr", {}, title("next"), text ? title("in the text") : null, title("by the weights alone"), title("in the model"))), el("tbody", {}, ...rows.map(line)))),
      this.exactly("Exact numbers: pairs", figures(["token", "id", "pairs in the text", "of", "weights alone", "its logit above the mean", "in the model"], rows.map((row) => [chip(row.tokens[0]), row.ids[0], row.count, row.of, row.weights, row.logit, row.probability]))),
    ];
  }
}

customElements.define("nw-pairs", NwPairs);
