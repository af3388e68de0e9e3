// Probabilities of the next token with a head and with it ablated, side by side.
import { Component, chip, count, el, exact, percent, picture, svg, visible } from "./elements/parts.js";

export class StudioBeside extends Component {
  describe({ layer, head, rows, rest, more }) {
    const widest = Math.max(rest.before, rest.after, ...rows.flatMap((row) => [row.before, row.after]));
    const line = (name, node, row) => {
      const label = `${name}: ${percent(row.before)} with the head, ${percent(row.after)} without`;
      const bars = picture(20, label, svg("rect", { class: "nw-rest-fill", y: 1, width: (998 * row.before) / widest, height: 8 }), svg("rect", { class: "nw-word-fill", y: 11, width: (998 * row.after) / widest, height: 8 }));
      return el("li", {}, node, el("span", { class: "nw-bar" }, bars), el("span", { class: "nw-number", title: `${exact(row.before)} → ${exact(row.after)}` }, `${percent(row.before)} → `, el("b", {}, percent(row.after))));
    };
    const best = (side) => rows.reduce((top, row) => (row[side] > top[side] ? row : top));
    const [was, now] = [best("before"), best("after")];
    return [
      el("h3", {}, `Without head ${layer}.${head}`),
      el("p", {}, "The whole model ran again with this head silent (ablated), at every word. ", ...(was.id === now.id ? ["The most probable is still ", chip(now.token, "nw-chosen"), "."] : ["The most probable was ", chip(was.token), " and is now ", chip(now.token, "nw-chosen"), "."]), " Grey is before, blue is after."),
      el("ol", { class: "nw-rows" }, ...rows.map((row) => line(visible(row.token), el("span", {}, chip(row.token)), row)), line("all others", el("span", {}, `and ${count(more)} more`), rest)),
    ];
  }
}

customElements.define("studio-beside", StudioBeside);
