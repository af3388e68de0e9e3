// The logit lens: the most probable token after each layer, and how the explained token fared.
import { Component, chip, el, figures, percent, picture, svg, visible } from "./parts.js";

export class NwLens extends Component {
  describe({ token, rows }) {
    const lines = rows.map((row) => {
      const label = `${visible(token.token)}: ${percent(row.probability_of_token)} here`;
      const bar = picture(10, label, svg("rect", { class: "nw-word-fill", width: 1000 * row.probability_of_token, height: 10 }));
      const found = row.id === token.id ? "nw-chosen" : "";
      return el("li", {}, el("span", { class: "nw-where" }, place(row.layer)), chip(row.token, found), el("span", { class: "nw-bar" }, bar), el("span", { class: "nw-number" }, percent(row.probability_of_token)));
    });
    return [
      el("p", {}, "The model works in layers, one after another. If it had to speak early, it would have said the word on the left; the bar is the probability it gave then to ", chip(token.token, "nw-chosen"), "."),
      el("ol", { class: "nw-rows" }, ...lines),
      el("p", { class: "nw-muted" }, "A view, not a vote: the early layers were not made to be read this way."),
      this.exactly(
        "Exact numbers: the logit lens",
        el("p", {}, "The residual after each layer, through the model's own final norm and unembedding. log p in nats."),
        figures(["after", "most probable", "its log p", "log p of the token"], rows.map((row) => [place(row.layer), chip(row.token), row.logprob, row.logprob_of_token])),
      ),
    ];
  }
}

function place(layer) {
  return layer < 0 ? "at the start" : `layer ${layer}`;
}
customElements.define("nw-lens", NwLens);
