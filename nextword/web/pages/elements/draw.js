// The draw: the filtered probabilities end to end on a line from 0 to 1, and the random number that fell on it.
import { Component, chip, el, exact, figures, picture, svg, visible } from "./parts.js";

export class NwDraw extends Component {
  describe(data) {
    const { how, token, seed, position, number, by_hand, interval, segments } = data;
    if (how !== "drawn") {
      const why = how === "named" ? "Nothing was drawn: you named " : "Nothing was drawn: the most probable token was taken, ";
      return [el("p", {}, why, chip(token.token, "nw-chosen"), ".")];
    }
    const label = `The line from 0 to 1. The number ${number.toFixed(4)} falls on ${visible(token.token)}, which has the part from ${interval[0].toFixed(4)} to ${interval[1].toFixed(4)}.`;
    const pieces = segments.map((each, at) => rectangle(each.interval, each.id === token.id ? "nw-word-fill" : `nw-piece nw-piece-${at % 2}`));
    const line = picture(60, label, rectangle([0, 1], "nw-rest"), ...pieces, svg("path", { class: `nw-needle${by_hand ? " nw-held" : ""}`, d: `M${1000 * number} 0v60` }));
    const names = segments.filter(({ id, interval: [from, to] }) => id === token.id || (to - from > 0.06 && Math.abs((from + to - interval[0] - interval[1]) / 2) > 0.09));
    const labels = names.map((each) => placed(chip(each.token, each.id === token.id ? "nw-chosen" : ""), (each.interval[0] + each.interval[1]) / 2));
    return [
      el("p", {}, `A random number decides. All probabilities are laid end to end on a line from 0 to 1; the number ${number.toFixed(4)}${by_hand ? ", set by hand, lies on " : " fell on "}`, chip(token.token, "nw-chosen"), by_hand ? "." : ". The same seed gives the same number again."),
      el("div", { class: "nw-line" }, el("div", { class: "nw-labels", "aria-hidden": "true" }, ...labels), line, el("div", { class: "nw-ends", "aria-hidden": "true" }, el("span", {}, "0"), el("span", {}, "1"))),
      el("p", { class: "nw-muted" }, `${by_hand ? "Not drawn" : `Seed ${seed}`}, place ${position} of the text. Pale parts of the line belong to tokens that are not shown.`),
      this.exactly(
        "Exact numbers: the line",
        el("p", {}, `The number is ${by_hand ? "set by hand" : `Philox 4x64, key ${seed}, counter ${position}`}: ${exact(number)}. Tokens lie in the order of their ids.`),
        figures(["token", "id", "from", "to"], segments.map((each) => [chip(each.token), each.id, ...each.interval])),
      ),
    ];
  }
}

function rectangle([from, to], kind) {
  return svg("rect", { class: kind, x: 1000 * from, y: 12, width: 1000 * (to - from), height: 36 });
}

function placed(node, at) {
  const label = el("span", {}, node);
  label.style.left = `${100 * at}%`;
  return label;
}
customElements.define("nw-draw", NwDraw);
