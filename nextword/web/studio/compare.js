// Two texts, or two models, side by side: both odds of each token, and what lies between them.
import { Component, chip, el, exact, percent, picture, svg, visible } from "./components/parts.js";
import { ask, calm, soon } from "./ask.js";

const $ = (selector) => document.querySelector(selector);
const SIDES = ["left", "right"];

export class StudioCompare extends Component {
  describe({ rows, rest, distance, left, right }) {
    const told = [...rows, { ...rest, other: true }];
    const widest = Math.max(...told.flatMap((row) => SIDES.map((side) => row[side] ?? 0)));
    const furthest = Math.max(...told.map(change).map(Math.abs), 1e-9);
    const line = (row) => {
      const name = row.other ? "all others" : visible(row.token);
      const shares = SIDES.map((side) => (row[side] === null ? "–" : percent(row[side])));
      const moved = change(row);
      const bars = picture(20, `${name}: ${shares[0]} after A, ${shares[1]} after B`, bar("nw-rest-fill", 1, row.left, widest), bar("nw-word-fill", 11, row.right, widest));
      const length = (490 * Math.abs(moved)) / furthest;
      const arrow = picture(20, `difference ${points(moved)}`, svg("path", { class: "nw-zero", d: "M500 0v20" }), svg("rect", { class: moved < 0 ? "nw-against-fill" : "nw-for-fill", x: moved < 0 ? 500 - length : 500, y: 4, width: length, height: 12 }));
      return el("li", {}, row.other ? el("span", {}, "all others") : el("span", {}, chip(row.token)), el("span", { class: "nw-bar" }, bars), el("span", { class: "nw-number", title: SIDES.map((side) => exact(row[side])).join(" → ") }, `${shares[0]} → `, el("b", {}, shares[1])), el("span", { class: "nw-bar change" }, arrow), el("span", { class: "nw-number points" }, points(moved)));
    };
    const same = left.favourite.token === right.favourite.token;
    return [
      el("p", {}, "After A the model's favourite is ", chip(left.favourite.token), ` with ${percent(left.favourite.probability)}; after B it is ${same ? "the same, " : ""}`, chip(right.favourite.token, "nw-chosen"), ` with ${percent(right.favourite.probability)}. ${percent(1 - distance)} of the odds are shared, ${percent(distance)} lie elsewhere.`),
      el("p", { class: "muted" }, "Grey is A, blue is B. The bar on the right is the difference: to the right where B makes the word more likely, to the left where less.", rows.some((row) => row.left === null || row.right === null) ? " – stands for a token that this model does not have." : ""),
      el("ol", { class: "nw-rows compare-rows" }, ...told.map(line)),
      this.exactly("Exact numbers", el("p", {}, `Total variation ${exact(distance)}. Entropy: A ${exact(left.entropy)} bits, B ${exact(right.entropy)} bits. Models: A ${left.model}, B ${right.model}. Temperature and filters are not applied here.`)),
    ];
  }
}

function bar(kind, y, share, widest) {
  return svg("rect", { class: kind, y, width: (998 * (share ?? 0)) / widest, height: 8 });
}

function change(row) {
  return (row.right ?? 0) - (row.left ?? 0);
}

function points(change) {
  const value = 100 * change;
  return `${value < 0 ? "−" : "+"}${Math.abs(value) >= 10 ? Math.abs(value).toFixed(0) : Math.abs(value).toFixed(1)}`;
}

customElements.define("studio-compare", StudioCompare);

// The view: opened when it is first looked at. `guard` shows what goes wrong.
export function openCompare({ models }, guard) {
  const side = (name) => ({ prompt: $(`#text-${name}`).value, model: models.length > 1 ? $(`#model-${name}`).value : null });
  const draw = soon(() => guard("compare", async () => ($("studio-compare").data = await ask("compare", { left: side("left"), right: side("right") }))));
  for (const name of SIDES) {
    const select = $(`#model-${name}`);
    select.replaceChildren(...models.map((model) => el("option", {}, model)));
    select.selectedIndex = name === "right" ? Math.min(1, models.length - 1) : 0;
    select.parentElement.hidden = models.length < 2;
    select.addEventListener("change", draw);
    $(`#text-${name}`).addEventListener("input", calm(150, draw));
  }
  if (models.length > 1) $("#text-right").value = $("#text-left").value;
  $("#swap").addEventListener("click", () => {
    for (const kind of ["text", "model"]) [$(`#${kind}-left`).value, $(`#${kind}-right`).value] = [$(`#${kind}-right`).value, $(`#${kind}-left`).value];
    draw();
  });
  draw();
}
