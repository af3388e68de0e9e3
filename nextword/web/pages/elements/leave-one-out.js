// Leave-one-out: the probability of the token after the text without each of its words, one at a time.
import { Component, chip, count, el, exact, figures, percent, picture, svg, visible } from "./parts.js";

const STRONGEST = 6; // words: those whose absence changes the probability most

export class NwLeaveOneOut extends Component {
  describe({ token, before, rows, earlier }) {
    if (!rows.length) return [el("p", {}, "The text is too short to leave a word out.")];
    const order = sorted(rows);
    const widest = Math.max(before, ...rows.map((row) => row.after));
    const line = (row) => {
      const label = `${visible(row.words)}: ${percent(before)} with it, ${percent(row.after)} without`;
      const bars = picture(20, label, svg("rect", { class: "nw-rest-fill", y: 1, width: (998 * before) / widest, height: 8 }), svg("rect", { class: row.after < before ? "nw-for-fill" : "nw-against-fill", y: 11, width: (998 * row.after) / widest, height: 8 }));
      return el("li", { "data-position": row.from }, el("span", {}, "without ", chip(row.words)), el("span", { class: "nw-bar" }, bars), el("span", { class: "nw-number", title: `${exact(before)} → ${exact(row.after)}` }, `${percent(before)} → `, el("b", {}, percent(row.after))));
    };
    const others = rows.length - Math.min(STRONGEST, rows.length);
    const rest = [others ? `${count(others)} other ${others === 1 ? "word" : "words"} changed it less.` : "", earlier ? `${count(earlier)} earlier ${earlier === 1 ? "word was" : "words were"} left alone.` : ""].filter(Boolean).join(" ");
    return [
      el("p", {}, "The model read the text again, each time without one of its words. How likely would ", chip(token.token, "nw-chosen"), " have been? Grey is with the word, the colour without it: green where the word helped, orange where it stood in the way."),
      el("ol", { class: "nw-rows" }, ...order.slice(0, STRONGEST).map(line)),
      rest ? el("p", { class: "nw-muted" }, rest) : null,
      this.exactly("Exact numbers: every word", figures(["left out", "from place", "probability", "change of log p"], rows.map((row) => [chip(row.words), row.from, row.after, row.change]))),
    ];
  }
}

// Rows by how much the word's absence multiplies or divides the probability, the most first.
export function sorted(rows) {
  return [...rows].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
}

customElements.define("nw-leave-one-out", NwLeaveOneOut);
