// Bigrams: how often one token follows another in the text, by the weights alone, and in the whole model.
import { Component, chip, count, el, exact, figures, percent, signed } from "./parts.js";

export class NwBigrams extends Component {
  describe({ first, rows, vocab, tied }) {
    const text = rows[0].count !== null;
    const share = (value) => el("td", { title: exact(value) }, value === null ? "–" : percent(value));
    const logit = (value, rank) => el("td", { title: `${exact(value)}, place ${count(rank)} of ${count(vocab)}` }, signed(value));
    const often = (row) => el("td", { title: `${count(row.count)} of ${count(row.of)} places` }, row.of ? percent(row.frequency) : "–");
    const line = (row) => el("tr", { class: row.chosen ? "nw-this" : null }, el("th", { scope: "row" }, chip(row.tokens[0], row.chosen ? "nw-chosen" : "")), text ? often(row) : null, logit(row.logit, row.rank), logit(row.lift, row.lift_rank), share(row.probability));
    const title = (words) => el("th", { scope: "col" }, words);
    return [
      el("p", {}, "How often does each come after ", chip(first), "? ", text ? "In the text; by" : "By", " the stored weights of the two tokens alone, as if nothing else had been read; and in the model, which read everything before."),
      el("p", { class: "nw-muted" }, "The weights alone give scores (logits): 0 is the average token, and each whole point more multiplies the odds by 2.7. Most of a score is the same whatever came first; how much more than usual it is after ", chip(first), " stands beside it.", tied ? " This model keeps one table for reading and writing words, so there words that are alike get more than usual; which word follows is for the layers to find." : ""),
      el("div", { class: "nw-scroll", tabindex: "0", role: "region", "aria-label": "pairs" }, el("table", { class: "nw-bigrams" }, el("thead", {}, el("tr", {}, title("next"), text ? title("in the text") : null, title("by the weights alone"), title("more than usual"), title("in the model"))), el("tbody", {}, ...rows.map(line)))),
      this.exactly("Exact numbers: pairs", figures(["token", "id", "pairs in the text", "of", "weights alone: logit above the mean", "place", "more than after the average token", "place", "probability by the weights alone", "in the model"], rows.map((row) => [chip(row.tokens[0]), row.ids[0], row.count, row.of, row.logit, row.rank, row.lift, row.lift_rank, row.weights, row.probability]))),
    ];
  }
}

customElements.define("nw-bigrams", NwBigrams);
